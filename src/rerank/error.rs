//! Errors of a ranking, as facts: statuses, codes and bodies belong to `http`.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use super::Progress;

/// The longest part of a client's value that an error repeats.
const MAX_REPEATED_CHARACTERS: usize = 128;

/// The start of a client's value, for a message.
#[must_use]
pub fn shortened(word: &str) -> String {
    word.chars().take(MAX_REPEATED_CHARACTERS).collect()
}

/// A request got no ranking.
#[derive(Debug, thiserror::Error)]
pub enum RerankError {
    /// A field has an invalid value.
    #[error("{field}: {problem}")]
    InvalidField {
        /// The field in the client's words, with an index if it is one of many (`documents[3]`).
        field: String,
        /// The problem, with the value and the limit.
        problem: String,
    },
    /// The request has no documents.
    #[error("{field}: must hold at least one document")]
    NoDocuments {
        /// The documents' field, in the client's words.
        field: String,
    },
    /// The request has more documents than the server accepts.
    #[error("{field}: {count} documents are over the limit of {limit} in one request")]
    TooManyDocuments {
        /// The documents' field, in the client's words.
        field: String,
        /// Documents in the request.
        count: usize,
        /// The configured limit.
        limit: usize,
    },
    /// The documents have more passages than the server accepts.
    #[error(
        "{field}: {count} passages of {documents} documents are over the limit of {limit} in one request (limits.max_passages); send fewer or shorter documents, or set max_chunks_per_doc"
    )]
    TooManyPassages {
        /// The documents' field, in the client's words.
        field: String,
        /// Passages of all documents; of one with more passages than the limit, one more than that.
        count: usize,
        /// Documents in the request.
        documents: usize,
        /// The configured limit.
        limit: usize,
    },
    /// A text is over its limit, and the request forbids truncation.
    #[error("{field}: {tokens} tokens are over the limit of {limit}, and truncation is off")]
    TextTooLong {
        /// The text, in the client's words (`query`, `instruction`, `documents[3]`).
        field: String,
        /// Tokens of the text.
        tokens: usize,
        /// The limit on its tokens.
        limit: usize,
    },
    /// The prompt is over the model's context even with a single document.
    #[error(
        "the prompt for {field} has {tokens} tokens, over the model's context of {limit}; set max_tokens_per_doc, or shorten query and instruction"
    )]
    PromptTooLong {
        /// The part of the request that the prompt is for (`documents[3]`, or all of it).
        field: String,
        /// Tokens of the prompt.
        tokens: usize,
        /// The model's context in tokens.
        limit: usize,
    },
    /// The server has no model of this name.
    #[error("model: {}", unknown_model_message(name, available))]
    UnknownModel {
        /// The name in the request; a long one is cut.
        name: String,
        /// The names that the server knows.
        available: Vec<String>,
    },
    /// The model is configured and not loaded now.
    #[error("model: `{name}` {problem}; try again in {} s", retry_after.as_secs())]
    ModelUnavailable {
        /// The model's name.
        name: String,
        /// Why not.
        problem: &'static str,
        /// When to try again.
        retry_after: Duration,
    },
    /// The family does not have the requested mode.
    #[error("mode: {problem}")]
    UnsupportedMode {
        /// Why not, and what to do instead.
        problem: String,
    },
    /// The request has more tokens than the queue ever holds.
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
    /// The request's strict budget is not enough.
    #[error("{field}: {problem}")]
    OverBudget {
        /// The field that sets the budget.
        field: &'static str,
        /// The tokens or the time that it would take.
        problem: String,
        /// When it would be enough, if only the requests of others are in the way.
        retry_after: Option<Duration>,
    },
    /// The queue is full.
    #[error("{full}; try again in {} s", retry_after.as_secs_f64().ceil().max(1.0))]
    Overloaded {
        /// Which of its limits is reached.
        full: Full,
        /// When there will be room, at the measured throughput.
        retry_after: Duration,
    },
    /// The request was not answered in time.
    #[error("the request took longer than {} ms: {done}", limit.as_millis())]
    DeadlineExceeded {
        /// The limit that applied.
        limit: Duration,
        /// How far the request had come.
        done: Progress,
        /// Whether the request set the limit, and not the server.
        is_own: bool,
    },
    /// The server is shutting down.
    #[error("the server is shutting down and takes no new requests")]
    Draining,
    /// One pass of the request does not fit into the device's memory, even alone.
    #[error(
        "documents: {tokens} tokens that are read together do not fit into the device's memory; send fewer or shorter documents, or set max_tokens_per_doc"
    )]
    TooLargeForDevice {
        /// Tokens of the pass.
        tokens: usize,
    },
    /// The device is lost: this process cannot rank any more. The cause goes to the log.
    #[error("the device has failed, and the server has to be started again")]
    DeviceLost(#[source] Box<dyn StdError + Send + Sync>),
    /// A batch has been on the device for too long.
    #[error("the device has been busy with one batch for more than {} s", limit.as_secs())]
    Stalled {
        /// The most time for a batch.
        limit: Duration,
    },
    /// A fault of this server. The cause goes to the log, never to the client.
    #[error("internal error")]
    Internal(#[source] Box<dyn StdError + Send + Sync>),
}

fn unknown_model_message(name: &str, available: &[String]) -> String {
    let available = available.join(", ");
    if name.trim().is_empty() {
        return format!("is empty; leave it out for the default, or give one of {available}");
    }
    format!("`{name}` is not served here; available: {available}; `podium serve --served-model-name` adds a name")
}

/// The limit of the queue that is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Full {
    /// The limit on requests.
    Requests {
        /// Requests accepted and unanswered.
        queued: usize,
        /// The limit.
        limit: usize,
    },
    /// The limit on tokens.
    Tokens {
        /// Tokens of accepted requests that the model has yet to read.
        queued: usize,
        /// Tokens of this request.
        asked: usize,
        /// The limit.
        limit: usize,
    },
    /// The share of one API key.
    Share {
        /// Requests of this key.
        requests: usize,
        /// Tokens of this key.
        tokens: usize,
    },
    /// The limit on the wait.
    Wait {
        /// The expected wait of this request.
        wait: Duration,
        /// The limit.
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
    /// An invalid value of `field`.
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::InvalidField { field: field.into(), problem: problem.into() }
    }

    /// No model has this name; a long name is cut.
    #[must_use]
    pub fn unknown_model(name: &str, available: &[String]) -> Self {
        let name = shortened(name);
        Self::UnknownModel { name, available: available.to_vec() }
    }

    /// The same error for a client that calls the query and the documents by these names.
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

    /// The same error of a field inside the field `outer`.
    #[must_use]
    pub fn inside(mut self, outer: &str) -> Self {
        if let Some(field) = self.field_mut() {
            *field = format!("{outer}.{field}");
        }
        self
    }

    /// The same error for a client that calls the field `from` by another name.
    #[must_use]
    pub fn with_field_named(mut self, from: &str, to: &str) -> Self {
        if let Some(field) = self.field_mut().filter(|field| *field == from) {
            to.clone_into(field);
        }
        self
    }

    /// The same error for the pair at `index` of many: each pair has one query and one document.
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

    /// The same error with another index where it names one of the documents, `documents[3]`.
    #[must_use]
    pub fn with_document_index(mut self, index: impl Fn(usize) -> usize) -> Self {
        if let Some(field) = self.field_mut() {
            let number = field.strip_prefix("documents[").and_then(|rest| rest.strip_suffix(']'));
            if let Some(number) = number.and_then(|number| number.parse().ok()) {
                *field = format!("documents[{}]", index(number));
            }
        }
        self
    }

    fn field_mut(&mut self) -> Option<&mut String> {
        match self {
            Self::InvalidField { field, .. }
            | Self::NoDocuments { field }
            | Self::TooManyDocuments { field, .. }
            | Self::TooManyPassages { field, .. }
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
