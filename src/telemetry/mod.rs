//! Logs, metrics and traces: each request is recorded once, when its outcome is known.
//!
//! No text of a caller is in any of them: no query, instruction or document, no path that is not a
//! route, no error message that repeats a value. The values of labels come from closed sets.

mod exposition;
mod logs;
mod metrics;
mod process;
mod routes;
mod secrets;
pub mod traces;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::{Level, Span};

pub use logs::{LogError, start_logs};
pub use routes::{Route, RouteKind};
pub use secrets::mask_url_secrets;
pub use traces::{TraceError, TraceTarget, Traces, request_span};

use crate::context::{RankingSummary, RequestTimeline};
use crate::pipeline::DriftSample;
use crate::rerank::agreement::ShadowSample;
use crate::runtime::ModelFacts;
use crate::schedule::{BatchStatistics, QueueStatus};
use metrics::Metrics;

/// The settings of `[telemetry]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetrySettings {
    /// The least important level that is logged, or `off`.
    pub log_level: String,
    /// `text` or `json`.
    pub log_format: String,
    /// The share of rankings that are measured for drift, in [0, 1].
    pub drift_sample: f64,
    /// The base URL of the trace receiver (OTLP over HTTP); empty leaves it to the environment.
    pub otlp_endpoint: String,
    /// The share of requests that are traced, in [0, 1], of those whose caller has not decided.
    pub trace_sample: f64,
    /// The name of the service in traces; empty leaves it to the environment, or `podium`.
    pub service_name: String,
}

/// Measurements of a server besides its log and metrics.
#[derive(Debug, Clone, Default)]
pub struct TelemetryPlan {
    /// The share of rankings that are measured for drift.
    pub drift_sample: f64,
    /// The export of traces, if a receiver is configured.
    pub traces: Option<Traces>,
}

impl TelemetryPlan {
    /// Starts what settings and environment ask for.
    ///
    /// # Errors
    /// A trace receiver that is misconfigured.
    pub fn new(settings: &TelemetrySettings, environment: impl Fn(&str) -> Option<String>) -> Result<Self, TraceError> {
        let traces = TraceTarget::find(settings, environment)?.map(Traces::start).transpose()?;
        Ok(Self { drift_sample: settings.drift_sample, traces })
    }
}

/// The statuses that requests to a route may get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcomes {
    /// The route.
    pub route: Route,
    /// Every status.
    pub statuses: Vec<u16>,
}

/// A failure, without a caller's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureFacts {
    /// The code by which logs, metrics and traces know it. It is the code of the reply, except that
    /// a deadline which the request itself set is `own_deadline_exceeded`.
    pub code: &'static str,
    /// The field at fault.
    pub param: Option<String>,
    /// The level at which it is logged.
    pub level: Level,
    /// The cause of a fault of this server.
    pub cause: Option<String>,
}

/// One request, from its first byte to its answer.
#[derive(Debug, Clone, Copy)]
pub struct RequestRecord<'a> {
    /// The request's id.
    pub id: &'a str,
    /// The name of its API key. Never the key; names come from the operator.
    pub key: Option<&'a str>,
    /// The HTTP method.
    pub method: &'a str,
    /// The route.
    pub route: Route,
    /// The status of the answer; 499 if the client left before it.
    pub status: u16,
    /// The time from the request's head to its answer.
    pub elapsed: Duration,
    /// The ranking, if there is one.
    pub ranking: Option<&'a RankingSummary>,
    /// The failure, if there is one.
    pub failure: Option<&'a FailureFacts>,
    /// The stages with their times, and the model.
    pub timeline: &'a RequestTimeline,
    /// The span that [`request_span`] made.
    pub span: &'a Span,
}

/// A model in memory, for the metrics.
#[derive(Debug, Clone)]
pub struct ModelReport<'a> {
    /// Its own name.
    pub name: &'a str,
    /// Its prompt family.
    pub family: &'a str,
    /// Architecture, device and weights.
    pub facts: &'a ModelFacts,
    /// Requests and passes that wait and run now.
    pub queue: QueueStatus,
    /// Batches that ran so far.
    pub batches: BatchStatistics,
    /// The share of the canary's questions that it answered, if it was asked.
    pub canary: Option<f64>,
}

/// Logs, counts and traces the requests of one server.
pub struct Telemetry {
    metrics: Metrics,
    traces: Option<Traces>,
}

impl Default for Telemetry {
    /// Every count at zero, and no traces.
    fn default() -> Self {
        Self::new(None)
    }
}

impl Telemetry {
    /// Every count at zero.
    #[must_use]
    pub fn new(traces: Option<Traces>) -> Self {
        Self { metrics: Metrics::new(), traces }
    }

    /// Sends the spans that are left, for a few seconds at most. The last call before the process
    /// ends.
    pub async fn flush(&self) {
        if let Some(traces) = &self.traces {
            traces.shutdown().await;
        }
    }

    /// Starts the counters of these outcomes and error codes at 0: `rate()` misses the first event
    /// of a counter that did not exist before.
    pub fn expect(&self, outcomes: &[Outcomes], codes: &[&'static str]) {
        self.metrics.expect(outcomes, codes);
    }

    /// Records a ranking that was measured for drift.
    pub fn record_drift(&self, sample: &DriftSample) {
        self.metrics.record_drift(sample);
    }

    /// Records a request that a shadow was to rank.
    pub fn record_shadow(&self, sample: &ShadowSample) {
        self.metrics.record_shadow(sample);
    }

    /// Records a request: exactly once, whatever became of it.
    pub fn record(&self, request: &RequestRecord<'_>) {
        self.metrics.record(request);
        traces::record_outcome(request);
        logs::log(request);
    }

    /// Sets the bytes that a model takes now. Names come from the configuration, and from nowhere
    /// else.
    pub fn set_model_memory(&self, model: &str, bytes: u64) {
        self.metrics.set_model_memory(model, bytes);
    }

    /// All metrics in Prometheus's text format, with those of the models that are in memory now.
    #[must_use]
    pub fn render(&self, models: &[ModelReport<'_>], ready: bool) -> String {
        let spans = self.traces.as_ref().map(|traces| (traces.counts().sent(), traces.counts().dropped()));
        self.metrics.render(models, spans.unwrap_or_default(), ready)
    }

    /// Folds the samples that histograms have collected since the last call. Without it, memory
    /// grows while Prometheus does not scrape the server.
    pub fn fold(&self) {
        self.metrics.fold();
    }
}
