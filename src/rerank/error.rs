//! The ways a rerank can fail. Facts only: statuses, codes and bodies belong to `http`.

use std::error::Error as StdError;
use std::time::Duration;

/// The longest part of a caller's word that an error repeats.
const REPEATED_CHARACTERS: usize = 128;

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
    /// No documents at all.
    #[error("{field}: must hold at least one document")]
    NoDocuments {
        /// The documents' field, as the caller spells it.
        field: String,
    },
    /// More documents than the server takes in one request.
    #[error("{field}: {count} documents are over the limit of {limit} in one request")]
    TooManyDocuments {
        /// The documents' field, as the caller spells it.
        field: String,
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
    /// The named model is served here, but not now.
    #[error("model: `{name}` {problem}; try again in {} s", retry_after.as_secs())]
    ModelUnavailable {
        /// The model's name.
        name: String,
        /// What is with it.
        problem: &'static str,
        /// When it is worth trying again.
        retry_after: Duration,
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
    /// The device has not the memory for one pass of the request, even alone.
    #[error(
        "documents: {tokens} tokens that are read together do not fit into the device's memory; send fewer or shorter documents, or set max_tokens_per_doc"
    )]
    TooLargeForDevice {
        /// Tokens of the pass.
        tokens: usize,
    },
    /// The device, or what drives it, is gone: this process can answer nothing more. The cause goes to the log.
    #[error("the device has failed, and the server has to be started again")]
    DeviceLost(#[source] Box<dyn StdError + Send + Sync>),
    /// What was given to the device does not come back.
    #[error("the device has been busy with one batch for more than {} s", limit.as_secs())]
    Stalled {
        /// How long a batch may take before it is called so.
        limit: Duration,
    },
    /// Anything that is this server's fault. The cause goes to the log, never to the caller.
    #[error("internal error")]
    Internal(#[source] Box<dyn StdError + Send + Sync>),
}

impl RerankError {
    /// An unacceptable value of `field`.
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::InvalidField { field: field.into(), problem: problem.into() }
    }

    /// A model of this name is not served; a long name is cut.
    #[must_use]
    pub fn unknown_model(name: &str, available: &[String]) -> Self {
        let name = name.chars().take(REPEATED_CHARACTERS).collect();
        Self::UnknownModel { name, available: available.to_vec() }
    }

    /// The same error for a caller who spells query and documents in these words.
    #[must_use]
    pub fn in_words_of(mut self, query: &str, documents: &str) -> Self {
        if let Some(field) = self.field_mut() {
            for (from, to) in [("query", query), ("documents", documents)] {
                if let Some(rest) = field.strip_prefix(from)
                    && (rest.is_empty() || rest.starts_with('['))
                {
                    *field = format!("{to}{rest}");
                    break;
                }
            }
        }
        self
    }

    /// The same error for the pair at `index` of a request for many: each has one query and one document.
    #[must_use]
    pub fn of_pair(mut self, index: usize) -> Self {
        if let Some(field) = self.field_mut() {
            match field.as_str() {
                "query" => *field = format!("query[{index}]"),
                "documents[0]" => *field = format!("documents[{index}]"),
                _ => {}
            }
        }
        self
    }

    fn field_mut(&mut self) -> Option<&mut String> {
        match self {
            Self::InvalidField { field, .. }
            | Self::NoDocuments { field }
            | Self::TooManyDocuments { field, .. }
            | Self::TextTooLong { field, .. }
            | Self::PromptTooLong { field, .. } => Some(field),
            Self::UnknownModel { .. }
            | Self::ModelUnavailable { .. }
            | Self::UnsupportedMode { .. }
            | Self::Overloaded { .. }
            | Self::DeadlineExceeded { .. }
            | Self::Draining
            | Self::TooLargeForDevice { .. }
            | Self::DeviceLost(_)
            | Self::Stalled { .. }
            | Self::Internal(_) => None,
        }
    }

    /// A fault of this server, with its cause.
    pub fn internal(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Internal(cause.into())
    }
}
