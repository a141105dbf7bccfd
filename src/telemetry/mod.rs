//! What happened: one record per request, as a log line and in the metrics.
//!
//! Nothing that a caller wrote is in either: no text of a query, an instruction or a document, no path that is not a
//! route, no error message that repeats a value. Labels come from closed sets.

mod exposition;
mod logs;
mod metrics;
mod process;
pub mod traces;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::Level;

pub use logs::{LogError, start_logs};
pub use traces::{RequestTrace, TraceContext, TraceError, TraceTarget};

use crate::context::{RankingSummary, RequestTimeline};
use crate::pipeline::DriftSample;
use crate::runtime::ModelFacts;
use crate::schedule::{BatchStatistics, QueueStatus};
use metrics::Metrics;
use traces::Tracer;

/// Routes that are asked all day long: logged only where something is wrong or everything is wanted, and never traced.
const QUIET_ROUTES: [&str; 3] = ["/health", "/ready", "/metrics"];

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
    /// Where traces go (OTLP over HTTP); empty is where the environment says, if it does.
    pub otlp_endpoint: String,
    /// The share of requests that are traced, in [0, 1], of those whose caller has not decided it.
    pub trace_sample: f64,
    /// What traces call this service; empty is what the environment says, or `podium`.
    pub service_name: String,
}

/// What is measured beside logs and metrics.
#[derive(Debug, Clone, Default)]
pub struct TelemetryPlan {
    /// The share of rankings that are measured for drift.
    pub drift_sample: f64,
    /// Where traces go, if anywhere.
    pub traces: Option<TraceTarget>,
}

impl TelemetryPlan {
    /// What settings and environment ask for.
    ///
    /// # Errors
    /// A receiver of traces that cannot be spoken to as it is asked for.
    pub fn new(settings: &TelemetrySettings, environment: impl Fn(&str) -> Option<String>) -> Result<Self, TraceError> {
        let traces = TraceTarget::find(settings, environment)?;
        Ok(Self { drift_sample: settings.drift_sample, traces })
    }
}

/// What requests to a route may end in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcomes {
    /// The route, as records have it.
    pub route: &'static str,
    /// Every status that it may answer.
    pub statuses: Vec<u16>,
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
    pub ranking: Option<&'a RankingSummary>,
    /// The failure, if there is one.
    pub failure: Option<&'a FailureFacts>,
    /// What was done when.
    pub timeline: &'a RequestTimeline,
    /// Its trace, if it is followed.
    pub trace: Option<&'a RequestTrace>,
}

/// A model that is in memory, as the metrics have it.
#[derive(Debug, Clone)]
pub struct ModelReport<'a> {
    /// Its own name.
    pub name: &'a str,
    /// Its prompt family.
    pub family: &'a str,
    /// What it is.
    pub facts: &'a ModelFacts,
    /// What waits and runs now.
    pub queue: QueueStatus,
    /// What went to the device so far.
    pub batches: BatchStatistics,
}

/// Counts and logs the requests of one server.
pub struct Telemetry {
    metrics: Metrics,
    tracer: Option<Tracer>,
}

impl Default for Telemetry {
    /// Every count at zero, and no traces.
    fn default() -> Self {
        Self { metrics: Metrics::new(), tracer: None }
    }
}

impl Telemetry {
    /// Sends traces of requests there. To be called inside a tokio runtime.
    #[must_use]
    pub fn tracing(self, target: Option<TraceTarget>) -> Self {
        Self { tracer: target.map(Tracer::start), ..self }
    }

    /// Begins to follow a request, if it is to be; `caller` is the trace that it belongs to.
    pub fn follow(&self, route: &str, caller: impl FnOnce() -> Option<TraceContext>) -> Option<RequestTrace> {
        let tracer = self.tracer.as_ref().filter(|_| !QUIET_ROUTES.contains(&route))?;
        tracer.begin(caller())
    }

    /// Sends what is left of the traces, and waits a little for it.
    pub async fn flush(&self) {
        if let Some(tracer) = &self.tracer {
            tracer.flush().await;
        }
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
        if let (Some(tracer), Some(trace)) = (&self.tracer, request.trace) {
            tracer.end(trace, request);
        }
    }

    /// Bytes that a model takes now. Names come from the configuration, and from nowhere else.
    pub fn set_model_memory(&self, model: &str, bytes: u64) {
        self.metrics.set_model_memory(model, bytes);
    }

    /// All metrics in Prometheus's text format, with those of the models that are there now.
    #[must_use]
    pub fn render(&self, models: &[ModelReport<'_>], ready: bool) -> String {
        let traces = self.tracer.as_ref().map(|tracer| tracer.counts().sent_and_dropped()).unwrap_or_default();
        self.metrics.render(models, traces, ready)
    }

    /// Folds what histograms have collected since the last call; without it, a server that nobody scrapes grows.
    pub fn fold(&self) {
        self.metrics.fold();
    }
}
