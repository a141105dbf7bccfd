//! The span of one request: made from its head, completed when its outcome is known.
//!
//! Names follow `OpenTelemetry`'s conventions where they have one, and begin with `podium.`
//! otherwise. Values are numbers, words from closed sets and a checked request id: no text of a
//! caller.

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use reqwest::header::HeaderMap;
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::telemetry::{RequestRecord, Route};

/// Methods that are named; a client may send any word as one.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// Headers as the source of a W3C trace context (`traceparent`, `tracestate`).
struct TraceHeaders<'a>(&'a HeaderMap);

impl Extractor for TraceHeaders<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(reqwest::header::HeaderName::as_str).collect()
    }
}

/// Makes the span of a request, as a child of the caller's span if the headers name one.
///
/// The spans of the request's stages are children of it. It is disabled (and costs nothing) for
/// health and metrics routes, and if neither traces nor a debug log are on.
#[must_use]
pub fn request_span(id: &str, method: &str, route: Route, headers: &HeaderMap) -> Span {
    if route.is_quiet() {
        return Span::none();
    }
    let method = METHODS.into_iter().find(|known| *known == method).unwrap_or("_OTHER");
    let span = tracing::info_span!(
        "request",
        otel.name = format_args!("{method} {}", route.path),
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = method,
        http.route = route.path,
        http.response.status_code = Empty,
        "error.type" = Empty,
        podium.request_id = id,
        podium.model = Empty,
        podium.mode = Empty,
        podium.documents = Empty,
        podium.slates = Empty,
        podium.tokens = Empty,
        podium.truncated_documents = Empty,
    );
    if !span.is_disabled() {
        let caller = TraceContextPropagator::new().extract(&TraceHeaders(headers));
        // Refused where no receiver of traces is configured; the log has no use for the caller's
        // trace.
        let _refused = span.set_parent(caller);
        tracing::debug!(parent: &span, "request received");
    }
    span
}

/// Adds the outcome of a request to its span.
pub(in crate::telemetry) fn record_outcome(request: &RequestRecord<'_>) {
    let span = request.span;
    if span.is_disabled() {
        return;
    }
    span.record("http.response.status_code", i64::from(request.status));
    if request.status >= 500 {
        span.record("otel.status_code", "ERROR");
    }
    if let Some(model) = request.timeline.model() {
        span.record("podium.model", &*model);
    }
    if let Some(failure) = request.failure {
        span.record("error.type", failure.code);
    }
    if let Some(ranking) = request.ranking {
        span.record("podium.mode", ranking.mode.as_str());
        span.record("podium.documents", number(ranking.documents));
        span.record("podium.slates", number(ranking.slates));
        span.record("podium.tokens", number(ranking.usage.prompt_tokens));
        span.record("podium.truncated_documents", number(ranking.usage.truncated_documents));
    }
    // An exported span ends where it was left for the last time, which is now.
    span.in_scope(|| ());
}

/// Traces have signed integers only; an unsigned one would become text.
fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The id of the trace that the span is part of, if the trace is sampled.
pub(in crate::telemetry) fn trace_id(span: &Span) -> Option<String> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let exported = context.span().span_context().clone();
    exported.is_sampled().then(|| exported.trace_id().to_string())
}
