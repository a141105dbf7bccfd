//! Errors of outputs that give no valid scores. All of them are faults of the server, not of a
//! request.

/// An output of the model that gives no valid score.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ScoringError {
    /// A document's score is NaN or infinite.
    #[error("documents[{document}] scored {value}")]
    NonFinite {
        /// The document's place in the request.
        document: usize,
        /// Its score.
        value: f32,
    },
    /// The outputs do not match the passes.
    #[error("the passes asked for {expected}, the model returned {found}")]
    WrongOutput {
        /// The outputs that the passes asked for.
        expected: String,
        /// The outputs that the model returned.
        found: String,
    },
    /// A document has no score.
    #[error("documents[{document}] has no score")]
    Unscored {
        /// The document's place in the request.
        document: usize,
    },
}
