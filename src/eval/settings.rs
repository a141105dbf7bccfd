//! The settings of a run. Reports contain them, so that the gate can check whether two reports are
//! comparable.

use serde::{Deserialize, Serialize};

use super::measures::Measure;
use crate::rerank::Mode;

/// The settings of a run; they hold for every set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalSettings {
    /// The measures, the primary one first. At least one.
    pub measures: Vec<Measure>,
    /// Number of candidates of each query that are reranked. At least 1.
    pub top: usize,
    /// Number of input orders for each query: the given one, then shuffled ones. At least 1.
    pub orders: usize,
    /// Seed for sampling queries, shuffling orders and the bootstrap.
    pub seed: u64,
    /// Maximum number of queries of each set; `None` for all.
    pub queries: Option<usize>,
    /// The instruction for every query; it replaces the set's own.
    pub instruction: Option<String>,
    /// Whether documents are read together or one at a time.
    pub mode: Mode,
    /// Maximum number of tokens read of each document; `None` for the model's limit.
    pub max_tokens_per_doc: Option<usize>,
    /// Whether a candidate with the id of the query is left out, as BEIR does it.
    pub ignore_identical_ids: bool,
    /// Number of requests that run at the same time. At least 1.
    pub concurrency: usize,
    /// Name of the first-stage run; `None` for BM25, or the order in a file of slates.
    pub run: Option<String>,
    /// Where documents leave the model early; `None` for the model's own setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_exit: Option<ExitPoint>,
    /// How many results are asked for; `None` for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_n: Option<usize>,
    /// The probability at which later stages of a cascade are skipped; `None` for the cascade's
    /// own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_when_sure: Option<f64>,
}

/// Where documents leave the model before its last layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitPoint {
    /// After how many layers.
    pub layer: u16,
    /// How many documents of a pass go on. 0: all are scored there, after the layer's own head.
    pub keep: usize,
}
