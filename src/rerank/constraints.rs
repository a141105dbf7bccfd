//! The constraints of a request: how urgent it is, how long it may take, what it may cost.

use std::time::Duration;

/// The largest priority: the least urgent.
pub const MAX_PRIORITY: u16 = 999;

/// The constraints of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestConstraints {
    /// The priority: from 0, the most urgent, to [`MAX_PRIORITY`].
    pub priority: u16,
    /// The most time for the request, after which it fails. `None` is the server's limit.
    pub timeout: Option<Duration>,
    /// How much may be read. If it is not enough for everything, less is read.
    pub budget: RequestBudget,
}

/// How much a request may spend. If it is not enough, less is read and the ranking says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestBudget {
    /// The time that the ranking should take, waiting included.
    pub max_latency: Option<Duration>,
    /// The most tokens that go through the model.
    pub max_total_tokens: Option<usize>,
    /// Whether a budget that is not enough to read everything is an error, and so is a stage of a
    /// cascade that cannot rank.
    pub strict: bool,
    /// Whether a small budget leaves documents out rather than cut them. Later stages of a cascade
    /// do: documents that are left out keep the place that the stage before gave them.
    pub leaves_documents_out: bool,
}

impl RequestBudget {
    /// Whether the request has a budget.
    #[must_use]
    pub const fn is_set(&self) -> bool {
        self.max_latency.is_some() || self.max_total_tokens.is_some()
    }
}

/// How far a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Passes that have run.
    pub passes: usize,
    /// Passes that are planned; 0 before planning.
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
