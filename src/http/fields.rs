//! The fields of a JSON body, taken one by one. A message names the field, what was found and what was expected.
//!
//! `null` is the same as absent, fields that nobody takes are ignored, and a field that is given twice is refused. Names
//! that were asked for are remembered: they are what a field that nobody took may have meant.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::error::ApiError;
use crate::rerank::RerankError;
use crate::spelling::nearest;

/// The longest piece of a caller's value that a message repeats, in characters.
const QUOTED_CHARACTERS: usize = 40;

/// The fields of a body that have not been taken yet.
#[derive(Debug, Default)]
pub struct Fields {
    values: Map<String, Value>,
    repeated: HashSet<String>,
    asked: Vec<String>,
}

impl Fields {
    /// Reads a body.
    ///
    /// # Errors
    /// [`ApiError::MalformedJson`] for what is not JSON (NaN, invalid UTF-8 and nesting deeper than 128 levels are not),
    /// [`RerankError::InvalidField`] for JSON that is not an object.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(ApiError::MalformedJson { problem: "it is empty; expected an object".to_owned() });
        }
        serde_json::from_slice(body).map_err(|error| match serde_json::from_slice::<Value>(body) {
            Ok(other) if error.is_data() => ApiError::Rerank(expected("body", "an object", &other)),
            Ok(_) => ApiError::MalformedJson { problem: error.to_string() },
            Err(error) => ApiError::MalformedJson { problem: error.to_string() },
        })
    }

    /// Takes the field that has one of these names; the first is the one that messages use.
    ///
    /// # Errors
    /// A name that is given twice, or two names with different values.
    pub fn take(&mut self, names: &[&str]) -> Result<Option<Value>, RerankError> {
        let mut taken: Option<(&str, Value)> = None;
        for name in names {
            self.asked.push((*name).to_owned());
            if self.repeated.contains(*name) {
                return Err(RerankError::invalid(*name, "given more than once"));
            }
            let value = match self.values.swap_remove(*name) {
                None | Some(Value::Null) => continue,
                Some(value) => value,
            };
            match &taken {
                Some((first, other)) if *other != value => {
                    let problem = format!("differs from `{first}`, which means the same; give one of them");
                    return Err(RerankError::invalid(*name, problem));
                }
                Some(_) => {}
                None => taken = Some((name, value)),
            }
        }
        Ok(taken.map(|(_, value)| value))
    }

    /// Whether a field of this name has a value that has not been taken.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.values.get(name).is_some_and(|value| !value.is_null())
    }

    /// Whether the body names this field, be it with `null`.
    #[must_use]
    pub fn names(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// Adds a field that came another way. False, and nothing changes, where the body has one of this name.
    pub fn add(&mut self, name: &str, value: Value) -> bool {
        let free = !self.has(name);
        if free {
            self.values.insert(name.to_owned(), value);
        }
        free
    }

    /// Gives a field another name.
    pub fn rename(&mut self, from: &str, to: &str) {
        if let Some(value) = self.values.swap_remove(from) {
            self.values.insert(to.to_owned(), value);
        }
        if self.repeated.remove(from) {
            self.repeated.insert(to.to_owned());
        }
    }

    /// Takes fields that mean nothing here and whose loss changes no ranking.
    pub fn pass_over(&mut self, names: &[&str]) {
        for name in names {
            self.values.swap_remove(*name);
        }
    }

    /// The names that nobody has taken, but for those that are `null`.
    pub fn rest(&self) -> impl Iterator<Item = &str> {
        self.values.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name.as_str())
    }

    /// The name that somebody has asked for and that looks most like this one.
    #[must_use]
    pub fn meant_by(&self, name: &str) -> Option<&str> {
        nearest(name, self.asked.iter().map(String::as_str))
    }

    /// Takes a value that must be there.
    ///
    /// # Errors
    /// Nothing, or `null`.
    pub fn required(&mut self, name: &str) -> Result<Value, RerankError> {
        self.take(&[name])?.ok_or_else(|| missing(name))
    }

    /// Takes a text that has one of these names.
    ///
    /// # Errors
    /// Anything but a string.
    pub fn text_of(&mut self, names: &[&str]) -> Result<Option<String>, RerankError> {
        let name = names.first().copied().unwrap_or_default();
        self.take(names)?.map(|value| text(name, value)).transpose()
    }

    /// Takes a text.
    ///
    /// # Errors
    /// Anything but a string.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, RerankError> {
        self.text_of(&[name])
    }

    /// Takes a list that must be there.
    ///
    /// # Errors
    /// Nothing, or anything but an array.
    pub fn required_list(&mut self, name: &str) -> Result<Vec<Value>, RerankError> {
        self.list(name)?.ok_or_else(|| missing(name))
    }

    /// Takes a list.
    ///
    /// # Errors
    /// Anything but an array.
    pub fn list(&mut self, name: &str) -> Result<Option<Vec<Value>>, RerankError> {
        match self.take(&[name])? {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => Err(expected(name, "an array", &other)),
        }
    }

    /// Takes a yes or no: a boolean, or `"true"` or `"false"` as some clients write it.
    ///
    /// # Errors
    /// Anything else.
    pub fn flag(&mut self, name: &str, default: bool) -> Result<bool, RerankError> {
        self.flag_of(&[name], default)
    }

    /// Takes a yes or no that has one of these names.
    ///
    /// # Errors
    /// Anything else.
    pub fn flag_of(&mut self, names: &[&str], default: bool) -> Result<bool, RerankError> {
        let name = names.first().copied().unwrap_or_default();
        match self.take(names)? {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(Value::String(word)) if word.eq_ignore_ascii_case("true") => Ok(true),
            Some(Value::String(word)) if word.eq_ignore_ascii_case("false") => Ok(false),
            Some(other) => Err(expected(name, "true or false", &other)),
        }
    }

    /// Takes a number of things: 0 or more, whole. `3.0` is 3; what is too large for any list is the largest count.
    ///
    /// # Errors
    /// A negative or fractional number, or no number at all.
    pub fn count(&mut self, names: &[&str]) -> Result<Option<usize>, RerankError> {
        let name = names.first().copied().unwrap_or_default();
        match self.take(names)? {
            None => Ok(None),
            Some(Value::Number(number)) => count(name, &number).map(Some),
            Some(other) => Err(expected(name, "a whole number", &other)),
        }
    }
}

/// The text of one value.
///
/// # Errors
/// Anything but a string.
pub fn text(field: &str, value: Value) -> Result<String, RerankError> {
    match value {
        Value::String(text) => Ok(text),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            Err(expected(field, "a string", &other))
        }
    }
}

/// The value of `field` is not what it should be.
#[must_use]
pub fn expected(field: &str, wanted: &str, found: &Value) -> RerankError {
    let found = match found {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the string {}", quoted(text)),
        Value::Array(items) => format!("an array of {}", counted(items.len(), "item")),
        Value::Object(fields) => format!("an object of {}", counted(fields.len(), "field")),
    };
    RerankError::invalid(field, format!("expected {wanted}, found {found}"))
}

/// A caller's text in a message: quoted, escaped, and cut where it is long.
#[must_use]
pub fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARACTERS) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?} and {} bytes more", &text[..end], text.len() - end),
    }
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn missing(name: &str) -> RerankError {
    RerankError::invalid(name, "this field is required")
}

fn count(name: &str, number: &Number) -> Result<usize, RerankError> {
    if let Some(count) = number.as_u64() {
        return Ok(usize::try_from(count).unwrap_or(usize::MAX));
    }
    let value = number.as_f64().unwrap_or(f64::NAN);
    if value < 0.0 {
        return Err(RerankError::invalid(name, format!("{number} is negative; the least value is 1")));
    }
    if value.fract() != 0.0 {
        return Err(RerankError::invalid(name, format!("{number} is not a whole number")));
    }
    // Saturates: a list that long does not exist.
    Ok(value as usize)
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::default();
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            if fields.values.contains_key(&name) {
                fields.repeated.insert(name);
            } else {
                fields.values.insert(name, value);
            }
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(json: &str) -> Fields {
        Fields::parse(json.as_bytes()).unwrap()
    }

    fn problem<T: fmt::Debug>(result: Result<T, RerankError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn counts_take_every_way_to_write_a_whole_number() {
        for (json, count) in [
            ("3", Some(3)),
            ("3.0", Some(3)),
            ("3e2", Some(300)),
            ("0", Some(0)),
            ("null", None),
            ("18446744073709551615", Some(usize::MAX)),
            ("99999999999999999999999", Some(usize::MAX)),
            ("1e300", Some(usize::MAX)),
        ] {
            assert_eq!(fields(&format!(r#"{{"top_n":{json}}}"#)).count(&["top_n"]).unwrap(), count, "{json}");
        }
        assert_eq!(fields("{}").count(&["top_n"]).unwrap(), None);
    }

    #[test]
    fn counts_refuse_everything_else_by_name() {
        for (json, message) in [
            ("-1", "top_n: -1 is negative; the least value is 1"),
            ("-0.5", "top_n: -0.5 is negative; the least value is 1"),
            ("2.5", "top_n: 2.5 is not a whole number"),
            ("\"3\"", "top_n: expected a whole number, found the string \"3\""),
            ("true", "top_n: expected a whole number, found true"),
            ("[1]", "top_n: expected a whole number, found an array of 1 item"),
            ("{}", "top_n: expected a whole number, found an object of 0 fields"),
        ] {
            assert_eq!(problem(fields(&format!(r#"{{"top_n":{json}}}"#)).count(&["top_n"])), message);
        }
    }

    #[test]
    fn flags_may_be_written_as_strings() {
        for (json, flag) in
            [("true", true), ("\"true\"", true), ("\"True\"", true), ("\"false\"", false), ("null", true)]
        {
            assert_eq!(fields(&format!(r#"{{"truncation":{json}}}"#)).flag("truncation", true).unwrap(), flag);
        }
        assert_eq!(
            problem(fields(r#"{"truncation":1}"#).flag("truncation", true)),
            "truncation: expected true or false, found the number 1"
        );
    }

    #[test]
    fn an_alias_may_repeat_its_name_but_not_contradict_it() {
        assert_eq!(fields(r#"{"top_k":2}"#).count(&["top_n", "top_k"]).unwrap(), Some(2));
        assert_eq!(fields(r#"{"top_k":2,"top_n":2}"#).count(&["top_n", "top_k"]).unwrap(), Some(2));
        assert_eq!(fields(r#"{"top_k":2,"top_n":null}"#).count(&["top_n", "top_k"]).unwrap(), Some(2));
        assert_eq!(
            problem(fields(r#"{"top_k":2,"top_n":3}"#).count(&["top_n", "top_k"])),
            "top_k: differs from `top_n`, which means the same; give one of them"
        );
    }

    #[test]
    fn a_field_given_twice_is_refused_if_anyone_reads_it() {
        let mut fields = fields(r#"{"query":"a","query":"a","other":1,"other":2}"#);
        assert_eq!(problem(fields.text("query")), "query: given more than once");
        assert_eq!(fields.text("absent").unwrap(), None);
    }

    #[test]
    fn a_field_that_nobody_takes_may_have_meant_one_that_was_asked_for() {
        let mut fields = fields(r#"{"instructions":"i","zebra":1}"#);
        fields.text_of(&["instruction", "instruct"]).unwrap();
        assert_eq!(fields.meant_by("instructions"), Some("instruction"));
        assert_eq!(fields.meant_by("zebra"), None);
        assert_eq!(fields.meant_by("querry"), None);
    }

    #[test]
    fn a_long_value_is_cut_in_the_message_between_characters() {
        let text = "ä".repeat(50);
        assert_eq!(quoted(&text), format!("{:?} and 20 bytes more", "ä".repeat(40)));
        assert_eq!(quoted("a\n\u{1b}[0m"), r#""a\n\u{1b}[0m""#);
    }

    #[test]
    fn what_is_not_json_is_told_from_json_of_the_wrong_kind() {
        for malformed in ["", "  ", "{", "{\"a\":NaN}", "{\"a\":1e999}", "{} {}", "{'a':1}", "\u{feff}{}"] {
            assert!(matches!(Fields::parse(malformed.as_bytes()), Err(ApiError::MalformedJson { .. })), "{malformed}");
        }
        assert!(matches!(Fields::parse(b"{\"a\":\"\xff\"}"), Err(ApiError::MalformedJson { .. })));
        assert!(matches!(Fields::parse(b"{\"a\":\"\\ud800\"}"), Err(ApiError::MalformedJson { .. })));
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(matches!(Fields::parse(deep.as_bytes()), Err(ApiError::MalformedJson { .. })));
        for (other, found) in [
            ("[]", "an array of 0 items"),
            ("[{}]", "an array of 1 item"),
            ("null", "null"),
            ("3", "the number 3"),
            ("\"text\"", "the string \"text\""),
            ("true", "true"),
        ] {
            let failure = Fields::parse(other.as_bytes()).unwrap_err();
            assert_eq!(failure.to_string(), format!("body: expected an object, found {found}"));
        }
    }
}
