//! The dialect of Elasticsearch's inference API: `input` in, `rerank` out.

use std::borrow::Cow;

use axum::http::HeaderValue;
use serde::Serialize;
use utoipa::ToSchema;

use super::documents::{Documents, Query};
use super::{Answer, Call, Dialect, Reply, RequestOptions, podium, request};
use crate::http::error_body::ErrorShape;
use crate::http::fields::{Fields, Flag, Part, Reader, flag_or};
use crate::http::schemas::SchemaOf;
use crate::rerank::RerankError;

pub(super) static DIALECT: Dialect = Dialect {
    name: "elastic",
    summary: "Elasticsearch",
    description: "The results are in `rerank`, best first. The id in the path may be any.",
    request: SchemaOf::request::<Request>(),
    reply: SchemaOf::reply::<ElasticReply<'_>>(),
    errors: ErrorShape::Podium,
    read,
};

request! {
    #[schema(
        as = ElasticRequest,
        example = json!({
            "query": "How do I reset my password?",
            "input": ["Cats sleep a lot.", "Open Settings, then Security, then Reset password."],
            "top_n": 2,
            "return_documents": true,
        })
    )]
    struct Request {
        query: Query,
        input: Documents,
        #[schema(value_type = Option<Settings>)]
        task_settings: Option<Part<Settings>>,
        ..settings: Settings,
        ..options: RequestOptions,
    }
}

request! {
    #[derive(Default)]
    #[schema(as = ElasticTaskSettings)]
    struct Settings {
        /// The number of results; all if absent or 0.
        #[schema(minimum = 0)]
        top_n: Option<usize>,
        /// Whether the reply returns the texts.
        #[schema(default = false)]
        return_documents: Option<Flag>,
    }
}

#[derive(Serialize, ToSchema)]
struct ElasticReply<'a> {
    /// Best first.
    rerank: Vec<ElasticResult<'a>>,
}

#[derive(Serialize, ToSchema)]
struct ElasticResult<'a> {
    index: usize,
    #[schema(minimum = 0, maximum = 1)]
    relevance_score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    text: Option<Cow<'a, str>>,
}

fn read(fields: &mut Fields) -> Result<Call, RerankError> {
    podium::drop_empty_top_n(fields);
    let request = Request::read(fields)?;
    let task_settings = request.task_settings.map(|settings| settings.take(fields)).unwrap_or_default();
    let returned = flag_or(request.settings.return_documents.or(task_settings.return_documents), false);
    let top_n = request.settings.top_n.or(task_settings.top_n.filter(|top_n| *top_n > 0));
    let (texts, sent) = request.input.into_parts("input", None, returned)?;
    let ranking = request.options.into_request(request.query.0, texts, top_n);
    Ok(Call::new(ranking, "input", sent, reply))
}

fn reply(answer: &Answer<'_>) -> serde_json::Result<Reply> {
    let rerank = answer.ranking().results.iter().map(|row| ElasticResult {
        index: row.index,
        relevance_score: row.relevance_score,
        text: answer.sent.text(row.index),
    });
    let mut reply = Reply::json(&ElasticReply { rerank: rerank.collect() })?;
    // Elastic's clients refuse replies without it.
    reply.headers.insert("x-elastic-product", HeaderValue::from_static("Elasticsearch"));
    Ok(reply)
}
