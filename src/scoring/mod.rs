//! Outputs to relevance scores: late interaction, first token, pointwise.
//!
//! [`Rounds`] is the one loop that all families share: it says which passes run next, takes what
//! came back and ends with a score for each document. Families whose scores compare across slates
//! run all slates in one round; a window of which the scores compare only among themselves slides
//! over the list, one position a round. Which texts are read is decided in `prompt`; running passes
//! is the caller's business.

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

/// What the documents of a request scored, in the request's order.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// The family's own numbers: cosines, log probabilities, logit differences.
    pub raw: Vec<f32>,
    /// Relevances in [0, 1]; the ranking is by these.
    pub relevance: Vec<f32>,
    /// Slates (listwise) or documents (pointwise) that were read.
    pub slates: usize,
    /// What ran: never [`Mode::Auto`].
    pub mode: Mode,
}

/// 1 / (1 + e^-x)
#[must_use]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
