//! Errors of the HTTP API, and the one place that gives each its status, code, retry and log level.
//!
//! A handler returns an [`ApiError`]; as a response it is a status and headers, with the error
//! itself attached. The `access_log` middleware writes the body, because it knows the request's id,
//! and logs and counts the error: nothing else does.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tracing::Level;

use super::fields::ParseError;
use crate::models::ModelError;
use crate::rerank::RerankError;

/// The encodings of request bodies that are read, as `Accept-Encoding` of a refusal lists them.
const ACCEPTED_ENCODINGS: &str = "gzip, zstd";

/// `Retry-After` while the models load.
const RETRY_AFTER_LOADING: Duration = Duration::from_secs(5);
/// `Retry-After` of a server that is shutting down: its successor may be there by then.
const RETRY_AFTER_DRAINING: Duration = Duration::from_secs(5);
/// `Retry-After` when no memory for bodies is left: parsing takes less than that.
const RETRY_AFTER_BODY_MEMORY: Duration = Duration::from_secs(1);
/// `Retry-After` of a device that failed or hangs: about the time that a process takes to start.
const RETRY_AFTER_DEVICE: Duration = Duration::from_secs(10);

/// Everything that can go wrong with a request.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The request was understood, and there is no ranking.
    #[error(transparent)]
    Rerank(#[from] RerankError),
    /// A model was not loaded or unloaded.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The body is not JSON.
    #[error("the body is not valid JSON: {problem}")]
    MalformedJson {
        /// The problem and its position.
        problem: String,
    },
    /// The content type is not JSON.
    #[error("{}", not_json(found.as_deref()))]
    NotJson {
        /// The header's value.
        found: Option<String>,
    },
    /// The body is compressed in another way than those that are read.
    #[error("content-encoding {found} is not supported; send the body as it is, or as one of {ACCEPTED_ENCODINGS}")]
    EncodedBody {
        /// The header's value.
        found: String,
    },
    /// The body is over the limit on its length.
    #[error("the body is over the limit of {limit} bytes")]
    BodyTooLarge {
        /// `server.max_body_bytes`.
        limit: usize,
    },
    /// The decompressed body is over the limit on its length.
    #[error("the body is over the limit of {limit} bytes when it is decompressed")]
    DecompressedBodyTooLarge {
        /// `server.max_body_bytes`.
        limit: usize,
    },
    /// The body cannot be decompressed.
    #[error("the body is not valid {encoding}: {problem}")]
    InvalidEncoding {
        /// The encoding that the headers name.
        encoding: &'static str,
        /// The decoder's words.
        problem: String,
    },
    /// The body has so many values that parsing it would take more memory than all bodies may.
    #[error("the body holds {values} values; parsing it would take {bytes} bytes, over the limit of {limit}")]
    BodyTooComplex {
        /// Values in the body.
        values: usize,
        /// Bytes that they would take.
        bytes: usize,
        /// `server.max_parsing_bytes`.
        limit: usize,
    },
    /// Other bodies take all memory that there is for bodies.
    #[error(
        "the server is at capacity: bodies that are being {stage} take up all of {limit} bytes; try again in {} s",
        whole_seconds(RETRY_AFTER_BODY_MEMORY)
    )]
    BodyMemoryFull {
        /// Whether the bodies are being `received` or `parsed`.
        stage: &'static str,
        /// `server.max_parsing_bytes`.
        limit: usize,
    },
    /// The client's other bodies take its share of the memory for bodies.
    #[error(
        "this key has its share of the memory for bodies: those being {stage} take up {held} bytes, and \
         what is free is kept for others; try again in {} s",
        whole_seconds(RETRY_AFTER_BODY_MEMORY)
    )]
    BodyMemoryShare {
        /// Whether the bodies are being `received` or `parsed`.
        stage: &'static str,
        /// Bytes of the client's other bodies.
        held: usize,
    },
    /// The body did not arrive in time.
    #[error("the body did not arrive within {} s", limit.as_secs())]
    BodyTimeout {
        /// `server.body_timeout_seconds`.
        limit: Duration,
    },
    /// The connection broke within the body.
    #[error("the body ended early")]
    BodyIncomplete,
    /// No route has this path.
    #[error("there is no route {path}; {hint}")]
    NoSuchRoute {
        /// The path; a long one is cut.
        path: String,
        /// The route that was probably meant, or where to look for one.
        hint: String,
    },
    /// The route of this path has other methods.
    #[error("{method} is not allowed on {path}; use {allowed}")]
    MethodNotAllowed {
        /// The method.
        method: String,
        /// The path.
        path: String,
        /// The methods that the route has.
        allowed: &'static str,
    },
    /// The server is shutting down, and the time for accepted requests is over.
    #[error("the server is shutting down, and this request did not finish in time")]
    CutOff,
    /// The `authorization` header holds no key in a form that is read.
    #[error(
        "the authorization header is not of the form \"Bearer KEY\"; send the key so, as x-api-key: KEY or as api-key: KEY"
    )]
    UnreadAuthorization,
    /// The route needs an API key, and there is none.
    #[error("no API key; send one as authorization: Bearer KEY, as x-api-key: KEY or as api-key: KEY")]
    MissingApiKey,
    /// No client has this API key.
    #[error("the API key is not valid")]
    InvalidApiKey,
    /// The headers hold different API keys.
    #[error("different API keys in one request; authorization, x-api-key and api-key must agree")]
    ConflictingApiKeys,
    /// The key is over its rate limit.
    #[error("this key's limit of {limit} requests per minute is used up; try again in {} s", whole_seconds(*wait))]
    RateLimited {
        /// Requests per minute.
        limit: u32,
        /// Until the next request is accepted.
        wait: Duration,
    },
    /// The server has started, and its models are still loading.
    #[error("the server is loading its models; try again in {} s", RETRY_AFTER_LOADING.as_secs())]
    ModelsLoading,
    /// A handler panicked.
    #[error("internal error")]
    Panicked,
}

/// Status, code, log level and retry time of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorSpec {
    /// The status of the response.
    pub status: StatusCode,
    /// The code in the response's body, the log and the metrics.
    pub code: ErrorCode,
    /// The kind of error, in OpenAI's words.
    pub kind: &'static str,
    /// The level of the log line.
    pub level: Level,
    /// The field at fault.
    pub param: Option<String>,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

/// Defines [`ErrorCode`] and what all errors of a code have in common.
macro_rules! error_codes {
    ($($name:ident $code:literal $status:ident $kind:ident $level:ident;)*) => {
        /// A stable error code that programs can match on; one per row of the table.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "the codes say what they mean")]
        pub enum ErrorCode { $($name),* }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The code on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code),* }
            }

            /// The specification of errors with this code; `param` and `retry_after` are each
            /// error's own.
            fn spec(self) -> ErrorSpec {
                let (status, kind, level) = match self {
                    $(Self::$name => (StatusCode::$status, $kind, Level::$level)),*
                };
                ErrorSpec { status, code: self, kind, level, param: None, retry_after: None }
            }
        }
    };
}

/// The code of a deadline that the request itself set, in the log, metrics and traces. Its response
/// has `deadline_exceeded`.
pub(super) const OWN_DEADLINE: &str = "own_deadline_exceeded";

const INVALID: &str = "invalid_request_error";
const SERVER: &str = "server_error";
const TIMEOUT: &str = "timeout_error";
const AUTHENTICATION: &str = "authentication_error";
const RATE_LIMIT: &str = "rate_limit_error";
const UNAVAILABLE: &str = "service_unavailable_error";

// 400 is a body that is not JSON, 422 is JSON that cannot be ranked. `models` logs why loading
// failed, so `ModelNotLoaded` is INFO here.
error_codes! {
    InvalidValue "invalid_value" UNPROCESSABLE_ENTITY INVALID INFO;
    TooManyDocuments "too_many_documents" UNPROCESSABLE_ENTITY INVALID INFO;
    TextTooLong "text_too_long" UNPROCESSABLE_ENTITY INVALID INFO;
    PromptTooLong "prompt_too_long" UNPROCESSABLE_ENTITY INVALID INFO;
    UnsupportedMode "unsupported_mode" UNPROCESSABLE_ENTITY INVALID INFO;
    OverBudget "over_budget" UNPROCESSABLE_ENTITY INVALID INFO;
    ModelNotFound "model_not_found" NOT_FOUND INVALID INFO;
    TooManyTokens "too_many_tokens" PAYLOAD_TOO_LARGE INVALID INFO;
    TooLargeForDevice "too_large_for_device" PAYLOAD_TOO_LARGE INVALID WARN;
    BodyTooLarge "body_too_large" PAYLOAD_TOO_LARGE INVALID INFO;
    BodyTooComplex "body_too_complex" PAYLOAD_TOO_LARGE INVALID INFO;
    MalformedJson "malformed_json" BAD_REQUEST INVALID INFO;
    InvalidEncoding "invalid_encoding" BAD_REQUEST INVALID INFO;
    IncompleteBody "incomplete_body" BAD_REQUEST INVALID INFO;
    UnsupportedMediaType "unsupported_media_type" UNSUPPORTED_MEDIA_TYPE INVALID INFO;
    BodyTimeout "body_timeout" REQUEST_TIMEOUT INVALID INFO;
    RouteNotFound "route_not_found" NOT_FOUND INVALID INFO;
    MethodNotAllowed "method_not_allowed" METHOD_NOT_ALLOWED INVALID INFO;
    MissingApiKey "missing_api_key" UNAUTHORIZED AUTHENTICATION INFO;
    InvalidApiKey "invalid_api_key" UNAUTHORIZED AUTHENTICATION INFO;
    ConflictingApiKeys "conflicting_api_keys" UNAUTHORIZED AUTHENTICATION INFO;
    RateLimitExceeded "rate_limit_exceeded" TOO_MANY_REQUESTS RATE_LIMIT INFO;
    Overloaded "overloaded" TOO_MANY_REQUESTS RATE_LIMIT WARN;
    DefaultModel "default_model" CONFLICT INVALID INFO;
    IsCascade "is_cascade" CONFLICT INVALID INFO;
    ModelBusy "model_busy" CONFLICT INVALID INFO;
    OverMemoryLimit "over_memory_limit" CONFLICT INVALID INFO;
    ModelUnavailable "model_unavailable" SERVICE_UNAVAILABLE UNAVAILABLE INFO;
    ModelsLoading "models_loading" SERVICE_UNAVAILABLE UNAVAILABLE INFO;
    ShuttingDown "shutting_down" SERVICE_UNAVAILABLE UNAVAILABLE INFO;
    DeviceLost "device_lost" SERVICE_UNAVAILABLE UNAVAILABLE ERROR;
    DeviceStalled "device_stalled" SERVICE_UNAVAILABLE UNAVAILABLE WARN;
    DeadlineExceeded "deadline_exceeded" GATEWAY_TIMEOUT TIMEOUT WARN;
    ModelNotLoaded "model_not_loaded" INTERNAL_SERVER_ERROR SERVER INFO;
    InternalError "internal_error" INTERNAL_SERVER_ERROR SERVER ERROR;
}

impl ErrorSpec {
    fn with_param(self, field: impl Into<String>) -> Self {
        Self { param: Some(field.into()), ..self }
    }

    fn with_retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }
}

fn not_json(found: Option<&str>) -> String {
    match found {
        None => "the content-type header is missing; send content-type: application/json".to_owned(),
        Some(found) if found.contains("x-www-form-urlencoded") => {
            format!(
                "content-type must be application/json, not {found}; with curl, add -H 'content-type: application/json'"
            )
        }
        Some(found) => format!("content-type must be application/json, not {found}"),
    }
}

impl From<ParseError> for ApiError {
    fn from(error: ParseError) -> Self {
        match error {
            ParseError::MalformedJson { problem } => Self::MalformedJson { problem },
            ParseError::NotAnObject(error) | ParseError::Field(error) => Self::Rerank(error),
        }
    }
}

impl ApiError {
    /// The code in the log, metrics and traces: that of the response, except for a deadline which
    /// the request itself set.
    #[must_use]
    pub fn telemetry_code(&self) -> &'static str {
        let is_own_deadline = matches!(self, Self::Rerank(RerankError::DeadlineExceeded { is_own: true, .. }));
        if is_own_deadline { OWN_DEADLINE } else { self.spec().code.as_str() }
    }

    /// The status, code, retry and log level of this error.
    #[must_use]
    pub fn spec(&self) -> ErrorSpec {
        use ErrorCode as Code;
        match self {
            Self::Rerank(error) => rerank_spec(error),
            Self::Model(ModelError::Unknown { .. }) => Code::ModelNotFound.spec(),
            Self::Model(ModelError::Default { .. }) => Code::DefaultModel.spec(),
            Self::Model(ModelError::Cascade { .. }) => Code::IsCascade.spec(),
            Self::Model(ModelError::Busy { .. }) => Code::ModelBusy.spec(),
            Self::Model(ModelError::NoRoom { .. }) => Code::OverMemoryLimit.spec(),
            Self::Model(ModelError::Failed { .. }) => Code::ModelNotLoaded.spec(),
            Self::MalformedJson { .. } => Code::MalformedJson.spec(),
            Self::BodyIncomplete => Code::IncompleteBody.spec(),
            Self::NotJson { .. } | Self::EncodedBody { .. } => Code::UnsupportedMediaType.spec(),
            Self::BodyTooLarge { .. } | Self::DecompressedBodyTooLarge { .. } => Code::BodyTooLarge.spec(),
            Self::InvalidEncoding { .. } => Code::InvalidEncoding.spec(),
            Self::BodyTooComplex { .. } => Code::BodyTooComplex.spec(),
            Self::BodyMemoryFull { .. } | Self::BodyMemoryShare { .. } => {
                Code::Overloaded.spec().with_retry_after(RETRY_AFTER_BODY_MEMORY)
            }
            Self::BodyTimeout { .. } => Code::BodyTimeout.spec(),
            Self::NoSuchRoute { .. } => Code::RouteNotFound.spec(),
            Self::MethodNotAllowed { .. } => Code::MethodNotAllowed.spec(),
            Self::CutOff => Code::ShuttingDown.spec().with_retry_after(RETRY_AFTER_DRAINING),
            Self::UnreadAuthorization | Self::MissingApiKey => Code::MissingApiKey.spec(),
            Self::InvalidApiKey => Code::InvalidApiKey.spec(),
            Self::ConflictingApiKeys => Code::ConflictingApiKeys.spec(),
            Self::RateLimited { wait, .. } => Code::RateLimitExceeded.spec().with_retry_after(*wait),
            Self::ModelsLoading => Code::ModelsLoading.spec().with_retry_after(RETRY_AFTER_LOADING),
            Self::Panicked => Code::InternalError.spec(),
        }
    }

    /// The chain of causes of an internal error: for the log only.
    #[must_use]
    pub fn cause(&self) -> Option<String> {
        let Self::Rerank(RerankError::Internal(cause) | RerankError::DeviceLost(cause)) = self else { return None };
        let mut links = Vec::new();
        let mut next: Option<&(dyn StdError + 'static)> = Some(cause.as_ref());
        while let Some(link) = next {
            // A panic's message may hold a client's text; the panic hook has logged the place.
            let panicked = link.downcast_ref::<tokio::task::JoinError>().is_some_and(tokio::task::JoinError::is_panic);
            links.push(if panicked { "a task panicked".to_owned() } else { link.to_string() });
            next = link.source();
        }
        Some(links.join(": "))
    }
}

fn rerank_spec(error: &RerankError) -> ErrorSpec {
    use ErrorCode as Code;
    use RerankError as E;
    match error {
        E::InvalidField { field, .. } | E::NoDocuments { field } => Code::InvalidValue.spec().with_param(field),
        E::TooManyDocuments { field, .. } | E::TooManyPassages { field, .. } => {
            Code::TooManyDocuments.spec().with_param(field)
        }
        E::TextTooLong { field, .. } => Code::TextTooLong.spec().with_param(field),
        E::PromptTooLong { field, .. } => Code::PromptTooLong.spec().with_param(field),
        E::UnsupportedMode { .. } => Code::UnsupportedMode.spec().with_param("mode"),
        E::UnknownModel { .. } => Code::ModelNotFound.spec().with_param("model"),
        E::ModelUnavailable { retry_after, .. } => {
            Code::ModelUnavailable.spec().with_param("model").with_retry_after(*retry_after)
        }
        E::TooManyTokens { .. } => Code::TooManyTokens.spec().with_param("documents"),
        E::TooLargeForDevice { .. } => Code::TooLargeForDevice.spec().with_param("documents"),
        E::OverBudget { field, retry_after: None, .. } => Code::OverBudget.spec().with_param(*field),
        // The budget would suffice without the other requests in flight.
        E::OverBudget { field, retry_after: Some(wait), .. } => ErrorSpec {
            status: StatusCode::TOO_MANY_REQUESTS,
            kind: RATE_LIMIT,
            ..Code::OverBudget.spec().with_param(*field).with_retry_after(*wait)
        },
        E::Overloaded { retry_after, .. } => Code::Overloaded.spec().with_retry_after(*retry_after),
        E::DeadlineExceeded { is_own: true, .. } => ErrorSpec { level: Level::INFO, ..Code::DeadlineExceeded.spec() },
        E::DeadlineExceeded { is_own: false, .. } => Code::DeadlineExceeded.spec(),
        E::Draining => Code::ShuttingDown.spec().with_retry_after(RETRY_AFTER_DRAINING),
        E::DeviceLost(_) => Code::DeviceLost.spec().with_retry_after(RETRY_AFTER_DEVICE),
        E::Stalled { .. } => Code::DeviceStalled.spec().with_retry_after(RETRY_AFTER_DEVICE),
        E::Internal(_) => Code::InternalError.spec(),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let spec = self.spec();
        let mut response = spec.status.into_response();
        if let Some(wait) = spec.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
        }
        if matches!(self, Self::EncodedBody { .. }) {
            response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static(ACCEPTED_ENCODINGS));
        }
        if spec.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

/// A wait in whole seconds: rounded up, and at least one.
fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rerank::Full;

    #[tokio::test]
    async fn the_log_has_the_whole_cause_but_no_text_of_a_panic() {
        let cause = anyhow::anyhow!("disk on fire").context("cannot read").context("cannot rank");
        let error = ApiError::Rerank(RerankError::Internal(cause.into()));
        assert_eq!(error.cause().unwrap(), "cannot rank: cannot read: disk on fire");
        assert_eq!(error.to_string(), "internal error");

        let panic = tokio::spawn(async { panic!("{}", "a client's text") }).await.unwrap_err();
        assert_eq!(ApiError::Rerank(RerankError::internal(panic)).cause().unwrap(), "a task panicked");
    }

    #[test]
    fn every_code_is_a_different_word() {
        let mut words: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), ErrorCode::ALL.len());
    }

    #[test]
    fn a_wait_is_rounded_up_to_whole_seconds() {
        for (wait, seconds) in [(0, "1"), (400, "1"), (1000, "1"), (1001, "2")] {
            let retry_after = Duration::from_millis(wait);
            let full = Full::Requests { queued: 1, limit: 1 };
            let response = ApiError::from(RerankError::Overloaded { full, retry_after }).into_response();
            assert_eq!(response.headers()[header::RETRY_AFTER], seconds);
        }
    }
}
