//! The fields of a JSON body.
//!
//! [`Fields`] holds the fields that no reader has taken yet; [`Field`] says how a type is read from
//! one of them; [`request!`] defines the request of an API: its struct, its reader and its schema.
//!
//! Error messages name the field, the value found and what was expected: serde's derived readers
//! cannot say as much. `null` counts as absent. A field that is given twice is an error. Fields
//! that no reader takes stay in [`Fields`], and [`Fields::suggestion`] says which field the client
//! may have meant.

mod encoding;
mod hints;
mod malformed;
mod part;
mod request;
#[cfg(test)]
mod tests;

pub use part::Part;
pub(crate) use request::request;
pub use request::{FLAG_WORDS, Field, Flag, Reader, flag_or, list};

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use crate::rerank::RerankError;

/// The longest part of a client's value that a message repeats, in characters.
const MAX_QUOTED_CHARACTERS: usize = 40;

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// The body is not JSON.
    #[error("the body is not valid JSON: {problem}")]
    MalformedJson {
        /// The problem and its position.
        problem: String,
    },
    /// The body is not an object.
    #[error(transparent)]
    NotAnObject(RerankError),
    /// A field is missing or has the wrong type.
    #[error(transparent)]
    Field(#[from] RerankError),
}

/// The fields of a body that no reader has taken yet.
#[derive(Debug, Default)]
pub struct Fields {
    values: Map<String, Value>,
    /// Names that the body has more than once.
    repeated: HashSet<String>,
    /// Names that a reader has asked for.
    known: Vec<String>,
    /// The same for fields inside others, as paths.
    known_in_parts: Vec<String>,
    /// Fields that came under a second name: the first name, and the one that was sent.
    second_names: Vec<(String, String)>,
    /// Warnings about how the fields were read, for the reply.
    warnings: Vec<String>,
}

impl Fields {
    /// Parses a body. UTF-16 is decoded, and U+FFFD replaces half of a surrogate pair, both with a
    /// warning; a byte order mark is skipped.
    ///
    /// # Errors
    /// The body is not JSON (NaN, other encodings and nesting deeper than 128 levels are not), or
    /// it is not an object.
    pub fn parse(body: &[u8]) -> Result<Self, ParseError> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(ParseError::MalformedJson { problem: "it is empty; expected an object".to_owned() });
        }
        let (body, recoded) = encoding::to_utf8(body)?;
        let is_recoded = recoded.is_some();
        let (body, has_placeholders) = encoding::replace_unpaired_surrogates(body);
        let malformed = |error| ParseError::MalformedJson { problem: malformed::problem(&error, &body) };
        let parsed = serde_json::from_slice(&body).map_err(|error| match serde_json::from_slice::<Value>(&body) {
            Ok(other) if error.is_data() => ParseError::NotAnObject(malformed::not_an_object(&other)),
            Ok(_) => malformed(error),
            Err(error) => malformed(error),
        });
        let mut fields: Self = parsed?;
        fields.warnings.extend(recoded);
        if has_placeholders || is_recoded {
            fields.warnings.extend(encoding::replace_in_fields(&mut fields.values));
        }
        Ok(fields)
    }

    /// Takes and reads the field that has one of `names`. Messages use the name that was sent.
    ///
    /// # Errors
    /// The field is required and absent, it has the wrong type, it is given twice, or two of the
    /// names have different values.
    pub fn read<T: Field>(&mut self, names: &[&str]) -> Result<T, RerankError> {
        let name = names.first().copied().unwrap_or_default();
        match self.take_named(names)? {
            Some((sent, value)) => {
                let value = match T::converted(&value) {
                    Some(meant) => {
                        self.warnings.push(format!("{sent}: {} was read as {}", shown(&value), shown(&meant)));
                        meant
                    }
                    None => value,
                };
                let value = T::from_value(sent, value)?;
                if sent != name {
                    self.second_names.push((name.to_owned(), sent.to_owned()));
                }
                Ok(value)
            }
            None => T::if_absent(name).map_err(|error| self.with_hint(error, name)),
        }
    }

    /// Takes the value of the field that has one of `names`.
    ///
    /// # Errors
    /// A name is given twice, or two of the names have different values.
    pub fn take(&mut self, names: &[&str]) -> Result<Option<Value>, RerankError> {
        Ok(self.take_named(names)?.map(|(_, value)| value))
    }

    /// As [`Self::take`], with the name that was sent.
    fn take_named<'a>(&mut self, names: &[&'a str]) -> Result<Option<(&'a str, Value)>, RerankError> {
        let mut taken: Option<(&str, Value)> = None;
        for name in names {
            self.known.push((*name).to_owned());
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
        Ok(taken)
    }

    /// Drops the field if its value means "not given" to the API's own server, and warns of it.
    pub fn drop_if(&mut self, name: &str, means_none: impl Fn(&Value) -> bool, meaning: &str) {
        let Some(value) = self.values.get(name).filter(|value| means_none(value)) else { return };
        self.warnings.push(format!("{name}: {} was read as {meaning}", shown(value)));
        self.values.swap_remove(name);
    }

    /// Whether the field has this text.
    #[must_use]
    pub fn is(&self, name: &str, text: &str) -> bool {
        self.values.get(name).is_some_and(|value| value == text)
    }

    /// Adds a warning to the reply.
    pub fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// The warnings so far; there are none after that.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// The fields that came under a second name: the first name, and the one that was sent.
    pub fn take_second_names(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.second_names)
    }

    /// Whether the field is there, is not `null`, and has not been taken.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.values.get(name).is_some_and(|value| !value.is_null())
    }

    /// Whether the field is an object, and has not been taken.
    #[must_use]
    pub fn has_object(&self, name: &str) -> bool {
        self.values.get(name).is_some_and(Value::is_object)
    }

    /// Whether the body names this field, also where its value is `null`.
    #[must_use]
    pub fn names(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// Adds a field that did not come in the body. Returns false, and changes nothing, if the body
    /// has this field.
    pub fn add(&mut self, name: &str, value: Value) -> bool {
        let is_free = !self.has(name);
        if is_free {
            self.values.insert(name.to_owned(), value);
        }
        is_free
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

    /// Drops fields that have no meaning here and do not change a ranking, so that they cause no
    /// warning.
    pub fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.values.swap_remove(*name);
        }
    }

    /// The names of the fields that no reader has taken, except those that are `null`.
    pub fn unread(&self) -> impl Iterator<Item = &str> {
        self.values.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name.as_str())
    }

    /// Whether a reader has asked for the field.
    #[must_use]
    pub fn is_known(&self, name: &str) -> bool {
        self.known.iter().any(|known| known == name)
    }

    /// The names that a reader has asked for, in that order.
    #[cfg(test)]
    #[must_use]
    pub fn known(&self) -> &[String] {
        &self.known
    }
}

/// The text of a string.
///
/// # Errors
/// Any other type.
pub fn text(field: &str, value: Value) -> Result<String, RerankError> {
    match value {
        Value::String(text) => Ok(text),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            Err(expected(field, "a string", &other))
        }
    }
}

/// The error for a value of the wrong type.
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

/// The error for a word that is none of `words`.
#[must_use]
pub fn none_of(field: &str, word: &str, words: &[&str]) -> RerankError {
    RerankError::invalid(field, format!("{} is none of {}", quoted(word), words.join(", ")))
}

/// A client's text for a message: quoted, escaped, and cut if it is long.
#[must_use]
pub fn quoted(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED_CHARACTERS) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?} and {} bytes more", &text[..end], text.len() - end),
    }
}

/// A client's value for a message: cut if it is long.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("the string {}", quoted(text)),
        Value::Array(items) => format!("a list of {}", counted(items.len(), "item")),
        Value::Object(fields) => format!("an object of {}", counted(fields.len(), "field")),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
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
