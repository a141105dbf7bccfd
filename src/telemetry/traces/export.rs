//! The path of finished spans to the receiver: the SDK's batch processor, with a count of what was
//! sent and what was dropped.
//!
//! The SDK counts spans that its full queue refuses only in a log line at shutdown. Podium bounds
//! the spans in flight itself, below the SDK's queue, so that every drop is counted. Spans that a
//! receiver rejects in an otherwise successful reply count as sent: the SDK does not hand that
//! number on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor};

/// Spans that may wait to be sent or be on their way: some thousand requests.
const MAX_SPANS_IN_FLIGHT: usize = 8192;

/// Counts of finished spans: sent and dropped.
#[derive(Debug, Default)]
pub(in crate::telemetry) struct SpanCounts {
    in_flight: AtomicUsize,
    sent: AtomicU64,
    dropped: AtomicU64,
}

impl SpanCounts {
    /// Spans that the receiver took.
    pub(in crate::telemetry) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Spans that were lost: the queue was full, or the receiver was away, slow or refused them.
    pub(in crate::telemetry) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Counts one more span in flight, or a dropped one if there are too many.
    fn try_enqueue(&self) -> bool {
        if self.in_flight.fetch_add(1, Ordering::Relaxed) < MAX_SPANS_IN_FLIGHT {
            return true;
        }
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.dropped.fetch_add(1, Ordering::Relaxed);
        false
    }

    fn note_exported(&self, spans: usize, sent: bool) {
        self.in_flight.fetch_sub(spans, Ordering::Relaxed);
        let count = if sent { &self.sent } else { &self.dropped };
        count.fetch_add(spans as u64, Ordering::Relaxed);
    }
}

/// The SDK's batch processor behind a bound on the spans in flight.
#[derive(Debug)]
pub(super) struct BoundedProcessor {
    batches: BatchSpanProcessor,
    counts: Arc<SpanCounts>,
}

impl BoundedProcessor {
    pub(super) fn new<E: SpanExporter + 'static>(exporter: CountingExporter<E>, counts: Arc<SpanCounts>) -> Self {
        let config = BatchConfigBuilder::default().with_max_queue_size(MAX_SPANS_IN_FLIGHT).build();
        Self { batches: BatchSpanProcessor::builder(exporter).with_batch_config(config).build(), counts }
    }
}

impl SpanProcessor for BoundedProcessor {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.batches.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.counts.try_enqueue() {
            self.batches.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

/// An exporter that counts spans and logs when exports begin to fail and when they work again.
#[derive(Debug)]
pub(super) struct CountingExporter<E> {
    exporter: E,
    counts: Arc<SpanCounts>,
    is_failing: AtomicBool,
}

impl<E> CountingExporter<E> {
    pub(super) const fn new(exporter: E, counts: Arc<SpanCounts>) -> Self {
        Self { exporter, counts, is_failing: AtomicBool::new(false) }
    }

    fn log_change(&self, result: &OTelSdkResult) {
        let was_failing = self.is_failing.swap(result.is_err(), Ordering::Relaxed);
        match result {
            Err(problem) if !was_failing => tracing::warn!(%problem, "the trace receiver takes no spans"),
            Ok(()) if was_failing => tracing::info!("the trace receiver takes spans again"),
            Ok(()) | Err(_) => {}
        }
    }
}

impl<E: SpanExporter> SpanExporter for CountingExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.exporter.export(batch).await;
        self.counts.note_exported(spans, result.is_ok());
        self.log_change(&result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn shutdown(&self) -> OTelSdkResult {
        self.exporter.shutdown()
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_over_the_bound_is_dropped_and_counted() {
        let counts = SpanCounts::default();
        assert!((0..MAX_SPANS_IN_FLIGHT).all(|_| counts.try_enqueue()));
        assert!(!counts.try_enqueue());
        assert_eq!((counts.sent(), counts.dropped()), (0, 1));
        counts.note_exported(512, true);
        assert!(counts.try_enqueue());
        counts.note_exported(2, false);
        assert_eq!((counts.sent(), counts.dropped()), (512, 3));
    }
}
