//! NVIDIA NIM's dialect: `/v1/ranking`. Its scores are logits; here they are the family's own
//! scores.

use serde::Serialize;
use utoipa::ToSchema;

use super::documents::{Documents, Query};
use super::truncate::Truncate;
use super::{Answer, Call, Dialect, PassageReply, Reply, RequestOptions, TokenUsage, raw_score_of, request};
use crate::http::error_body::ErrorShape;
use crate::http::fields::{Fields, Reader};
use crate::http::schemas::SchemaOf;
use crate::rerank::RerankError;

pub(super) static DIALECT: Dialect = Dialect {
    name: "nim",
    summary: "NVIDIA NIM",
    description: "`logit` is the family's own score.",
    request: SchemaOf::request::<Request>(),
    reply: SchemaOf::reply::<NimReply>(),
    errors: ErrorShape::Podium,
    read,
};

request! {
    #[schema(
        as = NimRequest,
        example = json!({
            "query": {"text": "How do I reset my password?"},
            "passages": [{"text": "Cats sleep a lot."}, {"text": "Open Settings, then Security, then Reset password."}],
            "truncate": "END",
        })
    )]
    struct Request {
        query: Query,
        passages: Documents,
        /// The number of results; all if absent.
        #[schema(minimum = 1)]
        top_n | top_k: Option<usize>,
        #[schema(default = "NONE")]
        truncate: Option<Truncate>,
        ..options: RequestOptions,
    }
}

#[derive(Serialize, ToSchema)]
#[schema(
    example = json!({
        "rankings": [{"index": 1, "logit": 0.71}, {"index": 0, "logit": 0.11}],
        "usage": {"prompt_tokens": 52, "total_tokens": 52},
    })
)]
struct NimReply {
    /// Best first.
    rankings: Vec<NimResult>,
    usage: TokenUsage,
}

#[derive(Serialize, ToSchema)]
struct NimResult {
    index: usize,
    logit: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    passage: Option<PassageReply>,
}

fn read(fields: &mut Fields) -> Result<Call, RerankError> {
    let request = Request::read(fields)?;
    let (texts, sent) = request.passages.into_parts("passages", None, false)?;
    let mut ranking = request.options.into_request(request.query.0, texts, request.top_n);
    ranking.truncation = request.truncate == Some(Truncate::End);
    Ok(Call::new(ranking, "passages", sent, reply))
}

fn reply(answer: &Answer<'_>) -> serde_json::Result<Reply> {
    let results = &answer.ranking().results;
    let raw_score = raw_score_of(results);
    let rankings =
        results.iter().map(|row| NimResult { index: row.index, logit: raw_score(row), passage: PassageReply::of(row) });
    Reply::json(&NimReply { rankings: rankings.collect(), usage: answer.token_usage() })
}

#[cfg(test)]
mod tests {
    use super::super::tests::read;
    use super::*;

    #[test]
    fn passages_are_cut_only_if_the_request_asks_for_it() {
        let body = |truncate: &str| format!(r#"{{"query":{{"text":"q"}},"passages":[{{"text":"a"}}]{truncate}}}"#);
        for (truncate, cut) in [("", false), (r#","truncate":"NONE""#, false), (r#","truncate":"END""#, true)] {
            let call = read(&DIALECT, &body(truncate)).unwrap();
            assert_eq!(call.requests[0].truncation, cut, "{truncate}");
            assert_eq!(call.requests[0].documents, ["a"]);
        }
        let problem = read(&DIALECT, &body(r#","truncate":"START""#)).err().unwrap();
        assert_eq!(problem, r#"truncate: "START" is none of NONE, END"#);
    }
}
