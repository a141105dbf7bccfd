//! The reply of a reranking system, whatever it was: a model in this process or an endpoint.

use std::time::Duration;

use crate::rerank::Timing;

/// One document's score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoredDocument {
    /// The document's index in the request.
    pub index: usize,
    /// The relevance score; finite.
    pub score: f64,
    /// Tokens that the model read of the document, if the system reports them.
    pub tokens_read: Option<usize>,
    /// Whether the document was truncated, if the system reports it.
    pub truncated: Option<bool>,
}

/// A system's reply: every document of the request exactly once.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Best first.
    pub documents: Vec<ScoredDocument>,
    /// The model's name, if the system reports it.
    pub model: Option<String>,
    /// Tokens sent through the model, if the system reports them.
    pub prompt_tokens: Option<usize>,
    /// From sending the request that succeeded to having read the reply.
    pub latency: Duration,
    /// Retries because the system was busy.
    pub retries: usize,
    /// The time of each stage, if the system reports it.
    pub timing: Option<Timing>,
}
