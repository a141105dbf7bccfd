//! Outputs that are no scores. All of these are faults of the server, not of a request.

/// What is wrong with what came back from the model.
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
    /// The outputs are not those that were asked for.
    #[error("asked for {expected}, got {found}")]
    WrongOutput {
        /// What the passes asked for.
        expected: String,
        /// What came back.
        found: String,
    },
    /// Documents were left without a score.
    #[error("documents[{document}] was never scored")]
    Unscored {
        /// The document's place in the request.
        document: usize,
    },
}
