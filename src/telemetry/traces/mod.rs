//! Requests as `OpenTelemetry` traces, sent over OTLP (HTTP, protobuf): one span for the request and one for each of its
//! stages.
//!
//! Off unless a receiver is named. A request is followed, or not, from its start: one that is not costs nothing. Spans
//! are made when a request is over, and handed to a task that sends them; where it cannot keep up they are dropped
//! and counted, and no request ever waits for it.

mod context;
mod export;
pub mod otlp;
mod spans;
mod target;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

pub use context::TraceContext;
pub use target::{TraceError, TraceTarget};

pub(super) use context::Hex;
pub(super) use export::TraceCounts;

use self::export::{Exporter, Message};
use self::spans::Resource;
use self::target::Sampler;
use super::RequestRecord;

/// Requests whose spans may wait to be sent.
const WAITING_REQUESTS: usize = 2048;

/// How long the last spans may take at shutdown.
const FLUSH_FOR: Duration = Duration::from_secs(3);

/// Follows requests.
pub(super) struct Tracer {
    sampler: Sampler,
    outbox: mpsc::Sender<Message>,
    counts: Arc<TraceCounts>,
}

/// A request that is followed.
#[derive(Debug, Clone)]
pub struct RequestTrace {
    trace: [u8; 16],
    span: [u8; 8],
    caller: Option<[u8; 8]>,
    state: String,
    started: Instant,
}

impl RequestTrace {
    /// The trace's id in hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> String {
        Hex(&self.trace).to_string()
    }
}

impl Tracer {
    /// Starts the task that sends. To be called inside a tokio runtime.
    pub(super) fn start(target: TraceTarget) -> Self {
        let (outbox, inbox) = mpsc::channel(WAITING_REQUESTS);
        let counts = Arc::<TraceCounts>::default();
        let sampler = target.sampler;
        let exporter = Exporter::new(target.client, target.url, Resource::new(&target.resource), Arc::clone(&counts));
        tokio::spawn(exporter.run(inbox));
        Self { sampler, outbox, counts }
    }

    /// Begins to follow a request, if it is to be.
    pub(super) fn begin(&self, caller: Option<TraceContext>) -> Option<RequestTrace> {
        let trace = caller.as_ref().map_or_else(random_id, |context| context.trace);
        let sampled = self.sampler.takes(&trace, caller.as_ref().map(|context| context.sampled));
        sampled.then(|| RequestTrace {
            started: Instant::now(),
            trace,
            span: random_id(),
            caller: caller.as_ref().map(|context| context.parent),
            state: caller.map(|context| context.state).unwrap_or_default(),
        })
    }

    /// Hands over the spans of a request that is over.
    pub(super) fn end(&self, trace: &RequestTrace, request: &RequestRecord<'_>) {
        let spans = spans::of(trace, request);
        let count = spans.len();
        if self.outbox.try_send(Message::Spans(spans)).is_err() {
            self.counts.dropped(count);
        }
    }

    /// Waits until what was handed over is sent, but not for long.
    pub(super) async fn flush(&self) {
        let flushed = async {
            let (reply, done) = oneshot::channel();
            if self.outbox.send(Message::Flush(reply)).await.is_ok() {
                let _ended = done.await;
            }
        };
        if tokio::time::timeout(FLUSH_FOR, flushed).await.is_err() {
            tracing::warn!("the last traces could not be sent in time");
        }
    }

    pub(super) fn counts(&self) -> &TraceCounts {
        &self.counts
    }
}

/// An id that is not all zeros.
fn random_id<const BYTES: usize>() -> [u8; BYTES] {
    let mut id = [0; BYTES];
    while id.iter().all(|byte| *byte == 0) {
        id.fill_with(rand::random);
    }
    id
}
