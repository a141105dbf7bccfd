//! The domain: the request, the ranking, slates and errors, as plain data.
//!
//! Pure: no I/O, no `async`, no clocks, and no import of another module. How a client writes a
//! request lives in `http`, and what a model reads in `prompt`.

pub mod agreement;
pub mod budget;
pub mod cascade;
mod constraints;
mod early_exit;
mod error;
mod instructions;
mod limits;
mod min_score;
mod model_name;
mod passages;
pub mod slates;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use budget::BudgetReport;
pub use cascade::{CascadeOptions, CascadeReport, Keep, SkipReason, StageReport};
pub use constraints::{MAX_PRIORITY, Progress, RequestBudget, RequestConstraints};
pub use early_exit::{EarlyExitChoice, EarlyExitReport, scale_down_early_exits};
pub use error::{Full, RerankError, shortened};
pub use instructions::{Instructions, JoinedText};
pub use limits::LimitSettings;
pub use min_score::{MinScore, MinScoreReport};
pub use passages::{
    BestPassage, ChunkMerge, Chunking, LongDocuments, Passage, PassageOptions, PassageSettings, Passages,
    SplitDocument, sort_by_relevance,
};

/// How the model reads documents: together or one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Listwise if the family can and a slate holds at least two of the documents, else pointwise.
    #[default]
    Auto,
    /// All documents of a slate in one forward pass.
    Listwise,
    /// One document at a time.
    Pointwise,
}

impl Mode {
    /// The word used on the wire and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Listwise => "listwise",
            Self::Pointwise => "pointwise",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A request to rank documents. Every dialect is translated into this; the pairs of one call share
/// what they have in common.
#[derive(Debug, Clone, PartialEq)]
pub struct RerankRequest {
    /// The model's name; `None` is the default model.
    pub model: Option<Arc<str>>,
    /// The query. Not blank.
    pub query: String,
    /// How to judge relevance, in natural language.
    pub instruction: Option<Arc<str>>,
    /// The name of a stored instruction.
    pub profile: Option<Arc<str>>,
    /// The documents' texts, in the caller's order.
    pub documents: Vec<String>,
    /// The most results; `None` is all. At least 1.
    pub top_n: Option<usize>,
    /// The least score of a result; `None` is no minimum.
    pub min_score: Option<MinScore>,
    /// The most tokens to read of each document; `None` is the family's limit.
    pub max_tokens_per_doc: Option<usize>,
    /// Whether a text over its limit is truncated and marked; otherwise the request is refused.
    pub truncation: bool,
    /// Its options for long documents.
    pub passages: PassageOptions,
    /// How the documents are split into passages; `None` where they are truncated. The pipeline
    /// sets it from `passages` and the settings.
    pub chunking: Option<Chunking>,
    /// How to read the documents.
    pub mode: Mode,
    /// Its priority, its time limit and its budget.
    pub constraints: RequestConstraints,
    /// Its options for a cascade.
    pub cascade: CascadeOptions,
    /// Whether documents may leave the model early; `None` is the model's setting.
    pub early_exit: Option<EarlyExitChoice>,
    /// The layer that all documents are scored after, of a checkpoint with a head for each layer;
    /// `None` is the model's setting.
    pub cutoff_layer: Option<u16>,
    /// In how many orders of the documents a family that depends on it ranks them, from 1 to
    /// [`MAX_STABILITY`]; `None` is 1.
    pub stability: Option<usize>,
}

/// The most orders that a list is ranked in.
pub const MAX_STABILITY: usize = 16;

impl RerankRequest {
    /// A request with every option at its default.
    #[must_use]
    pub fn new(query: impl Into<String>, documents: Vec<String>) -> Self {
        Self {
            model: None,
            query: query.into(),
            instruction: None,
            profile: None,
            documents,
            top_n: None,
            min_score: None,
            max_tokens_per_doc: None,
            truncation: true,
            passages: PassageOptions::default(),
            chunking: None,
            mode: Mode::Auto,
            constraints: RequestConstraints::default(),
            cascade: CascadeOptions::default(),
            early_exit: None,
            cutoff_layer: None,
            stability: None,
        }
    }
}

/// One document of a [`Ranking`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RankedDocument {
    /// The document's index in the request, from 0.
    pub index: usize,
    /// Relevance in `[0, 1]`.
    pub relevance_score: f32,
    /// The family's own score: a cosine, a logit or a log probability.
    pub raw_score: f32,
    /// Tokens of the whole document: exact up to 64 KiB of text, an estimate for a longer document
    /// that was truncated.
    pub tokens: usize,
    /// Tokens of it that the model read; fewer than `tokens` exactly if it was truncated.
    pub tokens_read: usize,
    /// The stage of a cascade that ranked it last: 0 is the caller's own scores, 1 the first model.
    /// `None` without a cascade.
    pub stage: Option<usize>,
    /// After how many layers its score was read, if it left the model early.
    pub exit_layer: Option<u16>,
    /// The standard deviation of its relevance over several orders of the documents, if it was
    /// ranked in several.
    pub spread: Option<f32>,
    /// The passage that the score comes from, where documents were split.
    pub passage: Option<BestPassage>,
}

impl RankedDocument {
    /// Whether the model read some of the document.
    #[must_use]
    pub const fn is_read(&self) -> bool {
        self.tokens_read > 0 || self.tokens == 0
    }

    /// Whether the end of the document was cut off.
    #[must_use]
    pub const fn truncated(&self) -> bool {
        self.tokens_read < self.tokens
    }
}

/// Tokens that the model read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens that went through the model, prompts and repeated queries included.
    pub prompt_tokens: usize,
    /// Documents whose end was cut off.
    pub truncated_documents: usize,
}

/// Where the time of a request went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timing {
    /// Waiting for the device.
    pub queue: Duration,
    /// Tokenizing, truncating, rendering, and turning outputs into scores.
    pub tokenize: Duration,
    /// The forward passes of the model.
    pub forward: Duration,
    /// From the arrival of the body to the finished ranking.
    pub total: Duration,
}

/// The answer to a [`RerankRequest`].
#[derive(Debug, Clone, PartialEq)]
pub struct Ranking {
    /// Best first; equal scores keep the request's order. At most `top_n`.
    pub results: Vec<RankedDocument>,
    /// Documents in the request.
    pub documents: usize,
    /// The model that ranked, by the name in the request.
    pub model: String,
    /// The stored instruction that applied.
    pub profile: Option<String>,
    /// The mode that ran: [`Mode::Listwise`] or [`Mode::Pointwise`], never [`Mode::Auto`].
    pub mode: Mode,
    /// Slates (listwise) or documents (pointwise) that were read, over all rounds.
    pub slates: usize,
    /// Passages that were read, where documents were split; else 0.
    pub passages: usize,
    /// Tokens that the model read.
    pub usage: Usage,
    /// Warnings for the client: truncated texts, removed control tokens, a fallback.
    pub warnings: Vec<String>,
    /// The report on the request's minimum score, if it has one.
    pub min_score: Option<MinScoreReport>,
    /// The report on the request's budget, if it has one.
    pub budget: Option<BudgetReport>,
    /// The report on early exits, where documents may leave.
    pub early_exit: Option<EarlyExitReport>,
    /// The report on each stage, if a cascade ranked.
    pub cascade: Option<CascadeReport>,
    /// Where the time of the whole call went, from the request's timeline.
    pub timing: Timing,
}
