//! Failures on the wire: the one place that gives a [`RerankError`] its status, code, retry and log level.
//!
//! A handler returns a [`Failure`]; as a response it is a status and headers, with the failure itself attached. The
//! body is written by `observe`, which knows the request's id, and it is logged and counted there: nowhere else.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tracing::Level;

use crate::models::ModelError;
use crate::rerank::RerankError;
use crate::telemetry::mask_url_secrets;

/// When a client should come back to a server that is shutting down: to its successor.
const RETRY_AFTER_DRAINING: Duration = Duration::from_secs(5);

/// When there may be room again for a body: parsing takes less.
const RETRY_AFTER_INTAKE: Duration = Duration::from_secs(1);
/// When to come back to a device that failed or hangs: a process needs about so long to start.
const RETRY_AFTER_DEVICE: Duration = Duration::from_secs(10);

/// Everything that can go wrong with a call.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The call was understood, and there is no ranking.
    #[error(transparent)]
    Rerank(#[from] RerankError),
    /// A model was not loaded or unloaded.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The body is not JSON.
    #[error("the body is not valid JSON: {problem}")]
    MalformedJson {
        /// What and where.
        problem: String,
    },
    /// The body does not claim to be JSON.
    #[error("content-type must be application/json, not {}", found.as_deref().unwrap_or("missing"))]
    NotJson {
        /// The header's value.
        found: Option<String>,
    },
    /// The body is compressed.
    #[error("content-encoding {found} is not supported; send the body as it is")]
    EncodedBody {
        /// The header's value.
        found: String,
    },
    /// The body is longer than this server takes.
    #[error("the body is over the limit of {limit} bytes")]
    BodyTooLarge {
        /// The limit.
        limit: usize,
    },
    /// The body has so many values that parsing it would take more memory than there is for that.
    #[error("the body holds {values} values; parsing it would take {bytes} bytes, over the limit of {limit}")]
    BodyTooComplex {
        /// Values in the body.
        values: usize,
        /// What they would take.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// So much is being received or parsed that there is no room for this body.
    #[error(
        "the server is at capacity: bodies that are being {stage} take up all of {limit} bytes; try again in {} s",
        whole_seconds(RETRY_AFTER_INTAKE)
    )]
    IntakeFull {
        /// What is done with them: `received` or `parsed`.
        stage: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The body did not arrive in time.
    #[error("the body did not arrive within {} s", limit.as_secs())]
    BodyTimeout {
        /// The limit.
        limit: Duration,
    },
    /// The connection broke within the body.
    #[error("the body ended early")]
    BodyIncomplete,
    /// There is nothing at this path.
    #[error("there is no route {path}; GET / lists the routes")]
    NoSuchRoute {
        /// The path.
        path: String,
    },
    /// There is something at this path, but not for this method.
    #[error("{method} is not allowed on {path}; the allow header lists what is")]
    MethodNotAllowed {
        /// The method.
        method: String,
        /// The path.
        path: String,
    },
    /// There is no key, and one is needed.
    #[error("no API key; send one as authorization: Bearer KEY, as x-api-key: KEY or as api-key: KEY")]
    MissingApiKey,
    /// There is a key that nobody has.
    #[error("the API key is not valid")]
    InvalidApiKey,
    /// There are several keys, and they differ.
    #[error("different API keys in one request; authorization, x-api-key and api-key must agree")]
    ConflictingApiKeys,
    /// The key has asked too often.
    #[error("this key's limit of {limit} requests per minute is used up; try again in {} s", whole_seconds(*wait))]
    RateLimited {
        /// Requests per minute.
        limit: u32,
        /// When one will be taken again.
        wait: Duration,
    },
    /// A handler panicked.
    #[error("internal error")]
    Panicked,
}

/// What a failure is to a client and to an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The status.
    pub status: StatusCode,
    /// The word that programs look for.
    pub code: &'static str,
    /// The kind, in OpenAI's words.
    pub kind: &'static str,
    /// How loud the log is about it.
    pub level: Level,
    /// The field at fault.
    pub param: Option<String>,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

/// A deadline that the request itself set, in logs, metrics and traces. Its reply has `deadline_exceeded`.
const OWN_DEADLINE: &str = "own_deadline_exceeded";

/// Every code that a [`Row`] may have, and [`OWN_DEADLINE`].
pub(super) const CODES: [&str; 33] = [
    OWN_DEADLINE,
    "invalid_value",
    "too_many_documents",
    "text_too_long",
    "prompt_too_long",
    "unsupported_mode",
    "model_not_found",
    "overloaded",
    "deadline_exceeded",
    "shutting_down",
    "internal_error",
    "malformed_json",
    "incomplete_body",
    "unsupported_media_type",
    "body_too_large",
    "body_timeout",
    "route_not_found",
    "method_not_allowed",
    "missing_api_key",
    "invalid_api_key",
    "conflicting_api_keys",
    "rate_limit_exceeded",
    "too_many_tokens",
    "over_budget",
    "body_too_complex",
    "model_unavailable",
    "default_model",
    "model_busy",
    "over_memory_limit",
    "model_not_loaded",
    "too_large_for_device",
    "device_lost",
    "device_stalled",
];

const INVALID: &str = "invalid_request_error";
const SERVER: &str = "server_error";
const AUTHENTICATION: &str = "authentication_error";
const RATE_LIMIT: &str = "rate_limit_error";
const UNAVAILABLE: &str = "service_unavailable_error";

impl Failure {
    /// There is nothing at this path.
    #[must_use]
    pub fn no_such_route(path: &str) -> Self {
        Self::NoSuchRoute { path: super::fields::quoted(path) }
    }

    /// The code in logs, metrics and traces: that of the reply, but for a deadline that the request itself
    /// set, which is nobody's fault here.
    #[must_use]
    pub fn telemetry_code(&self) -> &'static str {
        let is_own_deadline = matches!(self, Self::Rerank(RerankError::DeadlineExceeded { is_own: true, .. }));
        if is_own_deadline { OWN_DEADLINE } else { self.row().code }
    }

    /// The row of this failure: one for each kind. 400 is a body that is not JSON, 422 is JSON that cannot be ranked.
    #[must_use]
    pub fn row(&self) -> Row {
        use RerankError as E;
        let row = |status, code, kind, level| Row { status, code, kind, level, param: None, retry_after: None };
        let bad = |status, code| row(status, code, INVALID, Level::INFO);
        let bad_field =
            |code, field: &str| Row { param: Some(field.to_owned()), ..bad(StatusCode::UNPROCESSABLE_ENTITY, code) };
        let unknown = |code| row(StatusCode::UNAUTHORIZED, code, AUTHENTICATION, Level::INFO);
        match self {
            Self::Rerank(E::InvalidField { field, .. } | E::NoDocuments { field }) => bad_field("invalid_value", field),
            Self::Rerank(E::TooManyDocuments { field, .. }) => bad_field("too_many_documents", field),
            Self::Rerank(E::TextTooLong { field, .. }) => bad_field("text_too_long", field),
            Self::Rerank(E::PromptTooLong { field, .. }) => bad_field("prompt_too_long", field),
            Self::Rerank(E::UnsupportedMode { .. }) => bad_field("unsupported_mode", "mode"),
            Self::Rerank(E::UnknownModel { .. }) => {
                Row { status: StatusCode::NOT_FOUND, ..bad_field("model_not_found", "model") }
            }
            Self::Rerank(E::TooManyTokens { .. }) => {
                Row { status: StatusCode::PAYLOAD_TOO_LARGE, ..bad_field("too_many_tokens", "documents") }
            }
            Self::Rerank(E::OverBudget { field, retry_after: None, .. }) => bad_field("over_budget", field),
            Self::Rerank(E::OverBudget { field, retry_after, .. }) => Row {
                param: Some((*field).to_owned()),
                retry_after: *retry_after,
                ..row(StatusCode::TOO_MANY_REQUESTS, "over_budget", RATE_LIMIT, Level::INFO)
            },
            Self::BodyTooComplex { .. } => bad(StatusCode::PAYLOAD_TOO_LARGE, "body_too_complex"),
            Self::IntakeFull { .. } => Row {
                retry_after: Some(RETRY_AFTER_INTAKE),
                ..row(StatusCode::TOO_MANY_REQUESTS, "overloaded", RATE_LIMIT, Level::WARN)
            },
            Self::Rerank(E::ModelUnavailable { retry_after, .. }) => Row {
                param: Some("model".to_owned()),
                retry_after: Some(*retry_after),
                ..row(StatusCode::SERVICE_UNAVAILABLE, "model_unavailable", UNAVAILABLE, Level::INFO)
            },
            Self::Model(ModelError::Unknown { .. }) => bad(StatusCode::NOT_FOUND, "model_not_found"),
            Self::Model(ModelError::Default { .. }) => bad(StatusCode::CONFLICT, "default_model"),
            Self::Model(ModelError::Busy { .. }) => bad(StatusCode::CONFLICT, "model_busy"),
            Self::Model(ModelError::NoRoom { .. }) => bad(StatusCode::CONFLICT, "over_memory_limit"),
            // It was logged where it was loaded.
            Self::Model(ModelError::Failed { .. }) => {
                row(StatusCode::INTERNAL_SERVER_ERROR, "model_not_loaded", SERVER, Level::INFO)
            }
            Self::Rerank(E::Overloaded { retry_after, .. }) => Row {
                retry_after: Some(*retry_after),
                ..row(StatusCode::TOO_MANY_REQUESTS, "overloaded", RATE_LIMIT, Level::WARN)
            },
            Self::Rerank(E::DeadlineExceeded { is_own, .. }) => {
                let level = if *is_own { Level::INFO } else { Level::WARN };
                row(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", "timeout_error", level)
            }
            Self::Rerank(E::Draining) => Row {
                retry_after: Some(RETRY_AFTER_DRAINING),
                ..row(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", UNAVAILABLE, Level::INFO)
            },
            Self::Rerank(E::TooLargeForDevice { .. }) => Row {
                status: StatusCode::PAYLOAD_TOO_LARGE,
                level: Level::WARN,
                ..bad_field("too_large_for_device", "documents")
            },
            Self::Rerank(E::DeviceLost(_)) => Row {
                retry_after: Some(RETRY_AFTER_DEVICE),
                ..row(StatusCode::SERVICE_UNAVAILABLE, "device_lost", UNAVAILABLE, Level::ERROR)
            },
            Self::Rerank(E::Stalled { .. }) => Row {
                retry_after: Some(RETRY_AFTER_DEVICE),
                ..row(StatusCode::SERVICE_UNAVAILABLE, "device_stalled", UNAVAILABLE, Level::WARN)
            },
            Self::Rerank(E::Internal(_)) | Self::Panicked => {
                row(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", SERVER, Level::ERROR)
            }
            Self::MalformedJson { .. } => bad(StatusCode::BAD_REQUEST, "malformed_json"),
            Self::BodyIncomplete => bad(StatusCode::BAD_REQUEST, "incomplete_body"),
            Self::NotJson { .. } | Self::EncodedBody { .. } => {
                bad(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type")
            }
            Self::BodyTooLarge { .. } => bad(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::BodyTimeout { .. } => bad(StatusCode::REQUEST_TIMEOUT, "body_timeout"),
            Self::NoSuchRoute { .. } => bad(StatusCode::NOT_FOUND, "route_not_found"),
            Self::MethodNotAllowed { .. } => bad(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::MissingApiKey => unknown("missing_api_key"),
            Self::InvalidApiKey => unknown("invalid_api_key"),
            Self::ConflictingApiKeys => unknown("conflicting_api_keys"),
            Self::RateLimited { wait, .. } => Row {
                retry_after: Some(*wait),
                ..row(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", RATE_LIMIT, Level::INFO)
            },
        }
    }

    /// What lies behind a fault of this server: for the log only.
    #[must_use]
    pub fn cause(&self) -> Option<String> {
        let Self::Rerank(RerankError::Internal(cause) | RerankError::DeviceLost(cause)) = self else { return None };
        let mut links = Vec::new();
        let mut next: Option<&(dyn StdError + 'static)> = Some(cause.as_ref());
        while let Some(link) = next {
            // A panic's message may hold a caller's text; the line that the panic itself left in the log does not.
            let panicked = link.downcast_ref::<tokio::task::JoinError>().is_some_and(tokio::task::JoinError::is_panic);
            links.push(if panicked { "a task panicked".to_owned() } else { link.to_string() });
            next = link.source();
        }
        Some(links.join(": "))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let row = self.row();
        let mut response = row.status.into_response();
        if let Some(wait) = row.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
        }
        if row.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

/// What clients of a dialect read of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureShape {
    /// What `OpenAI`'s, Cohere's, Jina's and most other clients look for, in one body: [`ErrorBody`].
    Podium,
    /// Voyage's: a `detail` alone. Its older clients fail on an `error` that is an object.
    Voyage,
    /// That of text-embeddings-inference: `error` is a text, beside an `error_type`.
    Tei,
}

impl FailureShape {
    /// The name of its responses in the API's description.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Podium => "podium",
            Self::Voyage => "voyage",
            Self::Tei => "tei",
        }
    }

    /// The body for one failure of the request `id`.
    #[must_use]
    pub fn body(self, failure: &Failure, id: &str) -> Vec<u8> {
        let (row, message) = (failure.row(), mask_url_secrets(&failure.to_string()).into_owned());
        let body = match self {
            Self::Podium => serde_json::to_vec(&ErrorBody::new(&message, &row, id)),
            Self::Voyage => serde_json::to_vec(&serde_json::json!({ "detail": message })),
            Self::Tei => {
                let empty = matches!(failure, Failure::Rerank(RerankError::NoDocuments { .. }));
                let error_type = tei_error_type(row.status, empty);
                serde_json::to_vec(&serde_json::json!({ "error": message, "error_type": error_type }))
            }
        };
        body.unwrap_or_default()
    }
}

/// The kind of a failure in the words of text-embeddings-inference.
fn tei_error_type(status: StatusCode, empty: bool) -> &'static str {
    match status.as_u16() {
        401 | 403 => "Unauthorized",
        429 => "Overloaded",
        503 => "Unhealthy",
        500.. => "Backend",
        _ if empty => "Empty",
        _ => "Validation",
    }
}

/// A wait as clients are told it: rounded up, and never nothing.
fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// The body that most failures have: the shapes that `OpenAI`'s, Cohere's and Voyage's clients look for, in one.
#[derive(Debug, Serialize)]
pub struct ErrorBody<'a> {
    error: ErrorFields<'a>,
    message: &'a str,
    detail: &'a str,
    id: &'a str,
}

#[derive(Debug, Serialize)]
struct ErrorFields<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    param: Option<&'a str>,
    code: &'a str,
}

impl<'a> ErrorBody<'a> {
    /// The body for one failure of the request `id`.
    #[must_use]
    pub fn new(message: &'a str, row: &'a Row, id: &'a str) -> Self {
        let error = ErrorFields { message, kind: row.kind, param: row.param.as_deref(), code: row.code };
        Self { error, message, detail: message, id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rerank::Full;

    #[tokio::test]
    async fn the_log_has_the_whole_cause_but_no_panics_words() {
        let cause = anyhow::anyhow!("disk on fire").context("cannot read").context("cannot rank");
        let failure = Failure::Rerank(RerankError::Internal(cause.into()));
        assert_eq!(failure.cause().unwrap(), "cannot rank: cannot read: disk on fire");
        assert_eq!(failure.to_string(), "internal error");

        let panic = tokio::spawn(async { panic!("{}", "a caller's text") }).await.unwrap_err();
        assert_eq!(Failure::Rerank(RerankError::internal(panic)).cause().unwrap(), "a task panicked");
    }

    /// Every quoted word in the source of [`Failure::row`] that is a code: a row that is added needs its place in
    /// [`CODES`], so that its counter stands at 0 before it happens.
    #[test]
    fn every_code_of_a_row_is_in_the_list_and_every_code_of_the_list_has_a_row() {
        let source = include_str!("error.rs");
        let row = source.split("pub fn row(").nth(1).unwrap().split("/// What lies behind").next().unwrap();
        let is_code = |word: &&str| {
            !["mode", "model", "documents"].contains(word)
                && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
                && !word.ends_with("_error")
        };
        let mut found: Vec<&str> = row.split('"').skip(1).step_by(2).filter(is_code).collect();
        found.extend(["internal_error", OWN_DEADLINE]);
        found.sort_unstable();
        found.dedup();
        let mut listed = CODES.to_vec();
        listed.sort_unstable();
        assert_eq!(found, listed);
    }

    #[test]
    fn a_wait_is_rounded_up_to_whole_seconds() {
        for (wait, seconds) in [(0, "1"), (400, "1"), (1000, "1"), (1001, "2")] {
            let retry_after = Duration::from_millis(wait);
            let full = Full::Requests { queued: 1, limit: 1 };
            let response = Failure::from(RerankError::Overloaded { full, retry_after }).into_response();
            assert_eq!(response.headers()[header::RETRY_AFTER], seconds);
        }
    }
}
