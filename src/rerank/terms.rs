//! The constraints of a request: how urgent it is, how long it may take, what it may cost.

use std::time::Duration;

/// The largest priority, which is the least urgent.
pub const LEAST_URGENT: u16 = 999;

/// When a request wants its ranking, and for how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// From 0, the most urgent, to [`LEAST_URGENT`].
    pub priority: u16,
    /// How long the request may take in all; beyond it there is no ranking. `None` is the server's limit.
    pub timeout: Option<Duration>,
    /// How much may be read; beyond it less is read.
    pub budget: Budget,
}

/// How much a request may spend. Where it does not suffice, less is read and the ranking says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budget {
    /// How long the ranking should take, waiting included.
    pub max_latency: Option<Duration>,
    /// The most tokens that go through the model for it.
    pub max_total_tokens: Option<usize>,
    /// Whether it is an error if that does not suffice to read everything.
    pub strict: bool,
}

impl Budget {
    /// Whether there is one.
    #[must_use]
    pub const fn is_set(&self) -> bool {
        self.max_latency.is_some() || self.max_total_tokens.is_some()
    }
}

/// How far a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Passes that ran.
    pub passes: usize,
    /// Passes that were planned; 0 before there is a plan.
    pub of_passes: usize,
    /// Documents that were read.
    pub documents: usize,
    /// Documents of the request.
    pub of_documents: usize,
}

impl std::fmt::Display for Progress {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { passes, of_passes, documents, of_documents } = self;
        if *of_passes == 0 {
            return write!(formatter, "no pass was planned yet, and 0 of {of_documents} documents were read");
        }
        write!(
            formatter,
            "{passes} of {of_passes} passes had run, and {documents} of {of_documents} documents were read"
        )
    }
}
