//! `ZeroEntropy`'s dialect: `/v1/models/rerank`.

use serde::Serialize;

use super::{Answer, Call, Dialect, documents, no_headers, request};
use crate::http::error_body::ErrorShape;
use crate::http::fields::{Fields, quoted};
use crate::rerank::RerankError;

pub(super) const DIALECT: Dialect = Dialect {
    name: "zeroentropy",
    documents: "documents",
    read,
    write,
    headers: no_headers,
    failure: ErrorShape::Podium,
};

/// Bytes that its API counts for each document, beside the query's and the document's own.
const BYTES_PER_DOCUMENT: usize = 150;

#[derive(Serialize)]
struct Reply<'a> {
    results: Vec<Rank>,
    total_bytes: usize,
    total_tokens: usize,
    /// Seconds.
    e2e_latency: f64,
    /// Seconds.
    inference_latency: f64,
    actual_latency_mode: &'static str,
    warnings: &'a [String],
}

#[derive(Serialize)]
struct Rank {
    index: usize,
    relevance_score: f32,
}

fn read(fields: &mut Fields) -> Result<Call, RerankError> {
    let query = documents::query("query", &fields.required("query")?)?;
    let texts = documents::texts("documents", &fields.required_list("documents")?, None)?;
    // There is one speed here.
    if let Some(word) = fields.text("latency")?.filter(|word| word != "fast" && word != "slow") {
        return Err(RerankError::invalid("latency", format!("{} is none of fast, slow", quoted(&word))));
    }
    let counted_bytes = texts.iter().map(|text| BYTES_PER_DOCUMENT + query.len() + text.len()).sum();
    Ok(Call { counted_bytes, ..Call::new(request(fields, query, texts)?) })
}

fn write(answer: &Answer<'_>) -> serde_json::Result<Vec<u8>> {
    let ranking = answer.ranking();
    let rank = |index, relevance_score| Rank { index, relevance_score };
    serde_json::to_vec(&Reply {
        results: ranking.results.iter().map(|row| rank(row.index, row.relevance_score)).collect(),
        total_bytes: answer.call.counted_bytes,
        total_tokens: answer.prompt_tokens(),
        e2e_latency: ranking.timing.total.as_secs_f64(),
        inference_latency: ranking.timing.forward.as_secs_f64(),
        actual_latency_mode: "fast",
        warnings: &ranking.warnings,
    })
}
