//! Outputs to relevance scores: late interaction, first token, pointwise, bi-encoder.
//!
//! [`Rounds`] is the loop that all families share: it returns the passes that run next, takes their
//! outputs, and ends with a score for each document. Families whose scores compare across slates
//! run all slates in one round. Where scores compare only within a window, the window slides over
//! the list, one position in each round. `prompt` plans the passes, and the caller runs them.

mod error;
mod first_token;
mod late_interaction;
mod pointwise;
mod rounds;
#[cfg(test)]
mod tests;

pub use error::ScoringError;
pub use rounds::{PlannedPass, Rounds};

use crate::rerank::Mode;

/// The scores of a request's documents, in the request's order.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// The family's own scores: cosines, log-probabilities, logit differences.
    pub raw: Vec<f32>,
    /// Relevances in [0, 1], which order the ranking.
    pub relevance: Vec<f32>,
    /// Slates (listwise) or documents (pointwise) that have run.
    pub slates: usize,
    /// The mode that ran: never [`Mode::Auto`].
    pub mode: Mode,
    /// Where documents were scored, where that may be before the last layer.
    pub early_exit: Option<EarlyExits>,
}

/// The layers that the documents of a request were scored after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EarlyExits {
    /// After how many layers each document was scored, in the request's order. `None`: after the
    /// last.
    pub layers: Vec<Option<u16>>,
    /// The layers that were not computed, counted as tokens through all layers.
    pub tokens_saved: usize,
}

/// 1 / (1 + e^-x)
#[must_use]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
