//! The field `truncate` of NVIDIA NIM and Pinecone.

use serde_json::Value;
use utoipa::ToSchema;

use crate::http::fields::{Field, none_of, text};
use crate::rerank::RerankError;

/// How a document over its limit is read: `END` cuts its end off, `NONE` makes it an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "UPPERCASE")]
pub(super) enum Truncate {
    None,
    End,
}

impl Field for Truncate {
    fn from_value(name: &str, value: Value) -> Result<Self, RerankError> {
        match text(name, value)?.as_str() {
            "NONE" => Ok(Self::None),
            "END" => Ok(Self::End),
            word => Err(none_of(name, word, &["NONE", "END"])),
        }
    }
}
