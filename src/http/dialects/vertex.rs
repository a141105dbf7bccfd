//! Google's dialect (the ranking API of Vertex AI Search): `records` with an id, a title and a
//! content in, the same records with their scores out.

#![expect(non_snake_case, reason = "the names of the fields on the wire")]

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::documents::{Documents, Query};
use super::{Answer, Call, Dialect, Reply, RequestOptions, request};
use crate::http::error_body::ErrorShape;
use crate::http::fields::{Fields, Flag, Reader, flag_or};
use crate::http::schemas::SchemaOf;
use crate::rerank::RerankError;

pub(super) static DIALECT: Dialect = Dialect {
    name: "vertex",
    summary: "Vertex AI Search",
    description: "The model reads `title` and `content` of each record. The records come back, best first.",
    request: SchemaOf::request::<Request>(),
    reply: SchemaOf::reply::<VertexReply<'_>>(),
    errors: ErrorShape::Podium,
    read,
};

/// The fields of a record that the model reads.
const READ_FIELDS: [&str; 2] = ["title", "content"];

request! {
    #[schema(
        as = VertexRequest,
        example = json!({
            "query": "How do I reset my password?",
            "records": [
                {"id": "1", "content": "Cats sleep a lot."},
                {"id": "2", "title": "Passwords", "content": "Open Settings, then Security, then Reset password."},
            ],
            "topN": 2,
        })
    )]
    struct Request {
        query: Query,
        records: Documents,
        /// The number of results; all if absent or 0.
        #[schema(minimum = 0)]
        topN | top_n: Option<usize>,
        /// Whether the reply has only the ids and scores.
        #[schema(default = false)]
        ignoreRecordDetailsInResponse | ignore_record_details_in_response: Option<Flag>,
        ..options: RequestOptions,
    }
}

#[derive(Serialize, ToSchema)]
struct VertexReply<'a> {
    /// Best first.
    records: Vec<VertexRecord<'a>>,
}

#[derive(Serialize, ToSchema)]
struct VertexRecord<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    id: Option<Cow<'a, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Value, required = false)]
    title: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Value, required = false)]
    content: Option<&'a Value>,
    #[schema(minimum = 0, maximum = 1)]
    score: f32,
}

fn read(fields: &mut Fields) -> Result<Call, RerankError> {
    let request = Request::read(fields)?;
    fields.ignore(&["userLabels", "user_labels"]);
    let only_ids = flag_or(request.ignoreRecordDetailsInResponse, false);
    let names = READ_FIELDS.map(str::to_owned).to_vec();
    let (texts, sent) = request.records.into_parts("records", Some(names), true)?;
    let ranking = request.options.into_request(request.query.0, texts, request.topN.filter(|top_n| *top_n > 0));
    Ok(Call::new(ranking, "records", sent, move |answer| reply(answer, only_ids)))
}

fn reply(answer: &Answer<'_>, only_ids: bool) -> serde_json::Result<Reply> {
    let records = answer.ranking().results.iter().map(|row| {
        let record = answer.sent.document(row.index);
        let field = |name: &str| record.and_then(|record| record.get(name));
        let detail = |name: &str| field(name).filter(|_| !only_ids);
        // A record without an id gets its index.
        let id = field("id").map_or_else(|| Cow::Owned(row.index.to_string().into()), Cow::Borrowed);
        VertexRecord { id: Some(id), title: detail("title"), content: detail("content"), score: row.relevance_score }
    });
    Reply::json(&VertexReply { records: records.collect() })
}
