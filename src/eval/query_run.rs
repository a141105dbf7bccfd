//! Results of a run for one query.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The result of one rerank request for a query's candidates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pass {
    /// Indices of the reranked candidates, best first. Of neighbours with the same score, the one
    /// with the higher document id comes first, as in `trec_eval`.
    pub ranking: Vec<usize>,
    /// Each candidate's relevance score.
    pub scores: Vec<f64>,
    /// Each candidate's position in the input, from 0.
    pub positions: Vec<usize>,
    /// Whether each candidate was truncated, if the system reports it for all.
    pub truncated: Option<Vec<bool>>,
    /// Tokens read of each candidate, if the system reports them for all.
    pub tokens_read: Option<Vec<usize>>,
    /// Tokens that passed through the model, if the system reports them.
    pub prompt_tokens: Option<usize>,
    /// Time from request to reply.
    pub latency: Duration,
    /// Number of retries because the system was busy.
    pub retries: usize,
}

/// All results of one query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueryRun {
    /// The instruction of the requests in `orders`.
    pub instruction: Option<String>,
    /// One result for each input order, the given order first; empty for a query without
    /// candidates.
    pub orders: Vec<Pass>,
    /// The result of the given order without the instruction; `None` if there is no instruction.
    pub plain: Option<Pass>,
}
