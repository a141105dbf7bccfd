//! Who runs when: admission, the queue, and batches by token budget.
//!
//! A request is admitted once, before any work, and holds its place until it is answered. Its passes
//! join one queue; while the device is busy, passes of all requests gather, and the next batch takes
//! them in order up to the token budget. Nothing ever waits for company.

mod batches;
mod rate;
mod settings;
#[cfg(test)]
mod tests;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use self::batches::Batches;
use self::rate::Rate;
use self::worker::{Done, Job};
use crate::rerank::RerankError;
use crate::runtime::{ForwardPass, Readout, Runtime};

pub use batches::{BatchStatistics, Distribution};
pub use settings::ScheduleSettings;

/// What waits and runs at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueStatus {
    /// Requests accepted and not yet answered.
    pub requests: usize,
    /// How many there may be.
    pub max_requests: usize,
    /// Passes waiting for the device.
    pub waiting_passes: usize,
    /// Tokens of those passes.
    pub waiting_tokens: usize,
    /// Whether new requests are refused because the server is shutting down.
    pub draining: bool,
}

/// What the scheduler and its worker both see.
#[derive(Debug)]
struct Shared {
    waiting_passes: AtomicUsize,
    waiting_tokens: AtomicUsize,
    draining: AtomicBool,
    rate: Rate,
    batches: Batches,
}

/// Hands passes to one runtime, a batch at a time.
pub struct Scheduler {
    max_requests: usize,
    shared: Arc<Shared>,
    /// Requests that hold an [`Admission`].
    requests: watch::Sender<usize>,
    jobs: mpsc::UnboundedSender<Job>,
}

/// A place in the house: held by a request from before its first work until it is answered.
#[derive(Debug)]
pub struct Admission {
    requests: watch::Sender<usize>,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.requests.send_modify(|count| *count -= 1);
    }
}

/// Passes that have run.
#[derive(Debug)]
pub struct Executed {
    /// One per pass, in order.
    pub readouts: Vec<Readout>,
    /// From being queued until the first of them started.
    pub queued: Duration,
    /// From then until the last of them was done.
    pub forward: Duration,
}

impl Scheduler {
    /// Starts the worker that owns `runtime`. It ends when the scheduler is dropped.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(runtime: impl Runtime, settings: &ScheduleSettings) -> Self {
        let shared = Arc::new(Shared {
            waiting_passes: AtomicUsize::new(0),
            waiting_tokens: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            rate: Rate::default(),
            batches: Batches::default(),
        });
        let (jobs, inbox) = mpsc::unbounded_channel();
        tokio::spawn(worker::run(runtime, inbox, settings.max_batch_tokens, Arc::clone(&shared)));
        Self { max_requests: settings.max_queued_requests, shared, requests: watch::channel(0).0, jobs }
    }

    /// Takes a request in, or says why not. To be called once per request, before any work.
    ///
    /// # Errors
    /// [`RerankError::Draining`] and [`RerankError::Overloaded`].
    pub fn admit(&self) -> Result<Admission, RerankError> {
        if self.shared.draining.load(Ordering::Acquire) {
            return Err(RerankError::Draining);
        }
        let admitted = self.requests.send_if_modified(|count| {
            let free = *count < self.max_requests;
            *count += usize::from(free);
            free
        });
        if admitted {
            Ok(Admission { requests: self.requests.clone() })
        } else {
            Err(RerankError::Overloaded {
                queued: *self.requests.borrow(),
                limit: self.max_requests,
                retry_after: self.shared.rate.time_for(self.shared.waiting_tokens.load(Ordering::Relaxed)),
            })
        }
    }

    /// Runs passes and waits for all of them. Dropping the future takes those that have not started
    /// out of the queue.
    ///
    /// # Errors
    /// [`RerankError::Internal`] with the runtime's error of the first pass that failed.
    pub async fn run(&self, passes: Vec<ForwardPass>) -> Result<Executed, RerankError> {
        let submitted = Instant::now();
        let mut replies = Vec::with_capacity(passes.len());
        for pass in passes {
            let (reply, done) = oneshot::channel();
            let tokens = pass.tokens();
            self.shared.waiting_passes.fetch_add(1, Ordering::Relaxed);
            self.shared.waiting_tokens.fetch_add(tokens, Ordering::Relaxed);
            self.jobs.send(Job { pass, tokens, reply }).map_err(|_| worker_is_gone())?;
            replies.push(done);
        }
        let mut readouts = Vec::with_capacity(replies.len());
        let (mut first_start, mut last_end) = (None::<Instant>, submitted);
        for reply in replies {
            let Done { result, started, ended } = reply.await.map_err(|_| worker_is_gone())?;
            readouts.push(result.map_err(RerankError::internal)?);
            first_start = Some(first_start.map_or(started, |first| first.min(started)));
            last_end = last_end.max(ended);
        }
        let started = first_start.unwrap_or(submitted);
        Ok(Executed {
            readouts,
            queued: started.saturating_duration_since(submitted),
            forward: last_end.saturating_duration_since(started),
        })
    }

    /// What waits and runs now.
    #[must_use]
    pub fn status(&self) -> QueueStatus {
        QueueStatus {
            requests: *self.requests.borrow(),
            max_requests: self.max_requests,
            waiting_passes: self.shared.waiting_passes.load(Ordering::Relaxed),
            waiting_tokens: self.shared.waiting_tokens.load(Ordering::Relaxed),
            draining: self.shared.draining.load(Ordering::Acquire),
        }
    }

    /// What went to the device so far.
    #[must_use]
    pub fn batches(&self) -> BatchStatistics {
        self.shared.batches.statistics()
    }

    /// Refuses new requests from now on.
    pub fn start_draining(&self) {
        self.shared.draining.store(true, Ordering::Release);
    }

    /// Waits until every admitted request is answered.
    pub async fn drained(&self) {
        // The sender lives in `self`, so the channel cannot be closed here.
        let _ = self.requests.subscribe().wait_for(|count| *count == 0).await;
    }
}

fn worker_is_gone() -> RerankError {
    RerankError::internal("the scheduler's worker has ended")
}
