//! Traces of requests: `tracing` spans, exported over OTLP (HTTP, protobuf) by the `OpenTelemetry`
//! SDK.
//!
//! Off unless a receiver is configured. A `request` span is made for each request that is not to a
//! health or metrics route; its stages are child spans. The SDK's own thread sends finished spans
//! in batches, so no request waits for the receiver. Spans that find the queue full or that the
//! receiver rejects are dropped and counted.

mod export;
mod request;
mod target;

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{InstrumentationScope, Key, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::registry::LookupSpan;

pub use request::request_span;
pub use target::{TraceError, TraceTarget};

pub(super) use export::SpanCounts;
pub(super) use request::{record_outcome, trace_id};

use export::{BoundedProcessor, CountingExporter};

/// How long the last spans may take at shutdown.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// The running export of spans. Clones share it.
#[derive(Debug, Clone)]
pub struct Traces {
    provider: SdkTracerProvider,
    counts: Arc<SpanCounts>,
}

impl Traces {
    /// Starts the thread that sends spans to `target`.
    ///
    /// # Errors
    /// [`TraceError::Exporter`] if no HTTP client can be made, for want of TLS or its root
    /// certificates.
    pub fn start(target: TraceTarget) -> Result<Self, TraceError> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(target.endpoint)
            .with_headers(target.headers)
            .build()?;
        let counts = Arc::<SpanCounts>::default();
        let exporter = CountingExporter::new(exporter, Arc::clone(&counts));
        let provider = SdkTracerProvider::builder()
            .with_resource(resource(target.service_name))
            .with_sampler(target.sampler)
            .with_span_processor(BoundedProcessor::new(exporter, Arc::clone(&counts)))
            .build();
        Ok(Self { provider, counts })
    }

    /// The layer of the subscriber that exports Podium's spans of level info. Spans of level debug,
    /// and all events, are for the log alone.
    #[must_use]
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let scope = InstrumentationScope::builder("podium").with_version(env!("CARGO_PKG_VERSION")).build();
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer_with_scope(scope))
            .with_context_activation(false)
            .with_level(false)
            .with_location(false)
            .with_target(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(
                FilterFn::new(|metadata| {
                    metadata.is_span() && metadata.target().starts_with("podium") && *metadata.level() <= Level::INFO
                })
                .with_max_level_hint(Level::INFO),
            )
    }

    /// Sends what is left, for a few seconds at most. Later spans are lost.
    pub(super) async fn shutdown(&self) {
        let provider = self.provider.clone();
        let flushed = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_TIMEOUT)).await;
        if !matches!(flushed, Ok(Ok(()))) {
            tracing::warn!("the last spans could not be sent in time");
        }
    }

    pub(super) fn counts(&self) -> &SpanCounts {
        &self.counts
    }
}

/// The attributes of the service. The SDK reads `OTEL_RESOURCE_ATTRIBUTES`; `service_name`
/// overrides the name there, and `podium` is the name if nothing sets one.
fn resource(service_name: Option<String>) -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let from_environment = Resource::builder().build().get(&Key::from_static_str("service.name"));
    // The SDK's own default is `unknown_service:` and the name of the program.
    let is_named = from_environment.is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let name = service_name.or_else(|| (!is_named).then(|| "podium".to_owned()));
    let builder = Resource::builder().with_attribute(version);
    match name {
        Some(name) => builder.with_service_name(name).build(),
        None => builder.build(),
    }
}
