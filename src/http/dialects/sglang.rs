//! `SGLang`'s dialect, under `/sglang`: the fields of the shared dialect, and a bare array out,
//! with the documents unless the client wants none.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::podium;
use super::{Answer, Call, Dialect, PassageReply, Reply};
use crate::http::error_body::ErrorShape;
use crate::http::fields::{Fields, Reader};
use crate::http::schemas::SchemaOf;
use crate::rerank::RerankError;

pub(super) static DIALECT: Dialect = Dialect {
    name: "sglang",
    summary: "SGLang",
    description: "The reply is a bare array, best first. Documents come back unless `return_documents` is false.",
    request: SchemaOf::request::<podium::Request>(),
    reply: SchemaOf::reply::<SglangReply>(),
    errors: ErrorShape::Podium,
    read,
};

#[derive(Serialize, ToSchema)]
#[schema(as = SglangReply, example = json!([
    {"score": 0.62, "document": "Open Settings, then Security, then Reset password.", "index": 1, "meta_info": {}},
    {"score": 0.04, "document": "Cats sleep a lot.", "index": 0, "meta_info": {}},
]))]
struct SglangReply<'a>(Vec<SglangResult<'a>>);

#[derive(Serialize, ToSchema)]
struct SglangResult<'a> {
    #[schema(minimum = 0, maximum = 1)]
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    document: Option<Cow<'a, str>>,
    index: usize,
    /// Empty: there is nothing to say.
    meta_info: MetaInfo,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    passage: Option<PassageReply>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SglangMetaInfo)]
struct MetaInfo {}

fn read(fields: &mut Fields) -> Result<Call, RerankError> {
    podium::drop_empty_top_n(fields);
    let _asked = fields.add("return_documents", Value::Bool(true));
    let request = podium::Request::read(fields)?;
    podium::ignore_fields(fields);
    let (ranking, sent) = request.into_request()?;
    Ok(Call::new(ranking, "documents", sent, reply))
}

fn reply(answer: &Answer<'_>) -> serde_json::Result<Reply> {
    let rows = answer.ranking().results.iter().map(|row| SglangResult {
        score: row.relevance_score,
        document: answer.sent.text(row.index),
        index: row.index,
        meta_info: MetaInfo {},
        passage: PassageReply::of(row),
    });
    Reply::json(&SglangReply(rows.collect()))
}
