//! mixedbread's dialect: `input` in, `data` with `score` out. `/v1/reranking`, and wherever `input` is sent.

use serde::Serialize;
use serde_json::Value;

use super::{Answer, Call, Dialect, TokenUsage, documents, no_headers, request};
use crate::http::error_body::ErrorShape;
use crate::http::fields::Fields;
use crate::rerank::RerankError;

pub(super) const DIALECT: Dialect =
    Dialect { name: "mixedbread", documents: "input", read, write, headers: no_headers, failure: ErrorShape::Podium };

#[derive(Serialize)]
struct Reply<'a> {
    id: &'a str,
    object: &'static str,
    model: &'a str,
    top_k: usize,
    return_input: bool,
    data: Vec<Rank<'a>>,
    usage: Usage,
    warnings: &'a [String],
}

#[derive(Serialize)]
struct Rank<'a> {
    index: usize,
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<&'a Value>,
    object: &'static str,
}

#[derive(Serialize)]
struct Usage {
    #[serde(flatten)]
    read: TokenUsage,
    /// Its clients read this too; a reranker writes nothing.
    completion_tokens: usize,
}

fn read(fields: &mut Fields) -> Result<Call, RerankError> {
    let query = documents::query("query", &fields.required("query")?)?;
    let items = fields.required_list("input")?;
    let texts = documents::texts("input", &items, documents::rank_fields(fields)?.as_deref())?;
    let return_input = fields.flag("return_input", false)?;
    if fields.flag("rewrite_query", false)? {
        return Err(RerankError::invalid("rewrite_query", "queries are read as they are; leave it out or send false"));
    }
    Ok(Call::new(request(fields, query, texts)?).echoing(return_input.then_some(items)))
}

fn write(answer: &Answer<'_>) -> serde_json::Result<Vec<u8>> {
    let ranking = answer.ranking();
    let rank = |index, score| Rank { index, score, input: answer.echo(index), object: "rank_result" };
    serde_json::to_vec(&Reply {
        id: answer.id,
        object: "list",
        model: &ranking.model,
        top_k: ranking.results.len(),
        return_input: answer.call.echo.is_some(),
        data: ranking.results.iter().map(|row| rank(row.index, row.relevance_score)).collect(),
        usage: Usage { read: answer.token_usage(), completion_tokens: 0 },
        warnings: &ranking.warnings,
    })
}
