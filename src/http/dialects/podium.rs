//! The shared dialect of `/v1/rerank`, `/v2/rerank` and `/rerank`.
//!
//! The request takes Cohere's, Jina's, Voyage's, vLLM's, Together's and Contextual's fields. The reply is a superset that
//! their clients all read: the rows stand in `results` (documents as `{"text": ...}`, or as the record that was sent)
//! and again in `data` (documents as strings); a document's key is there only when it was asked for.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::{Answer, Call, Dialect, documents, no_headers, request};
use crate::http::error_body::ErrorShape;
use crate::http::fields::{Fields, expected, text};
use crate::rerank::{BudgetReport, Mode, RankedDocument, Ranking, RerankError};

/// Documents that Cohere bills as one search.
const DOCUMENTS_PER_SEARCH_UNIT: usize = 100;

/// Fields of other servers whose loss changes no ranking.
const PASSED_OVER: [&str; 5] = ["user", "request_id", "cache_salt", "return_len", "encoding_format"];

pub(super) const DIALECT: Dialect =
    Dialect { name: "podium", documents: "documents", read, write, headers: no_headers, failure: ErrorShape::Podium };

/// The same, for clients that cannot read its failures.
pub(super) const VOYAGE: Dialect = Dialect { failure: ErrorShape::Voyage, ..DIALECT };

/// Reads the fields of a body. Only their shapes are checked here.
///
/// # Errors
/// [`RerankError::InvalidField`] for the first field that has the wrong shape.
pub fn read(fields: &mut Fields) -> Result<Call, RerankError> {
    let query = documents::query("query", &fields.required("query")?)?;
    let items = fields.required_list("documents")?;
    let mut texts = documents::texts("documents", &items, documents::rank_fields(fields)?.as_deref())?;
    add_metadata(fields, &mut texts)?;
    take_template_instruction(fields)?;
    let return_documents = fields.flag("return_documents", false)?;
    let mut request = request(fields, query, texts)?;
    request.truncation = fields.flag("truncation", true)?;
    fields.pass_over(&PASSED_OVER);
    Ok(Call::new(request).echoing(return_documents.then_some(items)))
}

/// Contextual's `metadata`: a text for each document, which the model reads after it.
fn add_metadata(fields: &mut Fields, texts: &mut [String]) -> Result<(), RerankError> {
    let Some(items) = fields.list("metadata")? else { return Ok(()) };
    if !items.is_empty() && items.len() != texts.len() {
        let problem = format!("has {} entries for {} documents; give one for each", items.len(), texts.len());
        return Err(RerankError::invalid("metadata", problem));
    }
    for (index, (item, document)) in items.into_iter().zip(texts).enumerate() {
        let more = text(&format!("metadata[{index}]"), item)?;
        if !more.trim().is_empty() {
            *document = format!("{document}\nmetadata: {more}");
        }
    }
    Ok(())
}

/// vLLM's clients give the instruction as a variable of the chat template.
fn take_template_instruction(fields: &mut Fields) -> Result<(), RerankError> {
    match fields.take(&["chat_template_kwargs"])? {
        None => Ok(()),
        Some(Value::Object(mut variables)) => match variables.swap_remove("instruction") {
            None | Some(Value::Null) => Ok(()),
            Some(value) => {
                let value = Value::from(text("chat_template_kwargs.instruction", value)?);
                if fields.add("instruction", value) {
                    Ok(())
                } else {
                    let problem = "given as chat_template_kwargs.instruction too; give one of them";
                    Err(RerankError::invalid("instruction", problem))
                }
            }
        },
        Some(other) => Err(expected("chat_template_kwargs", "an object", &other)),
    }
}

fn write(answer: &Answer<'_>) -> serde_json::Result<Vec<u8>> {
    let echo = answer.call.echo.as_deref();
    serde_json::to_vec(&Reply::new(answer.id, answer.ranking(), answer.call.texts(), echo))
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
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(flatten)]
    record: Option<&'a serde_json::Map<String, Value>>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<&'a str>,
    warnings: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<&'a BudgetReport>,
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
    /// The reply to a request. If the documents come back, `sent` holds them as they were sent and `texts` as they
    /// were read.
    #[must_use]
    pub fn new(id: &'a str, ranking: &'a Ranking, texts: &'a [String], sent: Option<&'a [Value]>) -> Self {
        let document = |row: &RankedDocument| {
            let text = texts.get(row.index)?;
            Some(match sent?.get(row.index)? {
                Value::Object(record) => {
                    Document { text: (!record.contains_key("text")).then_some(text.as_str()), record: Some(record) }
                }
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                    Document { text: Some(text.as_str()), record: None }
                }
            })
        };
        let text = |row: &RankedDocument| sent.and_then(|_| texts.get(row.index)).map(String::as_str);
        let (usage, timing) = (&ranking.usage, &ranking.timing);
        Self {
            id,
            object: "rerank",
            model: &ranking.model,
            results: ranking.results.iter().map(|row| Row::new(row, document(row))).collect(),
            data: ranking.results.iter().map(|row| Row::new(row, text(row))).collect(),
            usage: Usage {
                prompt_tokens: usage.prompt_tokens,
                total_tokens: usage.prompt_tokens,
                truncated_documents: usage.truncated_documents,
            },
            meta: Meta {
                api_version: ApiVersion { version: "2" },
                billed_units: BilledUnits { search_units: ranking.documents.div_ceil(DOCUMENTS_PER_SEARCH_UNIT) },
                mode: ranking.mode,
                slates: ranking.slates,
                profile: ranking.profile.as_deref(),
                warnings: &ranking.warnings,
                budget: ranking.budget.as_ref(),
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
    use serde_json::json;

    use super::*;
    use crate::rerank::{Budget, RerankRequest, Terms};

    fn of(json: &str) -> Result<Call, String> {
        super::super::testing::read(&DIALECT, json)
    }

    #[test]
    fn the_smallest_request_has_every_default() {
        let call = of(r#"{"query":"q","documents":["a"]}"#).unwrap();
        assert_eq!(call, Call::new(RerankRequest::new("q", vec!["a".to_owned()])));
    }

    #[test]
    fn every_field_arrives() {
        let call = of(
            r#"{"model":"m","query":"q","instruction":"i","profile":"p","documents":["a",{"text":"b","title":"t"}],"top_k":1,
                "max_tokens_per_doc":9,"truncation":"false","mode":"pointwise","return_documents":"true","priority":7,
                "timeout_ms":800,"max_latency_ms":300,"max_total_tokens":4000,"strict":"true"}"#,
        )
        .unwrap();
        let expected = RerankRequest {
            model: Some("m".into()),
            instruction: Some("i".into()),
            profile: Some("p".into()),
            top_n: Some(1),
            max_tokens_per_doc: Some(9),
            truncation: false,
            mode: Mode::Pointwise,
            terms: Terms {
                priority: 7,
                timeout: Some(Duration::from_millis(800)),
                budget: Budget {
                    max_latency: Some(Duration::from_millis(300)),
                    max_total_tokens: Some(4000),
                    strict: true,
                },
            },
            ..RerankRequest::new("q", vec!["a".to_owned(), "b".to_owned()])
        };
        assert_eq!(call.requests, [expected]);
        assert_eq!(call.echo, Some(vec![json!("a"), json!({"text": "b", "title": "t"})]));
    }

    #[test]
    fn the_ways_of_other_servers_to_say_the_same_arrive() {
        for (more, instruction, document) in [
            (json!({"instruct": "i"}), Some("i"), "a"),
            (json!({"chat_template_kwargs": {"instruction": "i", "other": 1}}), Some("i"), "a"),
            (json!({"chat_template_kwargs": {}}), None, "a"),
            (json!({"metadata": ["from 2024"]}), None, "a\nmetadata: from 2024"),
            (json!({"metadata": []}), None, "a"),
            (json!({"query": {"content": [{"type": "text", "text": "q"}]}}), None, "a"),
        ] {
            let mut body = json!({"query": "q", "documents": ["a"]});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let call = of(&body.to_string()).unwrap();
            let request = &call.requests[0];
            assert_eq!((request.query.as_str(), request.instruction.as_deref()), ("q", instruction), "{more}");
            assert_eq!(request.documents, [document], "{more}");
        }
    }

    #[test]
    fn a_wrong_shape_is_named_by_its_path() {
        for (json, message) in [
            (r#"{"documents":["a"]}"#, "query: this field is required"),
            (r#"{"query":null,"documents":["a"]}"#, "query: this field is required"),
            (
                r#"{"query":["q"],"documents":["a"]}"#,
                "query: expected a string, or an object with a `text`, found an array of 1 item",
            ),
            (r#"{"query":"q"}"#, "documents: this field is required"),
            (r#"{"query":"q","documents":"a"}"#, "documents: expected an array, found the string \"a\""),
            (
                r#"{"query":"q","documents":["a","b",3]}"#,
                "documents[2]: expected a string, or an object with a `text`, found the number 3",
            ),
            (r#"{"query":"q","documents":[{"text":null}]}"#, "documents[0].text: expected a string, found null"),
            (
                r#"{"query":"q","documents":["a"],"metadata":["m","n"]}"#,
                "metadata: has 2 entries for 1 documents; give one for each",
            ),
            (
                r#"{"query":"q","documents":["a"],"instruction":"i","instruct":"j"}"#,
                "instruct: differs from `instruction`, which means the same; give one of them",
            ),
            (
                r#"{"query":"q","documents":["a"],"priority":1000}"#,
                "priority: is 1000; it lies between 0, the most urgent, and 999",
            ),
            (r#"{"query":"q","documents":[],"mode":"both"}"#, "mode: \"both\" is none of auto, listwise, pointwise"),
        ] {
            assert_eq!(of(json).unwrap_err(), message);
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
