//! A line of JSON that has to be an object, and its fields by name.

use serde_json::{Map, Value};

/// The fields of a JSON object.
pub(super) struct Object {
    fields: Map<String, Value>,
    /// What stands before a field's name in an error: `documents[2].`
    path: String,
}

impl Object {
    /// Reads a line.
    pub(super) fn parse(line: &str) -> Result<Self, String> {
        match serde_json::from_str(line) {
            Ok(Value::Object(fields)) => Ok(Self { fields, path: String::new() }),
            Ok(other) => Err(format!("expected a JSON object, found {}", kind(&other))),
            Err(error) => {
                let message = error.to_string();
                // The line that serde_json knows of is always the first.
                let message = message.split(" at line ").next().unwrap_or_default();
                Err(format!("is no JSON: {message} (column {})", error.column()))
            }
        }
    }

    /// The fields of an object inside another.
    pub(super) fn nested(fields: Map<String, Value>, path: String) -> Self {
        Self { fields, path }
    }

    /// Whether there is such a field, and it is not null.
    pub(super) fn has(&self, name: &str) -> bool {
        self.fields.get(name).is_some_and(|value| !value.is_null())
    }

    /// A string, if the field is there and not null.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, String> {
        match self.fields.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.expected(name, "a string", &other)),
        }
    }

    /// A string that has to be there.
    pub(super) fn required_text(&mut self, name: &str) -> Result<String, String> {
        self.text(name)?.ok_or_else(|| self.missing(name))
    }

    /// An id under the first of `names` that is there: a string or an integer.
    pub(super) fn id(&mut self, names: &[&str]) -> Result<Option<String>, String> {
        for name in names {
            match self.fields.remove(*name) {
                None | Some(Value::Null) => {}
                Some(Value::String(id)) if id.is_empty() => return Err(format!("{}{name}: is empty", self.path)),
                Some(Value::String(id)) => return Ok(Some(id)),
                Some(Value::Number(number)) if !number.is_f64() => return Ok(Some(number.to_string())),
                Some(other) => return Err(self.expected(name, "a string or an integer", &other)),
            }
        }
        Ok(None)
    }

    /// An array that has to be there.
    pub(super) fn list(&mut self, name: &str) -> Result<Vec<Value>, String> {
        match self.fields.remove(name) {
            None | Some(Value::Null) => Err(self.missing(name)),
            Some(Value::Array(items)) => Ok(items),
            Some(other) => Err(self.expected(name, "an array", &other)),
        }
    }

    /// An array, a string that stands for an array of one, or nothing.
    pub(super) fn list_or_one(&mut self, name: &str) -> Result<Vec<Value>, String> {
        match self.fields.remove(name) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(items)) => Ok(items),
            Some(one @ Value::String(_)) => Ok(vec![one]),
            Some(other) => Err(self.expected(name, "a string or an array", &other)),
        }
    }

    fn missing(&self, name: &str) -> String {
        format!("{}{name}: this field is required", self.path)
    }

    fn expected(&self, name: &str, expected: &str, found: &Value) -> String {
        format!("{}{name}: expected {expected}, found {}", self.path, kind(found))
    }
}

/// Title and text as one, the way BEIR's own baselines join them.
pub(super) fn with_title(title: Option<String>, text: String) -> String {
    match title {
        Some(title) if !title.trim().is_empty() => format!("{} {text}", title.trim()).trim_end().to_owned(),
        _ => text,
    }
}

/// A value in words, with its start.
pub(super) fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the string {:?}", text.chars().take(40).collect::<String>()),
        Value::Array(items) => format!("an array of {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
    }
}
