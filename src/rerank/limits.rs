//! Limits on one request, for every model.

/// Limits of one request (`[limits]` in the configuration).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitSettings {
    /// Documents in one request.
    pub max_documents: usize,
    /// Passages of all documents of one request.
    pub max_passages: usize,
    /// Documents in one slate.
    pub max_slate_documents: usize,
    /// Tokens of one slate, prompt included. A slate that is one sequence is limited by the model's
    /// context too.
    pub max_slate_tokens: usize,
}
