//! The ways a rerank can fail. Facts only: statuses, codes and bodies belong to `http`.

use std::error::Error as StdError;
use std::time::Duration;

/// Why a request got no ranking.
#[derive(Debug, thiserror::Error)]
pub enum RerankError {
    /// A field's value is not acceptable.
    #[error("{field}: {problem}")]
    InvalidField {
        /// The field, as the caller spells it, with an index where it is one of many (`documents[3]`).
        field: String,
        /// What is wrong, with the value and the limit.
        problem: String,
    },
    /// More documents than the server takes in one request.
    #[error("documents: {count} documents are over the limit of {limit} in one request")]
    TooManyDocuments {
        /// Documents in the request.
        count: usize,
        /// The configured limit.
        limit: usize,
    },
    /// A text is over its token limit and the request forbids cutting it.
    #[error("{field}: {tokens} tokens are over the limit of {limit}, and truncation is off")]
    TextTooLong {
        /// The text, as the caller spells it (`query`, `instruction`, `documents[3]`).
        field: String,
        /// Tokens that the text has.
        tokens: usize,
        /// Tokens that may be read of it.
        limit: usize,
    },
    /// The prompt is over the model's context even with a single document.
    #[error(
        "the prompt for {field} has {tokens} tokens, over the model's context of {limit}; set max_tokens_per_doc, or shorten query and instruction"
    )]
    PromptTooLong {
        /// What the prompt was for (`documents[3]`, or the whole request).
        field: String,
        /// Tokens of the prompt.
        tokens: usize,
        /// The model's context in tokens.
        limit: usize,
    },
    /// The named model is not served here; a long name is cut.
    #[error("model: `{name}` is not served here; available: {}", available.join(", "))]
    UnknownModel {
        /// The name that was asked for.
        name: String,
        /// The names that are served.
        available: Vec<String>,
    },
    /// The family cannot read documents in the mode that was asked for.
    #[error("mode: {problem}")]
    UnsupportedMode {
        /// Why not, and what can be done instead.
        problem: String,
    },
    /// The queue is full.
    #[error("the server is at capacity: {queued} requests wait already (limit {limit}); try again in {} s", retry_after.as_secs().max(1))]
    Overloaded {
        /// Requests waiting.
        queued: usize,
        /// The queue's length.
        limit: usize,
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// The request waited or ran longer than it may.
    #[error("the request took longer than {} ms", limit.as_millis())]
    DeadlineExceeded {
        /// The limit that was passed.
        limit: Duration,
    },
    /// The server is shutting down.
    #[error("the server is shutting down and takes no new requests")]
    Draining,
    /// Anything that is this server's fault. The cause goes to the log, never to the caller.
    #[error("internal error")]
    Internal(#[source] Box<dyn StdError + Send + Sync>),
}

impl RerankError {
    /// An unacceptable value of `field`.
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::InvalidField { field: field.into(), problem: problem.into() }
    }

    /// The same error for a caller who spells the documents' field `name`.
    #[must_use]
    pub fn with_documents_named(mut self, name: &str) -> Self {
        if let Self::InvalidField { field, .. } | Self::TextTooLong { field, .. } | Self::PromptTooLong { field, .. } =
            &mut self
            && let Some(rest) = field.strip_prefix("documents")
            && (rest.is_empty() || rest.starts_with('['))
        {
            *field = format!("{name}{rest}");
        }
        self
    }

    /// A fault of this server, with its cause.
    pub fn internal(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Internal(cause.into())
    }
}
