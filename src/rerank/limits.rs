//! What a request may ask for, whatever the model.

use serde::{Deserialize, Serialize};

/// Limits on one request (`[limits]` in the configuration).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitSettings {
    /// Documents in one request.
    pub max_documents: usize,
    /// Documents read together in one listwise pass.
    pub max_slate_documents: usize,
    /// Tokens of one listwise pass, prompt included; where that is one sequence, the model's context if it is smaller.
    pub max_slate_tokens: usize,
}
