//! `[evidence]` of a declaration: how texts are read as rows of their own.

use serde::Deserialize;

use super::listwise::SlateFacts;

/// How texts are read as rows of their own, by a trained read-out of their tokens' states.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceFacts {
    /// The control token that begins a row.
    pub begin: String,
    /// The control token that ends it.
    pub end: String,
    /// The most tokens of a text in a row; a longer document continues in the next row.
    pub row_tokens: usize,
    /// How a long list is split.
    pub slates: SlateFacts,
}
