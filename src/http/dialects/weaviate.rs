//! Weaviate's dialect (its module reranker-transformers), under `/weaviate`: a score for each
//! document, in the order of the request.

use std::borrow::Cow;

use serde::Serialize;
use utoipa::ToSchema;

use super::documents::{Documents, Query};
use super::{Answer, Call, Dialect, Reply, RequestOptions, request};
use crate::http::error_body::ErrorShape;
use crate::http::fields::{Fields, Reader};
use crate::http::schemas::SchemaOf;
use crate::rerank::RerankError;

pub(super) static DIALECT: Dialect = Dialect {
    name: "weaviate",
    summary: "Weaviate",
    description: "The scores are in the order of the request. Errors have their message in `error`.",
    request: SchemaOf::request::<Request>(),
    reply: SchemaOf::reply::<WeaviateReply<'_>>(),
    errors: ErrorShape::Tei,
    read,
};

request! {
    #[schema(
        as = WeaviateRequest,
        example = json!({
            "query": "How do I reset my password?",
            "documents": ["Cats sleep a lot.", "Open Settings, then Security, then Reset password."],
        })
    )]
    struct Request {
        query: Query,
        documents: Documents,
        ..options: RequestOptions,
    }
}

#[derive(Serialize, ToSchema)]
struct WeaviateReply<'a> {
    query: &'a str,
    /// In the order of the request.
    scores: Vec<WeaviateScore<'a>>,
}

#[derive(Serialize, ToSchema)]
struct WeaviateScore<'a> {
    document: Cow<'a, str>,
    #[schema(minimum = 0, maximum = 1)]
    score: f32,
}

fn read(fields: &mut Fields) -> Result<Call, RerankError> {
    let request = Request::read(fields)?;
    // Weaviate sends it, always empty.
    fields.ignore(&["property"]);
    let (texts, sent) = request.documents.into_parts("documents", None, true)?;
    let query = request.query.0.clone();
    let ranking = request.options.into_request(request.query.0, texts, None);
    Ok(Call::new(ranking, "documents", sent, move |answer| reply(answer, &query)))
}

fn reply(answer: &Answer<'_>, query: &str) -> serde_json::Result<Reply> {
    let mut rows: Vec<_> = answer.ranking().results.iter().collect();
    rows.sort_by_key(|row| row.index);
    let scores = rows.into_iter().map(|row| WeaviateScore {
        document: answer.sent.text(row.index).unwrap_or_default(),
        score: row.relevance_score,
    });
    Reply::json(&WeaviateReply { query, scores: scores.collect() })
}
