//! mixedbread's dialect: `input` in, `data` with `score` out. It is on `/v1/reranking` and on every
//! shared path where a body has `input`.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{RefOr, Schema};

use super::documents::{Documents, Query};
use super::{Answer, Call, Dialect, ListObject, PassageReply, Reply, RequestOptions, TokenUsage, request};
use crate::http::error_body::ErrorShape;
use crate::http::fields::{Field, Fields, Flag, Reader, flag_or};
use crate::http::schemas::SchemaOf;
use crate::rerank::RerankError;

pub(super) static DIALECT: Dialect = Dialect {
    name: "mixedbread",
    summary: "mixedbread",
    description: "The results are in `data`, best first.",
    request: SchemaOf::request::<Request>(),
    reply: SchemaOf::reply::<MixedbreadReply<'_>>(),
    errors: ErrorShape::Podium,
    read,
};

request! {
    #[schema(
        as = MixedbreadRequest,
        example = json!({
            "query": "How do I reset my password?",
            "input": ["Cats sleep a lot.", "Open Settings, then Security, then Reset password."],
        })
    )]
    struct Request {
        query: Query,
        input: Documents,
        /// The number of results; all if absent.
        #[schema(minimum = 1)]
        top_n | top_k: Option<usize>,
        /// The fields of a record to read, in this order.
        rank_fields: Option<Vec<String>>,
        /// Whether the reply returns the documents.
        #[schema(default = false)]
        return_input: Option<Flag>,
        rewrite_query: Option<NotRewritten>,
        ..options: RequestOptions,
    }
}

/// A query that is not rewritten: there is no other one here.
#[derive(Debug)]
struct NotRewritten;

impl Field for NotRewritten {
    fn from_value(name: &str, value: Value) -> Result<Self, RerankError> {
        match Flag::from_value(name, value)? {
            Flag(false) => Ok(Self),
            Flag(true) => Err(RerankError::invalid(name, "queries are read as they are; leave it out or send false")),
        }
    }
}

impl utoipa::PartialSchema for NotRewritten {
    fn schema() -> RefOr<Schema> {
        let schema = ObjectBuilder::new().schema_type(SchemaType::new(Type::Boolean)).enum_values(Some([false]));
        schema.description(Some("Queries are read as they are.")).into()
    }
}

impl ToSchema for NotRewritten {}

#[derive(Serialize, ToSchema)]
struct MixedbreadReply<'a> {
    id: &'a str,
    #[schema(inline)]
    object: ListObject,
    model: &'a str,
    top_k: usize,
    return_input: bool,
    /// Best first.
    data: Vec<MixedbreadResult<'a>>,
    usage: MixedbreadUsage,
    warnings: &'a [String],
}

#[derive(Serialize, ToSchema)]
struct MixedbreadResult<'a> {
    index: usize,
    #[schema(minimum = 0, maximum = 1)]
    score: f32,
    /// The document as it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Value, required = false)]
    input: Option<&'a Value>,
    #[schema(inline)]
    object: RankResultObject,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    passage: Option<PassageReply>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum RankResultObject {
    RankResult,
}

#[derive(Serialize, ToSchema)]
struct MixedbreadUsage {
    #[serde(flatten)]
    usage: TokenUsage,
    /// Always 0: a reranker generates no tokens.
    completion_tokens: usize,
}

fn read(fields: &mut Fields) -> Result<Call, RerankError> {
    let request = Request::read(fields)?;
    // The type is the check.
    let _checked = request.rewrite_query;
    let (texts, sent) = request.input.into_parts("input", request.rank_fields, flag_or(request.return_input, false))?;
    let ranking = request.options.into_request(request.query.0, texts, request.top_n);
    Ok(Call::new(ranking, "input", sent, reply))
}

fn reply(answer: &Answer<'_>) -> serde_json::Result<Reply> {
    let ranking = answer.ranking();
    let results = ranking.results.iter().map(|row| MixedbreadResult {
        index: row.index,
        score: row.relevance_score,
        input: answer.sent.document(row.index),
        object: RankResultObject::RankResult,
        passage: PassageReply::of(row),
    });
    Reply::json(&MixedbreadReply {
        id: answer.id,
        object: ListObject::List,
        model: &ranking.model,
        top_k: ranking.results.len(),
        return_input: answer.sent.is_returned(),
        data: results.collect(),
        usage: MixedbreadUsage { usage: answer.token_usage(), completion_tokens: 0 },
        warnings: &ranking.warnings,
    })
}
