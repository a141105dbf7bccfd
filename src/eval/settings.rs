//! What is asked of a run. A part of the JSON, so that two reports can be compared.

use serde::{Deserialize, Serialize};

use crate::rerank::Mode;

/// How every set of a run is evaluated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvalSettings {
    /// The cut-off of nDCG, MRR, Hit and Recall. At least 1.
    pub k: usize,
    /// Candidates of a query that are reranked. At least 1.
    pub top: usize,
    /// Input orders of each query's candidates: the given one, then shuffled ones. At least 1.
    pub orders: usize,
    /// Seeds the sample of queries, the shuffled orders and the resampling.
    pub seed: u64,
    /// The most queries of a set that are evaluated; `None` is all.
    pub queries: Option<usize>,
    /// The instruction that every query comes with, in place of the set's own.
    pub instruction: Option<String>,
    /// How documents are read.
    pub mode: Mode,
    /// The most tokens of each document that are read; `None` is the model's limit.
    pub max_tokens_per_doc: Option<usize>,
    /// The first-stage run, as it was named; `None` is BM25, or the order in a file of slates.
    pub run: Option<String>,
}
