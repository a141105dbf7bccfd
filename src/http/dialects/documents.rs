//! Queries and documents in every form that clients send.
//!
//! A document is one of these:
//!
//! - a string;
//! - an object with its text in `text`, or in `page_content` (`LangChain`'s documents);
//! - an object with `content`, a string or a list of text parts; or such a list itself;
//! - a record of any fields, each of which the model reads as one `name: value` line.
//!
//! `rank_fields` names the fields of a record to read; without it the model reads the record's
//! `text`, or every field of a record that has none.

use std::borrow::Cow;

use serde_json::{Map, Value};
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::schema::{AnyOfBuilder, ArrayBuilder, Object, ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{Ref, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::http::fields::{Field, expected, list, quoted, text};
use crate::rerank::RerankError;

/// How many field names a message lists.
const MAX_NAMED_FIELDS: usize = 5;

/// Fields of an object that is not text.
const IMAGE_FIELDS: [&str; 4] = ["image", "image_url", "video", "audio"];

/// A query: a text, or an object with `text` or `content`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query(pub String);

impl Field for Query {
    fn from_value(name: &str, value: Value) -> Result<Self, RerankError> {
        match value {
            Value::String(text) => Ok(Self(text)),
            Value::Object(ref record) if record.contains_key("text") || record.contains_key("content") => {
                text_of(name, &value, None).map(Self)
            }
            Value::Array(ref parts) if is_parts(parts) => text_of_content(name, &value).map(Self),
            other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                Err(expected(name, "a string, or an object with a `text`", &other))
            }
        }
    }
}

impl PartialSchema for Query {
    fn schema() -> RefOr<Schema> {
        let with =
            |name: &str, schema: RefOr<Schema>| ObjectBuilder::new().property(name, schema).required(name).build();
        let part = with("text", not_blank().into());
        let parts = || ArrayBuilder::new().items(part.clone()).min_items(Some(1));
        let content = AnyOfBuilder::new().item(not_blank()).item(parts());
        let mut content = with("content", content.into());
        // The reader prefers `text`, which may then have the wrong type.
        content.extensions = Some(Extensions::from_iter([("not", serde_json::json!({"required": ["text"]}))]));
        AnyOfBuilder::new()
            .description(Some("The search query: a text that is not blank, or an object with one."))
            .item(not_blank())
            .item(part.clone())
            .item(content)
            .item(parts())
            .into()
    }
}

impl ToSchema for Query {}

/// The schema of a text that is not blank.
pub(super) fn not_blank() -> Object {
    ObjectBuilder::new().schema_type(Type::String).pattern(Some("[0-9A-Za-z]")).build()
}

/// The documents to rank, as they were sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Documents(pub Vec<Value>);

impl Documents {
    /// The text of every document.
    ///
    /// # Errors
    /// The first document that has no text.
    pub fn into_texts(self) -> Result<Vec<String>, RerankError> {
        self.into_parts("documents", None, false).map(|(texts, _)| texts)
    }

    /// The text of every document, and the documents themselves if they are to be `returned`.
    /// `field` is the name of the list in error messages.
    ///
    /// # Errors
    /// The first document that has no text.
    pub(super) fn into_parts(
        self,
        field: &str,
        rank_fields: Option<Vec<String>>,
        returned: bool,
    ) -> Result<(Vec<String>, SentDocuments), RerankError> {
        let rank_fields = rank_fields.filter(|names| !names.is_empty());
        let sent = returned.then(|| self.0.clone());
        let scores = self.0.iter().map(|item| item.get("score")?.as_f64()).collect();
        let texts = self.0.into_iter().enumerate().map(|(index, item)| match item {
            Value::String(text) => Ok(text),
            record @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                text_of(&format!("{field}[{index}]"), &record, rank_fields.as_deref())
            }
        });
        let texts = texts.collect::<Result<_, _>>()?;
        Ok((texts, SentDocuments { sent, rank_fields, scores }))
    }
}

impl Field for Documents {
    fn from_value(name: &str, value: Value) -> Result<Self, RerankError> {
        list(name, value).map(Self)
    }

    /// One document is a list of one. vLLM's object has its documents as the parts of `content`.
    fn converted(value: &Value) -> Option<Value> {
        match value {
            Value::String(_) => Vec::<String>::converted(value),
            Value::Object(record) => match (record.get("content"), record.get("text")) {
                (Some(Value::Array(parts)), _) => Some(Value::Array(parts.clone())),
                (Some(Value::String(_)), _) | (_, Some(Value::String(_))) => Some(Value::Array(vec![value.clone()])),
                _ => None,
            },
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => None,
        }
    }
}

impl PartialSchema for Documents {
    fn schema() -> RefOr<Schema> {
        ArrayBuilder::new()
            .description(Some(
                "The documents to rank; a text, or an object with a `text` or `content`, is a list of one.",
            ))
            .schema_type(SchemaType::from_iter([Type::Array, Type::String, Type::Object]))
            .items(Ref::from_schema_name(Document::name()))
            .min_items(Some(1))
            .into()
    }
}

impl ToSchema for Documents {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((Document::name().into(), Document::schema()));
    }
}

/// One document, for the description.
enum Document {}

impl PartialSchema for Document {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new().schema_type(Type::String);
        let part = ObjectBuilder::new().property("text", text).required("text");
        AnyOfBuilder::new()
            .description(Some(
                "A text; an object with its text in `text`, `content` or `page_content`; a list of text parts; or a \
                 record, of which the model reads every field, or those that `rank_fields` names, as `name: value` \
                 lines.",
            ))
            .item(ObjectBuilder::new().schema_type(Type::String))
            .item(ObjectBuilder::new().min_properties(Some(1)))
            .item(ArrayBuilder::new().items(part).min_items(Some(1)))
            .into()
    }
}

impl ToSchema for Document {}

/// The documents as they were sent, if the reply returns them.
#[derive(Debug, Default)]
pub struct SentDocuments {
    sent: Option<Vec<Value>>,
    rank_fields: Option<Vec<String>>,
    /// The documents' own scores, if each of them is a record with a `score`.
    scores: Option<Vec<f64>>,
}

impl SentDocuments {
    /// Takes the documents' own scores, if each of them is a record with a `score`.
    pub(super) fn take_scores(&mut self) -> Option<Vec<f64>> {
        self.scores.take()
    }

    /// Whether the reply returns documents.
    #[must_use]
    pub fn is_returned(&self) -> bool {
        self.sent.is_some()
    }

    /// The document at `index` as it was sent, if the reply returns it.
    #[must_use]
    pub fn document(&self, index: usize) -> Option<&Value> {
        self.sent.as_ref()?.get(index)
    }

    /// The text of the document at `index`, if the reply returns it.
    #[must_use]
    pub fn text(&self, index: usize) -> Option<Cow<'_, str>> {
        let document = self.document(index)?;
        if let Value::String(text) = document {
            return Some(Cow::Borrowed(text));
        }
        // Its text was read before, so this cannot fail.
        text_of("", document, self.rank_fields.as_deref()).ok().map(Cow::Owned)
    }
}

/// Documents that were plain texts.
impl From<&[String]> for SentDocuments {
    fn from(texts: &[String]) -> Self {
        Self {
            sent: Some(texts.iter().map(|text| Value::from(text.as_str())).collect()),
            rank_fields: None,
            scores: None,
        }
    }
}

/// The text of one document. `field` is its name in error messages.
fn text_of(field: &str, item: &Value, rank_fields: Option<&[String]>) -> Result<String, RerankError> {
    match item {
        Value::String(text) => Ok(text.clone()),
        Value::Object(record) => match rank_fields {
            Some(names) => text_of_fields(field, record, names),
            None => text_of_record(field, record),
        },
        Value::Array(parts) if is_parts(parts) => text_of_content(field, item),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
            Err(expected(field, "a string, or an object with a `text`", item))
        }
    }
}

/// Whether a list holds parts of one text, as chat messages do.
fn is_parts(items: &[Value]) -> bool {
    !items.is_empty() && items.iter().all(Value::is_object)
}

/// The text of a record's fields that `rank_fields` names.
fn text_of_fields(field: &str, record: &Map<String, Value>, names: &[String]) -> Result<String, RerankError> {
    let lines: Vec<(&str, String)> =
        names.iter().filter_map(|name| Some((name.as_str(), text_of_value(record.get(name)?)?))).collect();
    match lines.as_slice() {
        [] => {
            let listed = |names: &mut dyn Iterator<Item = &String>| {
                names.take(MAX_NAMED_FIELDS).map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
            };
            let (wanted, found) = (listed(&mut names.iter()), listed(&mut record.keys()));
            let problem = format!("has none of the rank_fields {wanted}; it has {found}");
            Err(RerankError::invalid(field, problem))
        }
        // A lone text is read without its name.
        [("text", text)] => Ok(text.clone()),
        lines => Ok(named_lines(lines)),
    }
}

/// The text of a record without `rank_fields`.
fn text_of_record(field: &str, record: &Map<String, Value>) -> Result<String, RerankError> {
    if let Some(name) = IMAGE_FIELDS.iter().find(|name| record.get(**name).is_some_and(|value| !is_empty(value))) {
        let problem =
            "is not text, and only text is read; leave it out, or list text fields in rank_fields where the API has it";
        return Err(RerankError::invalid(format!("{field}.{name}"), problem));
    }
    let given = |name: &str| record.get(name).filter(|value| !value.is_null());
    if let Some(value) = given("text") {
        return text(&format!("{field}.text"), value.clone());
    }
    if let Some(value) = given("content") {
        return text_of_content(&format!("{field}.content"), value);
    }
    if let Some(Value::String(text)) = given("page_content") {
        return Ok(text.clone());
    }
    // The image fields that are left are empty.
    let fields = record.iter().filter(|(name, _)| !IMAGE_FIELDS.contains(&name.as_str()));
    let lines: Vec<(&str, String)> =
        fields.filter_map(|(name, value)| Some((name.as_str(), text_of_value(value)?))).collect();
    if lines.is_empty() {
        return Err(RerankError::invalid(field, "an object with no field that could be read"));
    }
    Ok(named_lines(&lines))
}

/// Whether the value stands for none, as in a record with an unused column.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.trim().is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// The text of a chat message's content: a string, or a list of parts that each have a `text`.
fn text_of_content(field: &str, value: &Value) -> Result<String, RerankError> {
    let parts = match value {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) => parts,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            return Err(expected(field, "a string, or an array of text parts", value));
        }
    };
    let texts = parts.iter().enumerate().map(|(index, part)| match part.get("text") {
        Some(Value::String(text)) => Ok(text.as_str()),
        _ => Err(expected(&format!("{field}[{index}]"), "a part with a `text`; only text can be read here", part)),
    });
    Ok(texts.collect::<Result<Vec<_>, _>>()?.join("\n"))
}

fn named_lines(lines: &[(&str, String)]) -> String {
    lines.iter().map(|(name, text)| format!("{name}: {text}")).collect::<Vec<_>>().join("\n")
}

/// The value of a record's field as text; `None` for `null`.
fn text_of_value(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(items) if items.iter().all(|item| !item.is_array() && !item.is_object()) => {
            Some(items.iter().filter_map(text_of_value).collect::<Vec<_>>().join(", "))
        }
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => Some(value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text_of(item: Value, names: Option<&[&str]>) -> Result<String, String> {
        let names: Option<Vec<String>> = names.map(|names| names.iter().map(|&name| name.to_owned()).collect());
        let read = Documents(vec![item]).into_parts("documents", names, true).map_err(|error| error.to_string());
        read.map(|(texts, sent)| {
            assert_eq!(sent.text(0).unwrap(), texts[0], "the text that is returned is the text that was read");
            texts[0].clone()
        })
    }

    #[test]
    fn every_form_of_a_document_has_a_text() {
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        for (item, text) in [
            (json!("plain"), "plain"),
            (json!({"text": "t", "title": "not read"}), "t"),
            (json!({"content": "c"}), "c"),
            (json!({"text": null, "title": "T"}), "title: T"),
            (json!({"text": "t", "image": ""}), "t"),
            (json!({"title": "T", "image_url": [], "audio": false, "video": 0}), "title: T"),
            (json!({"content": parts}), "a\nb"),
            (
                json!({"title": "T", "year": 2024, "tags": ["x", 1], "none": null, "more": {"a": [1]}}),
                "title: T\nyear: 2024\ntags: x, 1\nmore: {\"a\":[1]}",
            ),
        ] {
            assert_eq!(text_of(item, None).unwrap(), text);
        }
    }

    #[test]
    fn rank_fields_choose_and_order_the_fields_of_a_record() {
        let item = json!({"text": "t", "title": "T", "year": 2024});
        assert_eq!(text_of(item.clone(), Some(&["title", "text"])).unwrap(), "title: T\ntext: t");
        assert_eq!(text_of(item.clone(), Some(&["text"])).unwrap(), "t");
        assert_eq!(text_of(item.clone(), Some(&["absent", "year"])).unwrap(), "year: 2024");
        assert_eq!(text_of(json!("plain"), Some(&["title"])).unwrap(), "plain");
        assert_eq!(
            text_of(item, Some(&["absent"])).unwrap_err(),
            r#"documents[0]: has none of the rank_fields "absent"; it has "text", "title", "year""#
        );
    }

    #[test]
    fn a_document_without_text_is_an_error_that_names_it() {
        for (item, problem) in [
            (json!(3), "documents[0]: expected a string, or an object with a `text`, found the number 3"),
            (json!({"text": null}), "documents[0]: an object with no field that could be read"),
            (json!({}), "documents[0]: an object with no field that could be read"),
            (
                json!({"image": "data:"}),
                "documents[0].image: is not text, and only text is read; leave it out, or list text fields in rank_fields where the API has it",
            ),
            (
                json!({"text": "t", "image": "data:"}),
                "documents[0].image: is not text, and only text is read; leave it out, or list text fields in rank_fields where the API has it",
            ),
            (
                json!({"content": [{"type": "image_url"}]}),
                "documents[0].content[0]: expected a part with a `text`; only text can be read here, found an object of 1 field",
            ),
        ] {
            assert_eq!(text_of(item, None).unwrap_err(), problem);
        }
    }
}
