//! Reads the fields of a JSON object by name, with errors that name the field.

use serde_json::{Map, Value};

/// The fields of a JSON object.
pub(super) struct Object {
    fields: Map<String, Value>,
    /// Prefix of field names in errors, such as `documents[2].`
    path: String,
}

impl Object {
    /// Parses a line of JSONL.
    pub(super) fn parse(line: &str) -> Result<Self, String> {
        match serde_json::from_str(line) {
            Ok(Value::Object(fields)) => Ok(Self { fields, path: String::new() }),
            Ok(other) => Err(format!("expected a JSON object, found {}", describe_value(&other))),
            Err(error) => {
                let message = error.to_string();
                // serde_json sees a single line, so its line number is always 1.
                let message = message.split(" at line ").next().unwrap_or_default();
                Err(format!("is not JSON: {message} (column {})", error.column()))
            }
        }
    }

    /// An object inside another one; `path` is the prefix of its field names in errors.
    pub(super) fn nested(fields: Map<String, Value>, path: String) -> Self {
        Self { fields, path }
    }

    /// Whether the field is present and not null.
    pub(super) fn has(&self, name: &str) -> bool {
        self.fields.get(name).is_some_and(|value| !value.is_null())
    }

    /// Takes a string field; `None` if it is absent or null.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, String> {
        match self.fields.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.expected(name, "a string", &other)),
        }
    }

    /// Takes a required string field.
    pub(super) fn required_text(&mut self, name: &str) -> Result<String, String> {
        self.text(name)?.ok_or_else(|| self.missing(name))
    }

    /// Takes an id, a string or an integer, from the first of `names` that is present.
    pub(super) fn id(&mut self, names: &[&str]) -> Result<Option<String>, String> {
        for name in names {
            match self.fields.remove(*name) {
                None | Some(Value::Null) => {}
                Some(Value::String(id)) if id.is_empty() => {
                    return Err(format!("{}{name}: must not be empty", self.path));
                }
                Some(Value::String(id)) => return Ok(Some(id)),
                Some(Value::Number(number)) if !number.is_f64() => return Ok(Some(number.to_string())),
                Some(other) => return Err(self.expected(name, "a string or an integer", &other)),
            }
        }
        Ok(None)
    }

    /// Takes a required id from the first of `names` that is present.
    pub(super) fn required_id(&mut self, names: &[&str]) -> Result<String, String> {
        self.id(names)?.ok_or_else(|| self.missing(names[0]))
    }

    /// Takes a required number from the first of `names` that is present.
    pub(super) fn required_number(&mut self, names: &[&str]) -> Result<f64, String> {
        let found = names.iter().find_map(|name| Some((name, self.fields.remove(*name)?)));
        let (name, value) = found.ok_or_else(|| self.missing(names[0]))?;
        value.as_f64().ok_or_else(|| self.expected(name, "a number", &value))
    }

    /// Takes a required array field.
    pub(super) fn list(&mut self, name: &str) -> Result<Vec<Value>, String> {
        match self.fields.remove(name) {
            None | Some(Value::Null) => Err(self.missing(name)),
            Some(Value::Array(items)) => Ok(items),
            Some(other) => Err(self.expected(name, "an array", &other)),
        }
    }

    /// Takes an array field. A string counts as an array with one item, an absent field as an empty
    /// array.
    pub(super) fn list_or_string(&mut self, name: &str) -> Result<Vec<Value>, String> {
        match self.fields.remove(name) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(items)) => Ok(items),
            Some(item @ Value::String(_)) => Ok(vec![item]),
            Some(other) => Err(self.expected(name, "a string or an array", &other)),
        }
    }

    fn missing(&self, name: &str) -> String {
        format!("{}{name}: this field is required", self.path)
    }

    fn expected(&self, name: &str, expected: &str, found: &Value) -> String {
        format!("{}{name}: expected {expected}, found {}", self.path, describe_value(found))
    }
}

/// Joins title and text with a space, as BEIR's own baselines do.
pub(super) fn join_title(title: Option<String>, text: String) -> String {
    match title {
        Some(title) if !title.trim().is_empty() => format!("{} {text}", title.trim()).trim_end().to_owned(),
        _ => text,
    }
}

/// Describes a JSON value for an error, with the first 40 characters of a string.
pub(super) fn describe_value(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the string {:?}", text.chars().take(40).collect::<String>()),
        Value::Array(items) => format!("an array of length {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
    }
}
