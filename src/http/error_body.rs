//! The bodies of errors, in the shapes that the clients of each dialect read.

use axum::http::StatusCode;
use serde::Serialize;

use super::error::{ApiError, ErrorSpec};
use crate::rerank::RerankError;

/// The shape of an error that the clients of a dialect read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorShape {
    /// [`ErrorBody`]: what `OpenAI`'s, Cohere's, Jina's and most other clients look for.
    Podium,
    /// Voyage's: a `detail` alone. Its older clients fail on an `error` that is an object.
    Voyage,
    /// That of text-embeddings-inference: `error` is a text, beside an `error_type`.
    Tei,
}

impl ErrorShape {
    /// The name of its responses in the API's description.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Podium => "podium",
            Self::Voyage => "voyage",
            Self::Tei => "tei",
        }
    }

    /// The body of an error of the request `id`.
    #[must_use]
    pub fn body(self, error: &ApiError, id: &str) -> Vec<u8> {
        let (spec, message) = (error.spec(), error.to_string());
        let body = match self {
            Self::Podium => serde_json::to_vec(&ErrorBody::new(&message, &spec, id)),
            Self::Voyage => serde_json::to_vec(&serde_json::json!({ "detail": message })),
            Self::Tei => {
                let is_empty = matches!(error, ApiError::Rerank(RerankError::NoDocuments { .. }));
                let error_type = tei_error_type(spec.status, is_empty);
                serde_json::to_vec(&serde_json::json!({ "error": message, "error_type": error_type }))
            }
        };
        body.unwrap_or_default()
    }
}

/// The kind of an error in the words of text-embeddings-inference.
fn tei_error_type(status: StatusCode, is_empty: bool) -> &'static str {
    match status.as_u16() {
        401 | 403 => "Unauthorized",
        429 => "Overloaded",
        503 => "Unhealthy",
        500.. => "Backend",
        _ if is_empty => "Empty",
        _ => "Validation",
    }
}

/// The body of most errors: the shapes that `OpenAI`'s, Cohere's and Voyage's clients look for, in one.
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
    /// The body of an error of the request `id`.
    #[must_use]
    pub fn new(message: &'a str, spec: &'a ErrorSpec, id: &'a str) -> Self {
        let (param, code) = (spec.param.as_deref(), spec.code.as_str());
        Self { error: ErrorFields { message, kind: spec.kind, param, code }, message, detail: message, id }
    }
}
