//! The body of an error, in the form that the clients of a dialect expect.

use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::{ApiError, ErrorSpec};
use super::schemas::SchemaOf;
use crate::rerank::RerankError;
use crate::telemetry::mask_url_secrets;

/// The form of an error's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorShape {
    /// [`ErrorBody`]: OpenAI's, Cohere's, Jina's and most other clients find their fields in it.
    Podium,
    /// [`VoyageError`]: Voyage's older clients fail on an `error` that is an object.
    Voyage,
    /// [`TeiError`]: that of text-embeddings-inference.
    Tei,
}

impl ErrorShape {
    /// The body for an error of the request `id`.
    #[must_use]
    pub fn body(self, error: &ApiError, id: &str) -> Vec<u8> {
        let (spec, message) = (error.spec(), mask_url_secrets(&error.to_string()).into_owned());
        let body = match self {
            Self::Podium => serde_json::to_vec(&ErrorBody::new(&message, &spec, id)),
            Self::Voyage => serde_json::to_vec(&VoyageError { detail: &message }),
            Self::Tei => {
                let is_empty = matches!(error, ApiError::Rerank(RerankError::NoDocuments { .. }));
                let error_type = TeiErrorType::new(spec.status, is_empty);
                serde_json::to_vec(&TeiError { error: &message, error_type })
            }
        };
        body.unwrap_or_default()
    }

    /// The schema of the body; its example is one of an unacceptable field.
    #[must_use]
    pub const fn schema(self) -> SchemaOf {
        match self {
            Self::Podium => SchemaOf::reply::<ErrorBody<'_>>(),
            Self::Voyage => SchemaOf::reply::<VoyageError<'_>>(),
            Self::Tei => SchemaOf::reply::<TeiError<'_>>(),
        }
    }
}

/// An error as OpenAI's, Cohere's, Jina's and most other clients read it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(
    as = Error,
    example = json!({
        "error": {
            "message": "top_n: is 0; it must be at least 1",
            "type": "invalid_request_error",
            "param": "top_n",
            "code": "invalid_value",
        },
        "message": "top_n: is 0; it must be at least 1",
        "detail": "top_n: is 0; it must be at least 1",
        "id": "c736de37-405d-4666-be48-f3e15f0f3a65",
    })
)]
pub struct ErrorBody<'a> {
    #[schema(inline)]
    error: ErrorFields<'a>,
    message: &'a str,
    detail: &'a str,
    /// The request's id.
    id: &'a str,
}

#[derive(Debug, Serialize, ToSchema)]
struct ErrorFields<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    /// The field at fault.
    #[schema(required = true)]
    param: Option<&'a str>,
    /// The kind of error, for programs.
    code: &'a str,
}

impl<'a> ErrorBody<'a> {
    fn new(message: &'a str, spec: &'a ErrorSpec, id: &'a str) -> Self {
        let (param, code) = (spec.param.as_deref(), spec.code.as_str());
        let error = ErrorFields { message, kind: spec.kind, param, code };
        Self { error, message, detail: message, id }
    }
}

/// An error as Voyage's clients read it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"detail": "top_n: is 0; it must be at least 1"}))]
struct VoyageError<'a> {
    detail: &'a str,
}

/// An error as the clients of text-embeddings-inference read it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"error": "texts: must hold at least one document", "error_type": "Empty"}))]
struct TeiError<'a> {
    error: &'a str,
    #[schema(inline)]
    error_type: TeiErrorType,
}

#[derive(Debug, Serialize, ToSchema)]
enum TeiErrorType {
    Validation,
    Empty,
    Overloaded,
    Backend,
    Unhealthy,
    Unauthorized,
}

impl TeiErrorType {
    fn new(status: StatusCode, is_empty: bool) -> Self {
        match status.as_u16() {
            401 | 403 => Self::Unauthorized,
            429 => Self::Overloaded,
            503 => Self::Unhealthy,
            500.. => Self::Backend,
            _ if is_empty => Self::Empty,
            _ => Self::Validation,
        }
    }
}
