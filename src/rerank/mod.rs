//! What a rerank is: the request, the ranking and the ways it can fail, as plain data.
//!
//! Pure: no I/O, no `async`, and no other room is imported here. How slates are cut lives in
//! [`slates`]; how a client spells a request lives in `http`, and what a model reads in `prompt`.

pub mod budget;
mod error;
mod instructions;
mod limits;
mod model_name;
pub mod slates;
mod terms;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use budget::BudgetReport;
pub use error::{Full, RerankError, shortened};
pub use instructions::{InstructionSettings, Instructions, JoinedText, ProfileError};
pub use limits::LimitSettings;
pub use terms::{Budget, LEAST_URGENT, Progress, Terms};

/// How a request wants its documents read, or how they were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Listwise where the family can and a slate holds at least two of the documents, else pointwise.
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

/// One request, in the words of the domain: every dialect is translated into this. What the pairs of a call have in common
/// is shared between their requests.
#[derive(Debug, Clone, PartialEq)]
pub struct RerankRequest {
    /// The model's name; `None` is the default model.
    pub model: Option<Arc<str>>,
    /// What is searched for. Not blank.
    pub query: String,
    /// How relevance is to be judged, in natural language.
    pub instruction: Option<Arc<str>>,
    /// The name of a stored instruction.
    pub profile: Option<Arc<str>>,
    /// The documents' texts, in the caller's order.
    pub documents: Vec<String>,
    /// How many results are wanted; `None` is all. At least 1; more than there are documents is all.
    pub top_n: Option<usize>,
    /// The most tokens of each document that are read; `None` is the family's limit.
    pub max_tokens_per_doc: Option<usize>,
    /// Whether a text over its limit is cut (and marked), or refused.
    pub truncation: bool,
    /// How the documents are read.
    pub mode: Mode,
    /// How urgent it is, how long it may take and what it may cost.
    pub terms: Terms,
}

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
            max_tokens_per_doc: None,
            truncation: true,
            mode: Mode::Auto,
            terms: Terms::default(),
        }
    }
}

/// One document's place in a [`Ranking`].
#[derive(Debug, Clone, PartialEq)]
pub struct RankedDocument {
    /// The document's place in the request, from 0.
    pub index: usize,
    /// Relevance in `[0, 1]`.
    pub relevance_score: f32,
    /// The family's own number: a cosine, a logit, a log probability.
    pub raw_score: f32,
    /// Tokens the whole document has.
    pub tokens: usize,
    /// Tokens of it that the model read; fewer than `tokens` exactly when the document was cut.
    pub tokens_read: usize,
}

impl RankedDocument {
    /// Whether the end of the document was cut off before the model read it.
    #[must_use]
    pub const fn truncated(&self) -> bool {
        self.tokens_read < self.tokens
    }
}

/// What was read, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens sent through the model, prompts and repeated queries included.
    pub prompt_tokens: usize,
    /// Documents of which the end was cut off.
    pub truncated_documents: usize,
}

/// Where a request's time went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timing {
    /// Waiting for the device.
    pub queue: Duration,
    /// Tokenising, truncating and rendering, and making scores of what the model said.
    pub tokenize: Duration,
    /// The model's forward passes.
    pub forward: Duration,
    /// From the request's end to the finished ranking.
    pub total: Duration,
}

/// The answer to a [`RerankRequest`].
#[derive(Debug, Clone, PartialEq)]
pub struct Ranking {
    /// Best first; equal scores keep the request's order. At most `top_n`.
    pub results: Vec<RankedDocument>,
    /// Documents in the request.
    pub documents: usize,
    /// The model that ranked, by the name that was asked for.
    pub model: String,
    /// The stored instruction that was in effect.
    pub profile: Option<String>,
    /// [`Mode::Listwise`] or [`Mode::Pointwise`]: what ran, never [`Mode::Auto`].
    pub mode: Mode,
    /// Slates (listwise) or documents (pointwise) read, over all rounds.
    pub slates: usize,
    /// What was read.
    pub usage: Usage,
    /// What the caller should know: cut texts, removed control tokens, a fallback.
    pub warnings: Vec<String>,
    /// What was given up for the request's budget, if it has one.
    pub budget: Option<BudgetReport>,
    /// Where the time of the whole call went.
    pub timing: Timing,
}
