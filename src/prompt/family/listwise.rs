//! `[listwise]` of a declaration: how documents are read together.

use serde::Deserialize;

/// How documents are read together.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListwiseFacts {
    /// The template's file.
    pub template: String,
    /// Which tokens see each other.
    pub layout: Layout,
    /// How a long list is split.
    pub slates: SlateFacts,
    /// How scores are read.
    pub readout: ListwiseReadout,
}

/// Which tokens of a slate see each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// One sequence; each token sees all before it.
    Causal,
    /// Template blocks `prefix`, `document`, `closing`: documents and the closing query are
    /// suffixes of the prefix, and see each other only through their marks in the model's
    /// cross-document layers.
    Isolated,
}

/// How scores are read from a slate.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ListwiseReadout {
    /// The cosine of the projected states at each document's mark and at the query's.
    LateInteraction {
        /// The token that closes a document; with `{bucket}`, one per bucket of lexical evidence.
        document_mark: String,
        /// How many buckets of lexical evidence there are.
        evidence_buckets: Option<usize>,
        /// The token that closes the query.
        query_mark: String,
    },
    /// The logits of the identifiers as the prompt's next token.
    FirstToken {
        /// Ranges (`A-Z`, `AA-ZZ`) of which those that are single tokens are used, in order.
        identifiers: Vec<String>,
    },
}

/// How a list longer than a slate is split.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlateFacts {
    /// The rule.
    pub rule: SlateRule,
    /// The most documents of a slate; the operator's limit may be lower.
    pub documents: usize,
    /// For `windows`: by how many documents a window moves, when it is `documents` wide.
    pub stride: Option<usize>,
}

/// How a list longer than a slate is cut; the rules are in `rerank::slates`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlateRule {
    /// A block closes when it might not hold one more document of the longest kind.
    Blocks,
    /// As few slates as possible, each with about the same number of documents.
    Even,
    /// A window slides from the end of the list to its start.
    Windows,
}
