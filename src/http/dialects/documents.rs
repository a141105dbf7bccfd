//! The texts of documents and queries, in all the ways that clients send them.
//!
//! A document is a string; an object with its text in `text`; an object with `content`, a string or a list of text
//! parts; or a record of any fields, which the model reads as one `name: value` line for each. `rank_fields` says
//! which fields those are; without it a record is read by its `text`, or whole if it has none.

use serde_json::{Map, Value};

use crate::http::fields::{Fields, expected, quoted, text};
use crate::rerank::RerankError;

/// How many fields a message names.
const NAMED_FIELDS: usize = 5;

/// Fields that hold what this server cannot read.
const IMAGE_FIELDS: [&str; 4] = ["image", "image_url", "video", "audio"];

/// The documents' texts, of the field `field`.
///
/// # Errors
/// [`RerankError::InvalidField`] for the first document that has no text.
pub fn texts(field: &str, items: &[Value], rank_fields: Option<&[String]>) -> Result<Vec<String>, RerankError> {
    items.iter().enumerate().map(|(index, item)| text_at(&format!("{field}[{index}]"), item, rank_fields)).collect()
}

/// Takes `rank_fields`: names of the fields that are read of records.
///
/// # Errors
/// Anything but a list of names.
pub fn rank_fields(fields: &mut Fields) -> Result<Option<Vec<String>>, RerankError> {
    let Some(items) = fields.list("rank_fields")? else { return Ok(None) };
    let names: Result<Vec<_>, _> =
        items.into_iter().enumerate().map(|(index, item)| text(&format!("rank_fields[{index}]"), item)).collect();
    Ok(Some(names?).filter(|names| !names.is_empty()))
}

/// One text: a string, or an object with `text` or `content`.
///
/// # Errors
/// [`RerankError::InvalidField`] for anything else.
pub fn query(field: &str, value: &Value) -> Result<String, RerankError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Object(record) if record.contains_key("text") || record.contains_key("content") => {
            text_at(field, value, None)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            Err(expected(field, "a string, or an object with a `text`", value))
        }
    }
}

fn text_at(field: &str, item: &Value, rank_fields: Option<&[String]>) -> Result<String, RerankError> {
    match item {
        Value::String(text) => Ok(text.clone()),
        Value::Object(record) => match rank_fields {
            Some(names) => chosen(field, record, names),
            None => whole(field, record),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
            Err(expected(field, "a string, or an object with a `text`", item))
        }
    }
}

fn chosen(field: &str, record: &Map<String, Value>, names: &[String]) -> Result<String, RerankError> {
    let lines: Vec<(&str, String)> =
        names.iter().filter_map(|name| Some((name.as_str(), spelled(record.get(name)?)?))).collect();
    match lines.as_slice() {
        [] => {
            let some = |names: &mut dyn Iterator<Item = &String>| {
                names.take(NAMED_FIELDS).map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
            };
            let (wanted, has) = (some(&mut names.iter()), some(&mut record.keys()));
            let problem = format!("has none of the rank_fields {wanted}; it has {has}");
            Err(RerankError::invalid(field, problem))
        }
        // A text needs no name in front of it.
        [("text", text)] => Ok(text.clone()),
        lines => Ok(named(lines)),
    }
}

fn whole(field: &str, record: &Map<String, Value>) -> Result<String, RerankError> {
    if let Some(name) = IMAGE_FIELDS.iter().find(|name| record.get(**name).is_some_and(|value| !value.is_null())) {
        return Err(RerankError::invalid(format!("{field}.{name}"), "only text can be read here"));
    }
    if let Some(value) = record.get("text") {
        return text(&format!("{field}.text"), value.clone());
    }
    if let Some(value) = record.get("content") {
        return content(&format!("{field}.content"), value);
    }
    let lines: Vec<(&str, String)> =
        record.iter().filter_map(|(name, value)| Some((name.as_str(), spelled(value)?))).collect();
    if lines.is_empty() {
        return Err(RerankError::invalid(field, "an object with no field that could be read"));
    }
    Ok(named(&lines))
}

/// A message's content: a string, or parts of which each has a `text`.
fn content(field: &str, value: &Value) -> Result<String, RerankError> {
    let parts = match value {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) => parts,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            return Err(expected(field, "a string, or an array of text parts", value));
        }
    };
    let texts = parts.iter().enumerate().map(|(index, part)| {
        let field = format!("{field}[{index}]");
        match part.get("text") {
            Some(Value::String(text)) => Ok(text.as_str()),
            _ => Err(expected(&field, "a part with a `text`; only text can be read here", part)),
        }
    });
    Ok(texts.collect::<Result<Vec<_>, _>>()?.join("\n"))
}

fn named(lines: &[(&str, String)]) -> String {
    lines.iter().map(|(name, text)| format!("{name}: {text}")).collect::<Vec<_>>().join("\n")
}

/// A field's value as text; nothing for null.
fn spelled(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(items) if items.iter().all(|item| !item.is_array() && !item.is_object()) => {
            Some(items.iter().filter_map(spelled).collect::<Vec<_>>().join(", "))
        }
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => Some(value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(item: Value, names: Option<&[&str]>) -> Result<String, String> {
        let names: Option<Vec<String>> = names.map(|names| names.iter().map(|&name| name.to_owned()).collect());
        let read = texts("documents", &[item], names.as_deref()).map_err(|error| error.to_string())?;
        Ok(read[0].clone())
    }

    #[test]
    fn every_way_to_write_a_document_is_read() {
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        for (item, text) in [
            (json!("plain"), "plain"),
            (json!({"text": "t", "title": "not read"}), "t"),
            (json!({"content": "c"}), "c"),
            (json!({"content": parts}), "a\nb"),
            (
                json!({"title": "T", "year": 2024, "tags": ["x", 1], "none": null, "more": {"a": [1]}}),
                "title: T\nyear: 2024\ntags: x, 1\nmore: {\"a\":[1]}",
            ),
        ] {
            assert_eq!(read(item, None).unwrap(), text);
        }
    }

    #[test]
    fn rank_fields_choose_and_order_what_is_read_of_a_record() {
        let item = json!({"text": "t", "title": "T", "year": 2024});
        assert_eq!(read(item.clone(), Some(&["title", "text"])).unwrap(), "title: T\ntext: t");
        assert_eq!(read(item.clone(), Some(&["text"])).unwrap(), "t");
        assert_eq!(read(item.clone(), Some(&["absent", "year"])).unwrap(), "year: 2024");
        assert_eq!(read(json!("plain"), Some(&["title"])).unwrap(), "plain");
        assert_eq!(
            read(item, Some(&["absent"])).unwrap_err(),
            r#"documents[0]: has none of the rank_fields "absent"; it has "text", "title", "year""#
        );
    }

    #[test]
    fn what_has_no_text_is_named() {
        for (item, problem) in [
            (json!(3), "documents[0]: expected a string, or an object with a `text`, found the number 3"),
            (json!({"text": null}), "documents[0].text: expected a string, found null"),
            (json!({}), "documents[0]: an object with no field that could be read"),
            (json!({"image": "data:"}), "documents[0].image: only text can be read here"),
            (json!({"text": "t", "image": "data:"}), "documents[0].image: only text can be read here"),
            (
                json!({"content": [{"type": "image_url"}]}),
                "documents[0].content[0]: expected a part with a `text`; only text can be read here, found an object of 1 field",
            ),
        ] {
            assert_eq!(read(item, None).unwrap_err(), problem);
        }
    }
}
