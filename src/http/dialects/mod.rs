//! The rerank APIs that clients already use, one file for each.
//!
//! A dialect is a request type, a reply type and two conversions: from the request's fields to a
//! [`Call`], which holds the [`RerankRequest`]s, and from the rankings to the reply. Limits,
//! defaults and statuses are the same for all dialects and live elsewhere. The path decides the
//! dialect; on the shared paths (`/rerank` and the like) the fields of the body do.

mod bedrock;
mod cascade;
mod dashscope;
pub mod documents;
mod early_exit;
mod elastic;
mod infinity;
mod mixedbread;
mod nim;
mod options;
mod other_fields;
mod passages;
mod pinecone;
pub mod podium;
mod score;
mod sglang;
mod tei;
mod truncate;
mod vertex;
mod weaviate;
mod zeroentropy;

use axum::http::HeaderMap;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

pub(super) use other_fields::{check_headers, check_unread, take_headers};

use super::error::ApiError;
use super::error_body::ErrorShape;
use super::fields::{Fields, request};
use super::schemas::{ListObject, SchemaOf};
use crate::rerank::{RankedDocument, Ranking, RerankError, RerankRequest};
use crate::telemetry::RouteKind;
use documents::SentDocuments;
use options::RequestOptions;
use passages::PassageReply;

/// How one API writes a rerank.
#[derive(Debug)]
pub struct Dialect {
    /// The prefix of its operation ids in the API description.
    pub(super) name: &'static str,
    /// The title of its operations in the API description.
    pub(super) summary: &'static str,
    /// The description of its operations in the API description.
    pub(super) description: &'static str,
    /// The schema of a request; its example is the operation's.
    pub(super) request: SchemaOf,
    /// The schema of a reply; its example is the operation's.
    pub(super) reply: SchemaOf,
    /// The form of an error that its clients expect.
    pub(super) errors: ErrorShape,
    /// Reads a call from the fields of a body. Checks types, not limits.
    pub(super) read: fn(&mut Fields) -> Result<Call, RerankError>,
}

/// A path that ranks.
#[derive(Debug)]
pub struct Route {
    /// The path.
    pub path: &'static str,
    /// The dialect of its calls. On the paths of [`podium::DIALECT`] a body may be in another one.
    pub dialect: &'static Dialect,
}

/// Every path that ranks.
pub static ROUTES: [Route; 23] = [
    Route { path: "/v1/rerank", dialect: &podium::DIALECT },
    Route { path: "/v2/rerank", dialect: &podium::DIALECT },
    Route { path: "/rerank", dialect: &podium::DIALECT },
    Route { path: "/v1/reranking", dialect: &podium::DIALECT },
    Route { path: "/reranking", dialect: &podium::DIALECT },
    Route { path: "/", dialect: &tei::DIALECT },
    Route { path: "/invocations", dialect: &tei::DIALECT },
    Route { path: "/score", dialect: &score::DIALECT },
    Route { path: "/v1/score", dialect: &score::DIALECT },
    Route { path: "/v1/ranking", dialect: &nim::DIALECT },
    Route { path: "/ranking", dialect: &nim::DIALECT },
    Route { path: "/v1/models/rerank", dialect: &zeroentropy::DIALECT },
    Route { path: "/models/rerank", dialect: &zeroentropy::DIALECT },
    Route { path: "/infinity/rerank", dialect: &infinity::DIALECT },
    Route { path: "/infinity/v1/rerank", dialect: &infinity::DIALECT },
    Route { path: "/pinecone/rerank", dialect: &pinecone::DIALECT },
    Route { path: "/v1/reranks", dialect: &podium::DIALECT },
    Route { path: "/compatible-api/v1/reranks", dialect: &podium::DIALECT },
    Route { path: "/api/v1/services/rerank/text-rerank/text-rerank", dialect: &dashscope::DIALECT },
    Route { path: "/v1/projects/{project}/locations/{location}/rankingConfigs/{config}", dialect: &vertex::DIALECT },
    Route { path: "/_inference/rerank/{id}", dialect: &elastic::DIALECT },
    Route { path: "/sglang/v1/rerank", dialect: &sglang::DIALECT },
    Route { path: "/weaviate/rerank", dialect: &weaviate::DIALECT },
];

/// The dialects that a body on a shared path may be in.
static SHARED: [&Dialect; 6] =
    [&podium::DIALECT, &podium::VOYAGE, &tei::DIALECT, &mixedbread::DIALECT, &dashscope::DIALECT, &bedrock::DIALECT];

impl Dialect {
    /// Reads a call from the fields of a body. Values that mean "none" to the API's own server are
    /// dropped first, with a warning.
    pub(super) fn read_call(&self, fields: &mut Fields) -> Result<Call, RerankError> {
        drop_empty_values(fields);
        (self.read)(fields)
    }
}

/// Drops values that mean "none" to other servers, with a warning.
fn drop_empty_values(fields: &mut Fields) {
    fields.drop_if("max_tokens_per_doc", is_zero, "no limit");
    fields.drop_if("max_chunks_per_doc", is_no_count, "not given");
}

/// Whether a value is the number 0, also in a string.
fn is_zero(value: &Value) -> bool {
    number(value) == Some(0.0)
}

/// A number, also in a string.
fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())
}

/// Whether a value is one that servers use for "no number": 0, -1 or false.
fn is_no_count(value: &Value) -> bool {
    is_zero(value) || value.as_f64() == Some(-1.0) || value.as_bool() == Some(false)
}

impl Route {
    /// The purpose of its requests.
    #[must_use]
    pub fn kind(&self) -> RouteKind {
        if self.dialect.name == score::DIALECT.name { RouteKind::Score } else { RouteKind::Rank }
    }

    /// The dialects that a body on this path may be in.
    pub(super) fn dialects(&self) -> &[&'static Dialect] {
        if self.is_shared() { &SHARED } else { std::slice::from_ref(&self.dialect) }
    }

    /// Reads a call from a body, as the server does. Checks types, not limits.
    ///
    /// # Errors
    /// The body is not a JSON object, or a field is missing or has the wrong type.
    pub fn read(&self, body: &[u8]) -> Result<Call, ApiError> {
        let mut fields = Fields::parse(body)?;
        Ok(self.dialect_of(&fields).read_call(&mut fields)?)
    }

    /// The dialect of a body on this path.
    pub(super) fn dialect_of(&self, fields: &Fields) -> &'static Dialect {
        if self.is_shared() { dialect_by_fields(fields) } else { self.dialect }
    }

    fn is_shared(&self) -> bool {
        self.dialect.name == podium::DIALECT.name
    }
}

/// The dialect of a body on a shared path, by the name of its documents: text-embeddings-inference
/// calls them `texts`, mixedbread `input`, Bedrock `sources`; `DashScope` has an object in `input`.
/// Voyage's clients send `top_k` and `truncation`; they cannot read an error that is an object.
fn dialect_by_fields(fields: &Fields) -> &'static Dialect {
    if fields.has("documents") {
        let is_voyage = fields.names("top_k") && fields.names("truncation") && !fields.names("top_n");
        return if is_voyage { &podium::VOYAGE } else { &podium::DIALECT };
    }
    if fields.has("texts") {
        &tei::DIALECT
    } else if fields.has_object("input") {
        &dashscope::DIALECT
    } else if fields.has("input") {
        &mixedbread::DIALECT
    } else if fields.has("sources") && fields.has("queries") {
        &bedrock::DIALECT
    } else {
        &podium::DIALECT
    }
}

/// A call that was read: what to rank, and how to write the reply.
pub struct Call {
    /// The rankings to make: one, or one for each pair to score.
    pub requests: Vec<RerankRequest>,
    /// The client's names for the query and the documents, for error messages.
    pub(super) field_names: (&'static str, &'static str),
    /// The documents, if the reply returns them.
    pub(super) sent: SentDocuments,
    /// Writes the reply.
    pub(super) write: WriteReply,
}

type WriteReply = Box<dyn FnOnce(&Answer<'_>) -> serde_json::Result<Reply> + Send>;

impl Call {
    /// A call for one ranking, by a client that calls the documents `documents`.
    fn new(
        mut request: RerankRequest,
        documents: &'static str,
        mut sent: SentDocuments,
        write: impl FnOnce(&Answer<'_>) -> serde_json::Result<Reply> + Send + 'static,
    ) -> Self {
        request.cascade.document_scores = sent.take_scores();
        Self { requests: vec![request], field_names: ("query", documents), sent, write: Box::new(write) }
    }
}

/// The rankings of a call, from which its reply is made.
pub(super) struct Answer<'a> {
    /// The request's id.
    pub id: &'a str,
    /// Seconds since 1970.
    pub created: u64,
    /// One ranking for each of the call's requests; at least one.
    pub rankings: &'a [Ranking],
    /// The documents, if the reply returns them.
    pub sent: &'a SentDocuments,
}

impl Answer<'_> {
    /// The only ranking, or the first.
    fn ranking(&self) -> &Ranking {
        &self.rankings[0]
    }

    fn prompt_tokens(&self) -> usize {
        self.rankings.iter().map(|ranking| ranking.usage.prompt_tokens).sum()
    }

    fn token_usage(&self) -> TokenUsage {
        let tokens = self.prompt_tokens();
        TokenUsage { prompt_tokens: tokens, total_tokens: tokens }
    }
}

/// The score of each result in replies that have raw scores only. Those of different models do not
/// compare, so where several stages of a cascade ranked, it is the logit of the relevance, which falls along
/// the list.
fn raw_score_of(results: &[RankedDocument]) -> impl Fn(&RankedDocument) -> f32 + use<> {
    let is_of_one_stage = results.windows(2).all(|pair| pair[0].stage == pair[1].stage);
    move |row| if is_of_one_stage { row.raw_score } else { logit(row.relevance_score) }
}

/// The inverse of the sigmoid, within the numbers that it tells apart from 0 and 1.
fn logit(probability: f32) -> f32 {
    (probability / (1.0 - probability)).ln().clamp(-88.0, 88.0)
}

/// The tokens that went through the model.
#[derive(Debug, Serialize, ToSchema)]
struct TokenUsage {
    prompt_tokens: usize,
    total_tokens: usize,
}

/// The body of a reply, and headers that only its dialect has.
pub(super) struct Reply {
    pub body: Vec<u8>,
    pub headers: HeaderMap,
}

impl Reply {
    fn json(body: &impl Serialize) -> serde_json::Result<Self> {
        Ok(Self { body: serde_json::to_vec(body)?, headers: HeaderMap::new() })
    }
}

#[cfg(test)]
mod tests;
