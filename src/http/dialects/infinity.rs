//! Infinity's dialect, under `/infinity`: the fields of the shared dialect, but the documents in
//! `results` are plain strings.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::podium::{self, RerankObject};
use super::{Answer, Call, Dialect, PassageReply, Reply, TokenUsage, raw_score_of, request};
use crate::http::error_body::ErrorShape;
use crate::http::fields::{Fields, Flag, Reader, flag_or};
use crate::http::schemas::SchemaOf;
use crate::rerank::RerankError;

const UNSPECIFIED_MODEL: &str = "default/not-specified";

pub(super) static DIALECT: Dialect = Dialect {
    name: "infinity",
    summary: "Infinity",
    description: "Documents are returned as plain strings.",
    request: SchemaOf::request::<Request>(),
    reply: SchemaOf::reply::<InfinityReply<'_>>(),
    errors: ErrorShape::Podium,
    read,
};

request! {
    #[schema(
        as = InfinityRequest,
        example = json!({
            "query": "How do I reset my password?",
            "documents": ["Cats sleep a lot.", "Open Settings, then Security, then Reset password."],
            "return_documents": true,
        })
    )]
    struct Request {
        /// The family's own scores instead of scores in [0, 1].
        #[schema(default = false)]
        raw_scores: Option<Flag>,
        ..shared: podium::Request,
    }
}

#[derive(Serialize, ToSchema)]
struct InfinityReply<'a> {
    id: &'a str,
    #[schema(inline)]
    object: RerankObject,
    created: u64,
    model: &'a str,
    /// Best first.
    results: Vec<InfinityResult<'a>>,
    usage: TokenUsage,
    warnings: &'a [String],
}

#[derive(Serialize, ToSchema)]
struct InfinityResult<'a> {
    index: usize,
    relevance_score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    document: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    passage: Option<PassageReply>,
}

fn read(fields: &mut Fields) -> Result<Call, RerankError> {
    if fields.has("texts") && !fields.has("documents") {
        fields.rename("texts", "documents");
    }
    let means_all = |value: &Value| super::number(value).is_some_and(|number| [0.0, -1.0].contains(&number));
    fields.drop_if("top_n", means_all, "all results");
    // Infinity's clients send this name where the caller gives none.
    if fields.is("model", UNSPECIFIED_MODEL) {
        fields.ignore(&["model"]);
    }
    let request = Request::read(fields)?;
    podium::ignore_fields(fields);
    let raw_scores = flag_or(request.raw_scores, false);
    let (ranking, sent) = request.shared.into_request()?;
    Ok(Call::new(ranking, "documents", sent, move |answer| reply(answer, raw_scores)))
}

fn reply(answer: &Answer<'_>, raw_scores: bool) -> serde_json::Result<Reply> {
    let ranking = answer.ranking();
    let raw_score = raw_score_of(&ranking.results);
    let results = ranking.results.iter().map(|row| InfinityResult {
        index: row.index,
        relevance_score: if raw_scores { raw_score(row) } else { row.relevance_score },
        document: answer.sent.text(row.index),
        passage: PassageReply::of(row),
    });
    Reply::json(&InfinityReply {
        id: answer.id,
        object: RerankObject::Rerank,
        created: answer.created,
        model: &ranking.model,
        results: results.collect(),
        usage: answer.token_usage(),
        warnings: &ranking.warnings,
    })
}
