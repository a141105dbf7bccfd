//! `DashScope`'s dialect (Alibaba Cloud Model Studio): query and documents in `input`, the options
//! in `parameters`, the results in `output`. Spring AI Alibaba speaks it too.

use std::borrow::Cow;

use serde::Serialize;
use utoipa::ToSchema;

use super::documents::{Documents, Query};
use super::{Answer, Call, Dialect, PassageReply, Reply, RequestOptions, podium, request};
use crate::http::error_body::ErrorShape;
use crate::http::fields::{Fields, Flag, Part, Reader, flag_or};
use crate::http::schemas::SchemaOf;
use crate::rerank::RerankError;

pub(super) static DIALECT: Dialect = Dialect {
    name: "dashscope",
    summary: "DashScope",
    description: "The results are in `output`, best first.",
    request: SchemaOf::request::<Request>(),
    reply: SchemaOf::reply::<DashScopeReply<'_>>(),
    errors: ErrorShape::Podium,
    read,
};

request! {
    #[schema(
        as = DashScopeRequest,
        example = json!({
            "model": "podium-mini",
            "input": {
                "query": "How do I reset my password?",
                "documents": ["Cats sleep a lot.", "Open Settings, then Security, then Reset password."],
            },
            "parameters": {"top_n": 2, "return_documents": true},
        })
    )]
    struct Request {
        #[schema(value_type = Input)]
        input: Part<Input>,
        #[schema(value_type = Option<Parameters>)]
        parameters: Option<Part<Parameters>>,
        ..options: RequestOptions,
    }
}

request! {
    #[schema(as = DashScopeInput)]
    struct Input {
        query: Query,
        documents: Documents,
    }
}

request! {
    #[derive(Default)]
    #[schema(as = DashScopeParameters)]
    struct Parameters {
        /// The number of results; all if absent or 0.
        #[schema(minimum = 0)]
        top_n: Option<usize>,
        /// Whether the reply returns the documents.
        #[schema(default = false)]
        return_documents: Option<Flag>,
        /// How to judge relevance.
        instruct: Option<String>,
    }
}

#[derive(Serialize, ToSchema)]
struct DashScopeReply<'a> {
    output: Output<'a>,
    usage: TotalTokens,
    request_id: &'a str,
}

#[derive(Serialize, ToSchema)]
#[schema(as = DashScopeOutput)]
struct Output<'a> {
    /// Best first.
    results: Vec<DashScopeResult<'a>>,
}

#[derive(Serialize, ToSchema)]
struct DashScopeResult<'a> {
    index: usize,
    #[schema(minimum = 0, maximum = 1)]
    relevance_score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    document: Option<DashScopeDocument<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    passage: Option<PassageReply>,
}

#[derive(Serialize, ToSchema)]
struct DashScopeDocument<'a> {
    text: Cow<'a, str>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = DashScopeUsage)]
struct TotalTokens {
    total_tokens: usize,
}

fn read(fields: &mut Fields) -> Result<Call, RerankError> {
    let request = Request::read(fields)?;
    podium::ignore_fields(fields);
    let input = request.input.take(fields);
    let parameters = request.parameters.map(|parameters| parameters.take(fields)).unwrap_or_default();
    let mut options = request.options;
    if parameters.instruct.is_some() {
        if options.instruction.is_some() {
            let problem = "given as parameters.instruct too; give one of them";
            return Err(RerankError::invalid("instruction", problem));
        }
        options.instruction = parameters.instruct;
    }
    let returned = flag_or(parameters.return_documents, false);
    let (texts, sent) = input.documents.into_parts("input.documents", None, returned)?;
    let top_n = parameters.top_n.filter(|top_n| *top_n > 0);
    let ranking = options.into_request(input.query.0, texts, top_n);
    let mut call = Call::new(ranking, "input.documents", sent, reply);
    call.field_names.0 = "input.query";
    Ok(call)
}

fn reply(answer: &Answer<'_>) -> serde_json::Result<Reply> {
    let results = answer.ranking().results.iter().map(|row| DashScopeResult {
        index: row.index,
        relevance_score: row.relevance_score,
        document: answer.sent.text(row.index).map(|text| DashScopeDocument { text }),
        passage: PassageReply::of(row),
    });
    Reply::json(&DashScopeReply {
        output: Output { results: results.collect() },
        usage: TotalTokens { total_tokens: answer.prompt_tokens() },
        request_id: answer.id,
    })
}
