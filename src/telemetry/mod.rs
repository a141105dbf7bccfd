//! What happened: one record per request, as a log line and in the metrics.
//!
//! Nothing that a caller wrote is in either: no text of a query, an instruction or a document, no path that is not a
//! route, no error message that repeats a value. Labels come from closed sets.

mod exposition;
mod logs;
mod metrics;
mod process;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::Level;

pub use logs::{LogError, start_logs};

use crate::rerank::{DriftSample, Mode, Timing, Usage};
use crate::runtime::ModelFacts;
use crate::schedule::{BatchStatistics, QueueStatus};
use metrics::Metrics;

/// What is told (`[telemetry]` in the configuration).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetrySettings {
    /// The least important level that is logged, or `off`.
    pub log_level: String,
    /// `text` or `json`.
    pub log_format: String,
    /// The share of rankings that are measured for drift, in [0, 1].
    pub drift_sample: f64,
}

/// What requests to a route may end in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcomes {
    /// The route, as records have it.
    pub route: &'static str,
    /// Every status that it may answer.
    pub statuses: Vec<u16>,
}

/// What a finished ranking was, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RankingFacts {
    /// What ran.
    pub mode: Mode,
    /// Documents in the request.
    pub documents: usize,
    /// Slates that were read.
    pub slates: usize,
    /// Tokens that were read.
    pub usage: Usage,
    /// Where the time went.
    pub timing: Timing,
}

/// What a failure was, without a caller's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureFacts {
    /// The code on the wire.
    pub code: &'static str,
    /// The field at fault.
    pub param: Option<String>,
    /// How loud the log is about it.
    pub level: Level,
    /// What lies behind a fault of this server.
    pub cause: Option<String>,
}

/// One request, from its first byte to its answer.
#[derive(Debug, Clone, Copy)]
pub struct RequestRecord<'a> {
    /// The request's id.
    pub id: &'a str,
    /// The name of the API key that it came with. Never the key; names come from the operator.
    pub key: Option<&'a str>,
    /// The HTTP method.
    pub method: &'a str,
    /// The route, or `other`.
    pub route: &'static str,
    /// The status of the answer; 499 if nobody waited for one.
    pub status: u16,
    /// How long it took.
    pub elapsed: Duration,
    /// The ranking, if there is one.
    pub ranking: Option<&'a RankingFacts>,
    /// The failure, if there is one.
    pub failure: Option<&'a FailureFacts>,
}

/// Counts and logs the requests of one server.
pub struct Telemetry {
    metrics: Metrics,
}

impl Telemetry {
    /// Telemetry with every count at zero, for a server of this model.
    #[must_use]
    pub fn new(model: &str, family: &str, facts: &ModelFacts) -> Self {
        Self { metrics: Metrics::new(model, family, facts) }
    }

    /// Lets the counters of these outcomes and error codes stand at 0 from now on: `rate()` does not see the first event
    /// of a counter that was not there before.
    pub fn expect(&self, outcomes: &[Outcomes], codes: &[&'static str]) {
        self.metrics.expect(outcomes, codes);
    }

    /// Takes in a measured ranking.
    pub fn record_drift(&self, sample: &DriftSample) {
        self.metrics.record_drift(sample);
    }

    /// Records a request: once each, whatever became of it.
    pub fn record(&self, request: &RequestRecord<'_>) {
        self.metrics.record(request);
        logs::log(request);
    }

    /// All metrics in Prometheus's text format, with the queue as it is now and the batches so far.
    #[must_use]
    pub fn render(&self, queue: QueueStatus, batches: &BatchStatistics, ready: bool) -> String {
        self.metrics.render(queue, batches, ready)
    }

    /// Folds what histograms have collected since the last call; without it, a server that nobody scrapes grows.
    pub fn fold(&self) {
        self.metrics.fold();
    }
}
