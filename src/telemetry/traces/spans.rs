//! A finished request as spans, in the words of `OpenTelemetry`'s conventions where they have one and with `podium.` before
//! the others. Numbers, and words from closed sets; nothing that a caller wrote but a sane request id.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::otlp::{
    AnyValue, ExportTraceServiceRequest, InstrumentationScope, KeyValue, Resource as Service, ResourceSpans,
    ScopeSpans, Span, SpanKind, Status, StatusCode, Value,
};
use super::{RequestTrace, random_id};
use crate::telemetry::RequestRecord;

/// Methods that are named; a client may send any word for one.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// Flags of a span: its trace is sampled; it is known whether the parent is another process's; it is.
const SAMPLED: u32 = 1;
const PARENT_IS_KNOWN: u32 = 0x100;
const PARENT_IS_REMOTE: u32 = 0x200;

/// Who sends.
pub(super) struct Resource(Service);

impl Resource {
    pub(super) fn new(attributes: &[(String, String)]) -> Self {
        let attributes = attributes.iter().map(|(key, value)| text(key, value)).collect();
        Self(Service { attributes })
    }

    /// What is sent for these spans.
    pub(super) fn request(&self, spans: Vec<Span>) -> ExportTraceServiceRequest {
        let (name, version) = ("podium".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        let scope_spans = vec![ScopeSpans { scope: Some(InstrumentationScope { name, version }), spans }];
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans { resource: Some(self.0.clone()), scope_spans }],
        }
    }
}

/// The spans of a request that ends now: its own first, then those of its stages.
pub(super) fn of(trace: &RequestTrace, request: &RequestRecord<'_>) -> Vec<Span> {
    let clock = Clock::now();
    let span = |name: String, id: [u8; 8], parent: Option<[u8; 8]>, started: Instant, ended: Instant| Span {
        trace_id: trace.trace.to_vec(),
        span_id: id.to_vec(),
        parent_span_id: parent.map(Vec::from).unwrap_or_default(),
        trace_state: trace.state.clone(),
        flags: SAMPLED | PARENT_IS_KNOWN,
        name,
        kind: SpanKind::Internal as i32,
        start_time_unix_nano: clock.nanoseconds(started),
        end_time_unix_nano: clock.nanoseconds(ended),
        ..Span::default()
    };
    let method = METHODS.iter().copied().find(|method| *method == request.method).unwrap_or("_OTHER");
    let own = Span {
        kind: SpanKind::Server as i32,
        flags: SAMPLED | PARENT_IS_KNOWN | if trace.caller.is_some() { PARENT_IS_REMOTE } else { 0 },
        attributes: attributes(request, method, request.timeline.model()),
        status: (request.status >= 500).then_some(Status { code: StatusCode::Error as i32 }),
        ..span(format!("{method} {}", request.route), trace.span, trace.caller, trace.started, clock.instant)
    };
    let stages = request.timeline.stages().into_iter().map(|time| Span {
        attributes: time.tokens.map(|tokens| number("podium.tokens", tokens)).into_iter().collect(),
        ..span(time.stage.as_str().to_owned(), random_id(), Some(trace.span), time.started, time.ended)
    });
    std::iter::once(own).chain(stages).collect()
}

fn attributes(request: &RequestRecord<'_>, method: &str, model: Option<Arc<str>>) -> Vec<KeyValue> {
    let mut all = vec![
        text("http.request.method", method),
        text("http.route", request.route),
        number("http.response.status_code", usize::from(request.status)),
        text("podium.request_id", request.id),
    ];
    if let Some(model) = model {
        all.push(text("podium.model", &model));
    }
    if let Some(failure) = request.failure {
        all.push(text("error.type", failure.code));
    }
    if let Some(ranking) = request.ranking {
        all.push(text("podium.mode", ranking.mode.as_str()));
        all.extend(
            [
                ("podium.documents", ranking.documents),
                ("podium.slates", ranking.slates),
                ("podium.tokens", ranking.usage.prompt_tokens),
                ("podium.truncated_documents", ranking.usage.truncated_documents),
            ]
            .map(|(key, value)| number(key, value)),
        );
    }
    all
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::String(value.to_owned()))
}

fn number(key: &str, value: usize) -> KeyValue {
    attribute(key, Value::Int(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

/// The two clocks at one moment, so that durations are exact and times are the wall's.
struct Clock {
    instant: Instant,
    nanoseconds: u64,
}

impl Clock {
    fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { instant: Instant::now(), nanoseconds: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX) }
    }

    /// A moment of the past in nanoseconds since 1970.
    fn nanoseconds(&self, moment: Instant) -> u64 {
        let ago = self.instant.saturating_duration_since(moment).as_nanos();
        self.nanoseconds.saturating_sub(u64::try_from(ago).unwrap_or(u64::MAX))
    }
}
