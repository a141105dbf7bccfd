//! The dialect of text-embeddings-inference: `texts` in, a bare array out. llama.cpp replies to
//! `texts` in the same way.

use std::borrow::Cow;

use axum::http::HeaderValue;
use serde::Serialize;
use serde_json::Value;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::documents::{Documents, Query};
use super::{Answer, Call, Dialect, PassageReply, Reply, RequestOptions, podium, raw_score_of, request};
use crate::http::error_body::ErrorShape;
use crate::http::fields::{Field, Fields, Flag, Reader, flag_or, quoted, text};
use crate::http::schemas::SchemaOf;
use crate::rerank::RerankError;

pub(super) static DIALECT: Dialect = Dialect {
    name: "tei",
    summary: "text-embeddings-inference",
    description: "The reply is a bare array, best first.",
    request: SchemaOf::request::<Request>(),
    reply: SchemaOf::reply::<Results>(),
    errors: ErrorShape::Tei,
    read,
};

request! {
    #[schema(
        as = TeiRequest,
        example = json!({
            "query": "How do I reset my password?",
            "texts": ["Cats sleep a lot.", "Open Settings, then Security, then Reset password."],
        })
    )]
    struct Request {
        query: Query,
        texts: Documents,
        /// The number of results; all if absent or 0.
        #[schema(minimum = 0)]
        top_n | top_k: Option<usize>,
        /// Whether the reply returns the texts.
        #[schema(default = false)]
        return_text: Option<Flag>,
        /// The family's own scores instead of scores in [0, 1].
        #[schema(default = false)]
        raw_scores: Option<Flag>,
        /// Whether a text over its limit is cut; if not, it is an error.
        #[schema(default = true)]
        truncate: Option<Flag>,
        truncation_direction: Option<TruncationDirection>,
        ..options: RequestOptions,
    }
}

/// The side on which texts are cut: always the right.
#[derive(Debug)]
struct TruncationDirection;

impl Field for TruncationDirection {
    fn from_value(name: &str, value: Value) -> Result<Self, RerankError> {
        let side = text(name, value)?;
        if side.eq_ignore_ascii_case("right") {
            return Ok(Self);
        }
        let problem = format!("{} is not supported; texts are cut on the right", quoted(&side));
        Err(RerankError::invalid(name, problem))
    }
}

impl PartialSchema for TruncationDirection {
    fn schema() -> RefOr<Schema> {
        let schema = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["Right", "right"]));
        schema.description(Some("Texts are cut on the right.")).into()
    }
}

impl ToSchema for TruncationDirection {}

#[derive(Serialize, ToSchema)]
#[schema(as = TeiReply, example = json!([{"index": 1, "score": 0.62}, {"index": 0, "score": 0.04}]))]
struct Results<'a>(Vec<TeiResult<'a>>);

#[derive(Serialize, ToSchema)]
struct TeiResult<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    text: Option<Cow<'a, str>>,
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    passage: Option<PassageReply>,
}

fn read(fields: &mut Fields) -> Result<Call, RerankError> {
    podium::drop_empty_top_n(fields);
    let request = Request::read(fields)?;
    // The type is the check.
    let _checked = request.truncation_direction;
    let raw_scores = flag_or(request.raw_scores, false);
    let (texts, sent) = request.texts.into_parts("texts", None, flag_or(request.return_text, false))?;
    let mut ranking = request.options.into_request(request.query.0, texts, request.top_n);
    ranking.truncation = flag_or(request.truncate, true);
    Ok(Call::new(ranking, "texts", sent, move |answer| reply(answer, raw_scores)))
}

fn reply(answer: &Answer<'_>, raw_scores: bool) -> serde_json::Result<Reply> {
    let results = &answer.ranking().results;
    let raw_score = raw_score_of(results);
    let results = results.iter().map(|row| TeiResult {
        index: row.index,
        text: answer.sent.text(row.index),
        score: if raw_scores { raw_score(row) } else { row.relevance_score },
        passage: PassageReply::of(row),
    });
    let mut reply = Reply::json(&Results(results.collect()))?;
    // Times in milliseconds.
    let timing = &answer.ranking().timing;
    for (name, number) in [
        ("x-compute-tokens", answer.prompt_tokens() as u64),
        ("x-compute-time", timing.total.as_millis() as u64),
        ("x-total-time", timing.total.as_millis() as u64),
        ("x-tokenization-time", timing.tokenize.as_millis() as u64),
        ("x-queue-time", timing.queue.as_millis() as u64),
        ("x-inference-time", timing.forward.as_millis() as u64),
    ] {
        reply.headers.insert(name, HeaderValue::from(number));
    }
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::super::tests::read;
    use super::*;

    #[test]
    fn every_field_arrives() {
        let call = read(
            &DIALECT,
            r#"{"query":"q","texts":["a"],"truncate":false,"raw_scores":true,"return_text":true,"instruction":"i"}"#,
        )
        .unwrap();
        let request = &call.requests[0];
        assert_eq!((request.truncation, request.instruction.as_deref()), (false, Some("i")));
        assert_eq!(request.documents, ["a"]);
    }

    #[test]
    fn truncation_on_the_left_is_an_error() {
        let body = r#"{"query":"q","texts":["a"],"truncation_direction":"Left"}"#;
        let problem = read(&DIALECT, body).err().unwrap();
        assert_eq!(problem, r#"truncation_direction: "Left" is not supported; texts are cut on the right"#);
    }
}
