//! The ways a rerank can fail. Facts only: statuses, codes and bodies belong to `http`.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use super::Progress;

/// The longest part of a caller's word that an error repeats.
const REPEATED_CHARACTERS: usize = 128;

/// The start of a caller's word, for a message.
#[must_use]
pub fn shortened(word: &str) -> String {
    word.chars().take(REPEATED_CHARACTERS).collect()
}

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
    #[error("model: {}", unknown(name, available))]
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
    /// More tokens than the queue ever takes.
    #[error(
        "the request has {tokens} tokens in {documents} documents, over the {limit} that the queue takes in all; send fewer documents or set max_tokens_per_doc"
    )]
    TooManyTokens {
        /// Tokens that the model would read.
        tokens: usize,
        /// Documents in the request.
        documents: usize,
        /// The configured limit.
        limit: usize,
    },
    /// The request's strict budget does not suffice.
    #[error("{field}: {problem}")]
    OverBudget {
        /// The field that sets the budget.
        field: &'static str,
        /// What it would take.
        problem: String,
        /// When it would suffice, if what others have in the queue is all that is in the way.
        retry_after: Option<Duration>,
    },
    /// There is no room now.
    #[error("{full}; try again in {} s", retry_after.as_secs_f64().ceil().max(1.0))]
    Overloaded {
        /// What there is no room in.
        full: Full,
        /// When there will be, at the measured rate.
        retry_after: Duration,
    },
    /// The request waited or ran longer than it may.
    #[error("the request took longer than {} ms: {done}", limit.as_millis())]
    DeadlineExceeded {
        /// The limit that was passed.
        limit: Duration,
        /// How far it had come.
        done: Progress,
        /// Whether the request set the limit, and not the server.
        is_own: bool,
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

fn unknown(name: &str, available: &[String]) -> String {
    let available = available.join(", ");
    if name.trim().is_empty() {
        return format!("is empty; leave it out for the default, or give one of {available}");
    }
    format!("`{name}` is not served here; available: {available}")
}

/// Which of the queue's limits is in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Full {
    /// That on requests.
    Requests {
        /// Requests accepted and unanswered.
        queued: usize,
        /// How many there may be.
        limit: usize,
    },
    /// That on tokens.
    Tokens {
        /// Tokens that accepted requests still have to be read.
        queued: usize,
        /// Tokens of this request.
        asked: usize,
        /// How many there may be.
        limit: usize,
    },
    /// What one key may hold while others may come.
    Share {
        /// Requests of this key.
        requests: usize,
        /// Tokens of this key.
        tokens: usize,
    },
    /// That on the time of waiting.
    Wait {
        /// How long this request would wait.
        wait: Duration,
        /// How long it may.
        limit: Duration,
    },
}

impl fmt::Display for Full {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requests { queued, limit } => {
                write!(formatter, "the server is at capacity: {queued} requests wait already (limit {limit})")
            }
            Self::Tokens { queued, asked, limit } => write!(
                formatter,
                "the server is at capacity: {queued} tokens wait already, and {asked} more are over the limit of {limit}"
            ),
            Self::Share { requests, tokens } => write!(
                formatter,
                "this key has its share of the queue: {requests} requests of {tokens} tokens, and what is free is kept \
                 for others"
            ),
            Self::Wait { wait, limit } => write!(
                formatter,
                "the server is at capacity: this request would wait {:.1} s, over the limit of {:.1} s",
                wait.as_secs_f64(),
                limit.as_secs_f64()
            ),
        }
    }
}

impl RerankError {
    /// An unacceptable value of `field`.
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::InvalidField { field: field.into(), problem: problem.into() }
    }

    /// A model of this name is not served; a long name is cut.
    #[must_use]
    pub fn unknown_model(name: &str, available: &[String]) -> Self {
        let name = shortened(name);
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
            | Self::TooManyTokens { .. }
            | Self::OverBudget { .. }
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
