//! Pinecone's dialect, under `/pinecone`: records in, `data` with `score` and the record out.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::documents::{Documents, Query};
use super::truncate::Truncate;
use super::{Answer, Call, Dialect, PassageReply, Reply, RequestOptions, request};
use crate::http::error_body::ErrorShape;
use crate::http::fields::{Fields, Flag, Part, Reader, flag_or};
use crate::http::schemas::SchemaOf;
use crate::rerank::RerankError;

pub(super) static DIALECT: Dialect = Dialect {
    name: "pinecone",
    summary: "Pinecone",
    description: "Documents are records; `data` has the scores and the records.",
    request: SchemaOf::request::<Request>(),
    reply: SchemaOf::reply::<PineconeReply<'_>>(),
    errors: ErrorShape::Podium,
    read,
};

request! {
    #[schema(
        as = PineconeRequest,
        example = json!({
            "query": "How do I reset my password?",
            "documents": [{"text": "Cats sleep a lot."}, {"text": "Open Settings, then Security, then Reset password."}],
            "rank_fields": ["text"],
        })
    )]
    struct Request {
        query: Query,
        documents: Documents,
        /// The number of results; all if absent.
        #[schema(minimum = 1)]
        top_n | top_k: Option<usize>,
        /// The fields of a record to read, in this order.
        rank_fields: Option<Vec<String>>,
        /// Whether the reply returns the documents.
        #[schema(default = true)]
        return_documents: Option<Flag>,
        #[schema(value_type = Option<Parameters>)]
        parameters: Option<Part<Parameters>>,
        ..options: RequestOptions,
    }
}

request! {
    /// Parameters of Pinecone's models.
    #[derive(Default)]
    #[schema(as = PineconeParameters)]
    struct Parameters {
        #[schema(default = "END")]
        truncate: Option<Truncate>,
    }
}

#[derive(Serialize, ToSchema)]
struct PineconeReply<'a> {
    model: &'a str,
    /// Best first.
    data: Vec<PineconeResult<'a>>,
    usage: PineconeUsage,
}

#[derive(Serialize, ToSchema)]
struct PineconeResult<'a> {
    index: usize,
    #[schema(minimum = 0, maximum = 1)]
    score: f32,
    /// The document as it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Value, required = false)]
    document: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    passage: Option<PassageReply>,
}

#[derive(Serialize, ToSchema)]
struct PineconeUsage {
    rerank_units: usize,
}

fn read(fields: &mut Fields) -> Result<Call, RerankError> {
    let request = Request::read(fields)?;
    let returned = flag_or(request.return_documents, true);
    let (texts, sent) = request.documents.into_parts("documents", request.rank_fields, returned)?;
    let parameters = request.parameters.map(|parameters| parameters.take(fields)).unwrap_or_default();
    let mut ranking = request.options.into_request(request.query.0, texts, request.top_n);
    ranking.truncation = parameters.truncate != Some(Truncate::None);
    Ok(Call::new(ranking, "documents", sent, reply))
}

fn reply(answer: &Answer<'_>) -> serde_json::Result<Reply> {
    let ranking = answer.ranking();
    let results = ranking.results.iter().map(|row| PineconeResult {
        index: row.index,
        score: row.relevance_score,
        document: answer.sent.document(row.index),
        passage: PassageReply::of(row),
    });
    Reply::json(&PineconeReply {
        model: &ranking.model,
        data: results.collect(),
        usage: PineconeUsage { rerank_units: 1 },
    })
}
