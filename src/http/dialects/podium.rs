//! Podium's own dialect: `/v1/rerank`, `/v2/rerank` and `/rerank`.
//!
//! The request takes Cohere's and Jina's fields, Voyage's `top_k`, and an instruction. The reply is a superset that
//! their clients all read: the rows stand in `results` (documents as `{"text": ...}`) and again in `data` (documents
//! as strings); a document's key is there only when it was asked for.

use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;

use crate::http::Service;
use crate::http::body::JsonBody;
use crate::http::error::Failure;
use crate::http::fields::{Fields, expected, quoted, text};
use crate::http::observe::RequestId;
use crate::rerank::{Mode, RankedDocument, Ranking, RerankError, RerankRequest};

/// Documents that Cohere bills as one search.
const DOCUMENTS_PER_SEARCH_UNIT: usize = 100;

/// `POST /v1/rerank`
///
/// # Errors
/// Every [`RerankError`], and bodies that are no request.
pub async fn rerank(
    State(service): State<Service>,
    Extension(id): Extension<RequestId>,
    JsonBody(fields): JsonBody,
) -> Result<Response, Failure> {
    let call = Call::read(fields)?;
    let documents = call.request.documents.len();
    let echo = call.return_documents.then(|| call.request.documents.clone());
    let (ranking, facts) = super::rank(&service, call.request).await?;
    let reply = Reply::new(id.as_str(), &ranking, documents, echo.as_deref());
    let body = serde_json::to_vec(&reply).map_err(RerankError::internal)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], Extension(facts), body).into_response())
}

/// A request as this dialect spells it.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// What is to be ranked.
    pub request: RerankRequest,
    /// Whether the documents' texts come back.
    pub return_documents: bool,
}

impl Call {
    /// Reads the fields of a body. Only their shapes are checked here.
    ///
    /// # Errors
    /// [`RerankError::InvalidField`] for the first field that has the wrong shape.
    pub fn read(mut fields: Fields) -> Result<Self, RerankError> {
        let request = RerankRequest {
            model: fields.text("model")?,
            query: fields.required_text("query")?,
            instruction: fields.text("instruction")?,
            documents: documents(fields.required_list("documents")?)?,
            top_n: fields.count(&["top_n", "top_k"])?,
            max_tokens_per_doc: fields.count(&["max_tokens_per_doc"])?,
            truncation: fields.flag("truncation", true)?,
            mode: fields.text("mode")?.map_or(Ok(Mode::Auto), |word| mode(&word))?,
        };
        Ok(Self { request, return_documents: fields.flag("return_documents", false)? })
    }
}

/// The texts of documents, each a string or an object that has its text in `text`.
///
/// # Errors
/// [`RerankError::InvalidField`] for the first one that is neither.
pub fn documents(items: Vec<Value>) -> Result<Vec<String>, RerankError> {
    items.into_iter().enumerate().map(|(index, item)| document(index, item)).collect()
}

fn document(index: usize, item: Value) -> Result<String, RerankError> {
    match item {
        Value::String(text) => Ok(text),
        Value::Object(mut fields) => {
            let field = format!("documents[{index}].text");
            match fields.swap_remove("text") {
                Some(value) => text(&field, value),
                None => Err(RerankError::invalid(field, "this field is required in a document that is an object")),
            }
        }
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_)) => {
            Err(expected(&format!("documents[{index}]"), "a string, or an object with a `text`", &other))
        }
    }
}

fn mode(word: &str) -> Result<Mode, RerankError> {
    [Mode::Auto, Mode::Listwise, Mode::Pointwise]
        .into_iter()
        .find(|mode| mode.as_str() == word)
        .ok_or_else(|| RerankError::invalid("mode", format!("{} is none of auto, listwise, pointwise", quoted(word))))
}

/// The reply of this dialect.
#[derive(Debug, Serialize)]
pub struct Reply<'a> {
    id: &'a str,
    object: &'static str,
    model: &'a str,
    results: Vec<Row<Document<'a>>>,
    data: Vec<Row<&'a str>>,
    usage: Usage,
    meta: Meta<'a>,
}

// Scores stay f32 down to the serialiser, which then writes the shortest decimal that reads back as the same f32.
#[derive(Debug, Serialize)]
struct Row<D> {
    index: usize,
    relevance_score: f32,
    raw_score: f32,
    tokens: usize,
    tokens_read: usize,
    truncated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<D>,
}

#[derive(Debug, Serialize)]
struct Document<'a> {
    text: &'a str,
}

#[derive(Debug, Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
    truncated_documents: usize,
}

#[derive(Debug, Serialize)]
struct Meta<'a> {
    api_version: ApiVersion,
    billed_units: BilledUnits,
    mode: Mode,
    slates: usize,
    warnings: &'a [String],
    timing_ms: Timing,
}

#[derive(Debug, Serialize)]
struct ApiVersion {
    version: &'static str,
}

#[derive(Debug, Serialize)]
struct BilledUnits {
    search_units: usize,
}

#[derive(Debug, Serialize)]
struct Timing {
    queue: f64,
    tokenize: f64,
    forward: f64,
    total: f64,
}

impl<'a> Reply<'a> {
    /// The reply to a request over `documents` documents, of which `echo` holds the texts if they were asked for.
    #[must_use]
    pub fn new(id: &'a str, ranking: &'a Ranking, documents: usize, echo: Option<&'a [String]>) -> Self {
        let text = |row: &RankedDocument| echo.and_then(|texts| texts.get(row.index)).map(String::as_str);
        let (usage, timing) = (&ranking.usage, &ranking.timing);
        Self {
            id,
            object: "rerank",
            model: &ranking.model,
            results: ranking.results.iter().map(|row| Row::new(row, text(row).map(|text| Document { text }))).collect(),
            data: ranking.results.iter().map(|row| Row::new(row, text(row))).collect(),
            usage: Usage {
                prompt_tokens: usage.prompt_tokens,
                total_tokens: usage.prompt_tokens,
                truncated_documents: usage.truncated_documents,
            },
            meta: Meta {
                api_version: ApiVersion { version: "2" },
                billed_units: BilledUnits { search_units: documents.div_ceil(DOCUMENTS_PER_SEARCH_UNIT) },
                mode: ranking.mode,
                slates: ranking.slates,
                warnings: &ranking.warnings,
                timing_ms: Timing {
                    queue: milliseconds(timing.queue),
                    tokenize: milliseconds(timing.tokenize),
                    forward: milliseconds(timing.forward),
                    total: milliseconds(timing.total),
                },
            },
        }
    }
}

impl<D> Row<D> {
    fn new(row: &RankedDocument, document: Option<D>) -> Self {
        Self {
            index: row.index,
            relevance_score: row.relevance_score,
            raw_score: row.raw_score,
            tokens: row.tokens,
            tokens_read: row.tokens_read,
            truncated: row.truncated(),
            document,
        }
    }
}

/// Milliseconds with three decimals.
fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Call, String> {
        let fields = Fields::parse(json.as_bytes()).map_err(|failure| failure.to_string())?;
        Call::read(fields).map_err(|error| error.to_string())
    }

    #[test]
    fn the_smallest_request_has_every_default() {
        let call = read(r#"{"query":"q","documents":["a"]}"#).unwrap();
        assert_eq!(call.request, RerankRequest::new("q", vec!["a".to_owned()]));
        assert!(!call.return_documents);
    }

    #[test]
    fn every_field_arrives() {
        let call = read(
            r#"{"model":"m","query":"q","instruction":"i","documents":["a",{"text":"b","title":"t"}],"top_k":1,
                "max_tokens_per_doc":9,"truncation":"false","mode":"pointwise","return_documents":"true","priority":0}"#,
        )
        .unwrap();
        let expected = RerankRequest {
            model: Some("m".to_owned()),
            instruction: Some("i".to_owned()),
            top_n: Some(1),
            max_tokens_per_doc: Some(9),
            truncation: false,
            mode: Mode::Pointwise,
            ..RerankRequest::new("q", vec!["a".to_owned(), "b".to_owned()])
        };
        assert_eq!(call, Call { request: expected, return_documents: true });
    }

    #[test]
    fn a_wrong_shape_is_named_by_its_path() {
        for (json, message) in [
            (r#"{"documents":["a"]}"#, "query: this field is required"),
            (r#"{"query":null,"documents":["a"]}"#, "query: this field is required"),
            (r#"{"query":["q"],"documents":["a"]}"#, "query: expected a string, found an array of 1 items"),
            (r#"{"query":"q"}"#, "documents: this field is required"),
            (r#"{"query":"q","documents":"a"}"#, "documents: expected an array, found the string \"a\""),
            (
                r#"{"query":"q","documents":["a","b",3]}"#,
                "documents[2]: expected a string, or an object with a `text`, found the number 3",
            ),
            (r#"{"query":"q","documents":[{"text":null}]}"#, "documents[0].text: expected a string, found null"),
            (
                r#"{"query":"q","documents":["a",{"title":"t"}]}"#,
                "documents[1].text: this field is required in a document that is an object",
            ),
            (r#"{"query":"q","documents":[],"mode":"both"}"#, "mode: \"both\" is none of auto, listwise, pointwise"),
        ] {
            assert_eq!(read(json).unwrap_err(), message);
        }
    }

    #[test]
    fn a_score_is_written_as_the_shortest_decimal_of_its_f32() {
        let row = RankedDocument { index: 0, relevance_score: 0.34, raw_score: -1.0e-7, tokens: 3, tokens_read: 2 };
        let json = serde_json::to_string(&Row::<&str>::new(&row, None)).unwrap();
        assert_eq!(
            json,
            r#"{"index":0,"relevance_score":0.34,"raw_score":-1e-7,"tokens":3,"tokens_read":2,"truncated":true}"#
        );
    }
}
