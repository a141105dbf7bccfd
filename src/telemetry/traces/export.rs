//! The task that sends spans, some at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prost::Message as _;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Client, StatusCode, Url};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

use super::otlp::{ExportTraceServiceResponse, Span};
use super::spans::Resource;

/// Spans that are sent at once.
const BATCH_SPANS: usize = 512;
/// The longest that a span waits for company.
const SEND_EVERY: Duration = Duration::from_secs(5);
/// Pauses before a receiver that is busy or away is tried again.
const PAUSES: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];

/// What the task is told.
pub(super) enum Message {
    /// A request's spans.
    Spans(Vec<Span>),
    /// Send what there is, then answer.
    Flush(oneshot::Sender<()>),
}

/// What became of the spans.
#[derive(Debug, Default)]
pub(in crate::telemetry) struct TraceCounts {
    sent: AtomicU64,
    dropped: AtomicU64,
}

impl TraceCounts {
    pub(super) fn dropped(&self, spans: usize) {
        self.dropped.fetch_add(spans as u64, Ordering::Relaxed);
    }

    /// Spans that the receiver took, and spans that nobody will see.
    pub(in crate::telemetry) fn sent_and_dropped(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.dropped.load(Ordering::Relaxed))
    }
}

pub(super) struct Exporter {
    client: Client,
    url: Url,
    resource: Resource,
    counts: Arc<TraceCounts>,
    batch: Vec<Span>,
    /// Whether the last spans were not taken: the log says it once.
    failing: bool,
}

impl Exporter {
    pub(super) const fn new(client: Client, url: Url, resource: Resource, counts: Arc<TraceCounts>) -> Self {
        Self { client, url, resource, counts, batch: Vec::new(), failing: false }
    }

    /// Sends until there is nobody left who could hand over spans.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Message>) {
        let mut due = Instant::now();
        loop {
            let message = tokio::select! {
                message = inbox.recv() => message,
                () = sleep_until(due), if !self.batch.is_empty() => {
                    self.send().await;
                    continue;
                }
            };
            match message {
                Some(Message::Spans(spans)) => {
                    if self.batch.is_empty() {
                        due = Instant::now() + SEND_EVERY;
                    }
                    self.batch.extend(spans);
                    if self.batch.len() >= BATCH_SPANS {
                        self.send().await;
                    }
                }
                Some(Message::Flush(reply)) => {
                    self.send().await;
                    // Whoever asked may have stopped waiting.
                    let _ = reply.send(());
                }
                None => return self.send().await,
            }
        }
    }

    async fn send(&mut self) {
        let spans = std::mem::take(&mut self.batch);
        let count = spans.len();
        if count == 0 {
            return;
        }
        let body = self.resource.request(spans).encode_to_vec();
        let mut pauses = PAUSES.iter();
        let problem = loop {
            match self.post(body.clone()).await {
                Ok(rejected) => {
                    let rejected = rejected.min(count);
                    self.counts.dropped(rejected);
                    self.counts.sent.fetch_add((count - rejected) as u64, Ordering::Relaxed);
                    break (rejected > 0).then(|| format!("the receiver refused {rejected} spans"));
                }
                Err(Refusal { problem, for_now }) => {
                    let Some(pause) = pauses.next().filter(|_| for_now) else {
                        self.counts.dropped(count);
                        break Some(problem);
                    };
                    sleep(*pause).await;
                }
            }
        };
        match &problem {
            Some(problem) if !self.failing => tracing::warn!(problem, "traces are not taken"),
            None if self.failing => tracing::info!("traces are taken again"),
            Some(_) | None => {}
        }
        self.failing = problem.is_some();
    }

    /// How many of the spans the receiver did not want.
    async fn post(&self, body: Vec<u8>) -> Result<usize, Refusal> {
        let protobuf = HeaderValue::from_static("application/x-protobuf");
        let request = self.client.post(self.url.clone()).header(CONTENT_TYPE, protobuf).body(body);
        // The URL may hold a password.
        let away = |error: reqwest::Error| Refusal { problem: error.without_url().to_string(), for_now: true };
        let response = request.send().await.map_err(away)?;
        let status = response.status();
        if !status.is_success() {
            let busy = [
                StatusCode::TOO_MANY_REQUESTS,
                StatusCode::BAD_GATEWAY,
                StatusCode::SERVICE_UNAVAILABLE,
                StatusCode::GATEWAY_TIMEOUT,
            ];
            return Err(Refusal {
                problem: format!("the receiver answered {status}"),
                for_now: busy.contains(&status),
            });
        }
        let answer = response.bytes().await.map_err(away)?;
        // A receiver that answers something else has taken the spans all the same.
        let refused = ExportTraceServiceResponse::decode(answer).ok().and_then(|answer| answer.partial_success);
        Ok(refused.map_or(0, |partial| usize::try_from(partial.rejected_spans).unwrap_or(0)))
    }
}

/// Why spans were not taken, and whether trying again may help.
struct Refusal {
    problem: String,
    for_now: bool,
}
