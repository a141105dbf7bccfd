//! Infinity's dialect, under `/infinity`: the shared one, but documents come back as plain strings in `results`.

use serde::Serialize;

use super::{Answer, Call, Dialect, TokenUsage, no_headers, podium};
use crate::http::error_body::ErrorShape;
use crate::http::fields::Fields;
use crate::rerank::RerankError;

pub(super) const DIALECT: Dialect =
    Dialect { name: "infinity", documents: "documents", read, write, headers: no_headers, failure: ErrorShape::Podium };

#[derive(Serialize)]
struct Reply<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    results: Vec<Rank<'a>>,
    usage: TokenUsage,
    warnings: &'a [String],
}

#[derive(Serialize)]
struct Rank<'a> {
    index: usize,
    relevance_score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<&'a str>,
}

fn read(fields: &mut Fields) -> Result<Call, RerankError> {
    let raw_scores = fields.flag("raw_scores", false)?;
    if fields.has("texts") && !fields.has("documents") {
        fields.rename("texts", "documents");
    }
    Ok(Call { raw_scores, ..podium::read(fields)? })
}

fn write(answer: &Answer<'_>) -> serde_json::Result<Vec<u8>> {
    let ranking = answer.ranking();
    let raw = answer.call.raw_scores;
    let results = ranking.results.iter().map(|row| Rank {
        index: row.index,
        relevance_score: if raw { row.raw_score } else { row.relevance_score },
        document: answer.echoed_text(row.index),
    });
    serde_json::to_vec(&Reply {
        id: answer.id,
        object: "rerank",
        created: answer.created,
        model: &ranking.model,
        results: results.collect(),
        usage: answer.token_usage(),
        warnings: &ranking.warnings,
    })
}
