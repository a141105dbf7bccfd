//! `[bi_encoder]` of a declaration: how query and documents are encoded apart from each other.

use serde::Deserialize;

/// How query and documents are encoded apart from each other.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BiEncoderFacts {
    /// The file of the template, which has the blocks `query` and `document`.
    pub template: String,
    /// How scores are read.
    pub readout: BiEncoderReadout,
}

/// How a score is read from the states of a document and of the query.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum BiEncoderReadout {
    /// The cosine of the last token's states.
    Cosine {
        /// How many of the first documents block `query` shows (pseudo relevance feedback). Then
        /// the family is listwise, and in pointwise mode the block shows none.
        feedback_documents: Option<usize>,
    },
    /// `ColBERT`'s `MaxSim` over the tokens' states. The checkpoint says how its sequences are made
    /// ([`ColbertSettings`](crate::prompt::ColbertSettings)).
    MaxSim,
}

impl BiEncoderReadout {
    /// How many documents block `query` shows at most.
    #[must_use]
    pub fn feedback_documents(&self) -> usize {
        match self {
            Self::Cosine { feedback_documents } => feedback_documents.unwrap_or(0),
            Self::MaxSim => 0,
        }
    }
}
