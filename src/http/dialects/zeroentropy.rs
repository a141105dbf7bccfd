//! `ZeroEntropy`'s dialect: `/v1/models/rerank`.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::documents::{Documents, Query};
use super::{Answer, Call, Dialect, PassageReply, Reply, RequestOptions, request};
use crate::http::error_body::ErrorShape;
use crate::http::fields::{Field, Fields, Reader, none_of, text};
use crate::http::schemas::SchemaOf;
use crate::rerank::RerankError;

pub(super) static DIALECT: Dialect = Dialect {
    name: "zeroentropy",
    summary: "ZeroEntropy",
    description: "Latencies are in seconds.",
    request: SchemaOf::request::<Request>(),
    reply: SchemaOf::reply::<ZeroEntropyReply<'_>>(),
    errors: ErrorShape::Podium,
    read,
};

/// The bytes that `ZeroEntropy` counts for each document, beside the query's and the document's
/// own.
const BYTES_PER_DOCUMENT: usize = 150;

request! {
    #[schema(
        as = ZeroEntropyRequest,
        example = json!({
            "query": "How do I reset my password?",
            "documents": ["Cats sleep a lot.", "Open Settings, then Security, then Reset password."],
        })
    )]
    struct Request {
        query: Query,
        documents: Documents,
        /// The number of results; all if absent.
        #[schema(minimum = 1)]
        top_n | top_k: Option<usize>,
        latency: Option<LatencyMode>,
        ..options: RequestOptions,
    }
}

/// There is one speed here; both words are accepted.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ZeroEntropyLatency)]
enum LatencyMode {
    Fast,
    Slow,
}

impl Field for LatencyMode {
    fn from_value(name: &str, value: Value) -> Result<Self, RerankError> {
        match text(name, value)?.as_str() {
            "fast" => Ok(Self::Fast),
            "slow" => Ok(Self::Slow),
            word => Err(none_of(name, word, &["fast", "slow"])),
        }
    }
}

#[derive(Serialize, ToSchema)]
struct ZeroEntropyReply<'a> {
    /// Best first.
    results: Vec<ZeroEntropyResult>,
    total_bytes: usize,
    total_tokens: usize,
    /// Seconds.
    e2e_latency: f64,
    /// Seconds.
    inference_latency: f64,
    #[schema(inline)]
    actual_latency_mode: OneSpeed,
    warnings: &'a [String],
}

/// The only speed.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum OneSpeed {
    Fast,
}

#[derive(Serialize, ToSchema)]
struct ZeroEntropyResult {
    index: usize,
    #[schema(minimum = 0, maximum = 1)]
    relevance_score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    passage: Option<PassageReply>,
}

fn read(fields: &mut Fields) -> Result<Call, RerankError> {
    let request = Request::read(fields)?;
    // The type is the check.
    let _checked = request.latency;
    let (texts, sent) = request.documents.into_parts("documents", None, false)?;
    let query = request.query.0;
    let total_bytes = texts.iter().map(|text| BYTES_PER_DOCUMENT + query.len() + text.len()).sum();
    let ranking = request.options.into_request(query, texts, request.top_n);
    Ok(Call::new(ranking, "documents", sent, move |answer| reply(answer, total_bytes)))
}

fn reply(answer: &Answer<'_>, total_bytes: usize) -> serde_json::Result<Reply> {
    let ranking = answer.ranking();
    let results = ranking.results.iter().map(|row| ZeroEntropyResult {
        index: row.index,
        relevance_score: row.relevance_score,
        passage: PassageReply::of(row),
    });
    Reply::json(&ZeroEntropyReply {
        results: results.collect(),
        total_bytes,
        total_tokens: answer.prompt_tokens(),
        e2e_latency: ranking.timing.total.as_secs_f64(),
        inference_latency: ranking.timing.forward.as_secs_f64(),
        actual_latency_mode: OneSpeed::Fast,
        warnings: &ranking.warnings,
    })
}
