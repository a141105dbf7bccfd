//! The reply of a reranking system: of a model in this process, or of an endpoint.

use std::time::Duration;

use crate::rerank::Timing;

/// One document's score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoredDocument {
    /// The document's index in the request.
    pub index: usize,
    /// The relevance score; finite.
    pub score: f64,
    /// Number of the document's tokens that the model read, if the system reports it.
    pub tokens_read: Option<usize>,
    /// Whether the document was truncated, if the system reports it.
    pub truncated: Option<bool>,
}

/// Appends the documents that a reply with fewer results lacks, in the request's order, with the
/// lowest score of the others, or 0.
pub(super) fn append_missing(documents: &mut Vec<ScoredDocument>, count: usize) {
    let mut is_missing = vec![true; count];
    for document in &*documents {
        if let Some(is_missing) = is_missing.get_mut(document.index) {
            *is_missing = false;
        }
    }
    let score = documents.iter().map(|document| document.score).fold(0.0, f64::min);
    let missing = is_missing.into_iter().enumerate().filter(|(_, is_missing)| *is_missing);
    let appended = missing.map(|(index, _)| ScoredDocument { index, score, tokens_read: None, truncated: None });
    documents.extend(appended);
}

/// A system's reply: every document of the request exactly once.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Best first.
    pub documents: Vec<ScoredDocument>,
    /// The model's name, if the system reports it.
    pub model: Option<String>,
    /// Tokens that passed through the model, prompt included, if the system reports them. Tokens
    /// that left early count by the share of the layers that was computed for them.
    pub prompt_tokens: Option<usize>,
    /// Time from sending the request to receiving the whole reply. Failed attempts do not count.
    pub latency: Duration,
    /// Number of retries because the system was busy.
    pub retries: usize,
    /// The time of each stage, if the system reports it.
    pub timing: Option<Timing>,
}
