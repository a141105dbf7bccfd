//! The scheduler of one model: admits requests and runs their passes on the model's device.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::admission::{AdmissionControl, Applicant};
use super::batch_runner::BatchRunner;
use super::batch_statistics::BatchStatistics;
use super::in_flight::Account;
use super::next_batch::NextBatch;
use super::permit::{AdmissionPermit, AdmissionRequest, ModelRequests, Reservation};
use super::queued_pass::QueuedPass;
use super::settings::ScheduleSettings;
use super::shared::Shared;
use super::submission::{CompletedPasses, Submission};
use super::worker;
use crate::rerank::RerankError;
use crate::runtime::{ForwardPass, Runtime, RuntimeError};

/// Requests and passes of one model at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueStatus {
    /// Requests of this model in flight: admitted, and not yet answered or still on the device.
    pub requests: usize,
    /// The limit on requests in flight, of all models together.
    pub max_requests: usize,
    /// Passes that wait for the device.
    pub waiting_passes: usize,
    /// Tokens of those passes.
    pub waiting_tokens: usize,
    /// Whether new requests are rejected because the model is unloaded or the server shuts down.
    pub draining: bool,
}

/// How soon a request could run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Forecast {
    /// Time until the device has read the tokens ahead of the request.
    pub wait: Duration,
    /// Throughput of the model, in tokens a second.
    pub tokens_per_second: f64,
}

/// Runs the passes of one model, a batch at a time.
pub struct Scheduler {
    shared: Arc<Shared>,
    /// Closed when the worker has ended.
    worker: watch::Receiver<()>,
}

/// Removes a submission's passes from the queue when the request stops waiting for them.
struct RemoveOnDrop<'a> {
    shared: &'a Shared,
    reservation: &'a Reservation,
}

impl Drop for RemoveOnDrop<'_> {
    fn drop(&mut self) {
        let removed = self.shared.queue_for(self.reservation).remove(self.reservation.sequence());
        if !removed.is_empty() {
            let tokens: usize = removed.iter().map(|queued| queued.tokens).sum();
            self.reservation.update_tokens(|held| held.saturating_sub(tokens));
        }
    }
}

impl Scheduler {
    /// Starts the worker that owns `runtime`. Schedulers with the same admission control share its
    /// limits, and the device if their runtimes name the same one. The worker ends when the
    /// scheduler is dropped.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(runtime: impl Runtime, admission: &AdmissionControl) -> Self {
        let device = admission.device(&runtime.facts().device);
        let shared = Arc::new(Shared::new(Arc::new(ModelRequests::new(admission.clone())), device));
        let runtime: Arc<dyn Runtime> = Arc::new(runtime);
        let next = NextBatch::new(Arc::clone(&runtime), Arc::clone(&shared));
        let runner = BatchRunner::new(runtime, Arc::clone(&shared));
        let (ended, worker) = watch::channel(());
        tokio::spawn(worker::run(ended, runner, next, Arc::clone(&shared)));
        Self { shared, worker }
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> ScheduleSettings {
        self.shared.settings()
    }

    /// Replaces the settings of all schedulers with the same admission control.
    pub fn reconfigure(&self, settings: &ScheduleSettings) {
        self.shared.requests.admission.reconfigure(settings);
    }

    /// Admits a request or rejects it, before any work is done for it.
    ///
    /// An estimate above `max_queued_tokens` counts as that many tokens: whether the request fits
    /// is known when it is tokenized.
    ///
    /// # Errors
    /// [`RerankError::Draining`], [`RerankError::DeviceLost`] and [`RerankError::Overloaded`].
    pub fn try_admit(&self, request: &AdmissionRequest) -> Result<AdmissionPermit, RerankError> {
        let shared = &self.shared;
        self.check_device()?;
        let settings = shared.settings();
        let account = self.account(request);
        let tokens = request.tokens.min(settings.max_queued_tokens);
        let now = Instant::now();
        let time_left = request.deadline.map(|deadline| deadline.saturating_duration_since(now));
        let applicant = Applicant { account: &account, tokens, time_left };
        // Locked until the permit exists, so that a starting shutdown either waits for this request
        // or rejects it.
        let mut state = shared.requests.admission.state();
        if shared.draining.load(Ordering::Acquire) {
            return Err(RerankError::Draining);
        }
        state.try_admit(&applicant, &settings, &shared.device.throughput, now)?;
        let permit = Reservation::new(&shared.requests, account, tokens, true).into_permit();
        drop(state);
        tracing::debug!(priority = request.priority, tokens, "admitted");
        Ok(permit)
    }

    /// A permit for a later stage of the request that `first` admitted. No limit rejects it:
    /// `first` counts the tokens of all stages until [`AdmissionPermit::begin_stage`]. Unloading
    /// the model waits for it.
    ///
    /// # Errors
    /// [`RerankError::Draining`] and [`RerankError::DeviceLost`].
    pub fn try_admit_stage(&self, first: &AdmissionPermit) -> Result<AdmissionPermit, RerankError> {
        let shared = &self.shared;
        self.check_device()?;
        // Locked until the permit exists, as in `try_admit`.
        let state = shared.requests.admission.state();
        if shared.draining.load(Ordering::Acquire) {
            return Err(RerankError::Draining);
        }
        let permit = Reservation::for_stage(&shared.requests, &shared.device.name, first.reservation()).into_permit();
        drop(state);
        Ok(permit)
    }

    /// A permit for work that runs only while the device has no other work. No limit counts it, and
    /// neither unloading nor a shutdown waits for it.
    ///
    /// # Errors
    /// [`RerankError::Draining`] and [`RerankError::DeviceLost`].
    pub fn admit_in_background(&self) -> Result<AdmissionPermit, RerankError> {
        self.check_device()?;
        if self.shared.draining.load(Ordering::Acquire) {
            return Err(RerankError::Draining);
        }
        let account = self.account(&AdmissionRequest::anonymous(0));
        Ok(Reservation::in_background(&self.shared.requests, account).into_permit())
    }

    /// Throughput of the model in tokens a second; `None` before its first batch.
    #[must_use]
    pub fn tokens_per_second(&self) -> Option<f64> {
        self.shared.throughput.get()
    }

    /// A permit for the warm-up of the model, which no limit rejects and which leaves the measured
    /// throughput as it is: the first batch of a model is slower than all others.
    #[must_use]
    pub fn admit_warm_up(&self, tokens: usize) -> AdmissionPermit {
        let account = self.account(&AdmissionRequest::anonymous(tokens));
        let mut state = self.shared.requests.admission.state();
        state.in_flight.add(&account, tokens);
        Reservation::new(&self.shared.requests, account, tokens, false).into_permit()
    }

    fn account(&self, request: &AdmissionRequest) -> Account {
        let device = Arc::clone(&self.shared.device.name);
        Account { client: request.client.clone(), priority: request.priority, device }
    }

    /// Runs passes of an admitted request and waits for all of them, reporting the index of each
    /// one that is done, in order. A request runs one set of passes at a time. Dropping the future
    /// removes the passes that have not started from the queue.
    ///
    /// # Errors
    /// The error of the first pass that failed: [`RerankError::TooLargeForDevice`],
    /// [`RerankError::DeviceLost`], or [`RerankError::Internal`].
    pub async fn run(
        &self,
        permit: &AdmissionPermit,
        passes: Vec<ForwardPass>,
        mut on_pass_done: impl FnMut(usize),
    ) -> Result<CompletedPasses, RerankError> {
        let reservation = permit.reservation();
        let submission = Submission::new(reservation, passes.len());
        let mut outputs = Vec::with_capacity(passes.len());
        let mut results = Vec::with_capacity(passes.len());
        let mut queued_passes = Vec::with_capacity(passes.len());
        for pass in passes {
            let (reply, result) = oneshot::channel();
            let (tokens, submission) = (pass.tokens(), Arc::clone(&submission));
            results.push((tokens, result));
            queued_passes.push((tokens, QueuedPass { pass: Arc::new(pass), tokens, submission, reply }));
        }
        let _remove_on_drop = RemoveOnDrop { shared: &self.shared, reservation };
        self.push(reservation, queued_passes)?;
        for (index, (tokens, result)) in results.into_iter().enumerate() {
            let result = result.await.map_err(|_| worker_ended())?;
            outputs.push(result.map_err(|error| rerank_error(error, tokens))?);
            reservation.update_tokens(|held| held.saturating_sub(tokens));
            on_pass_done(index);
        }
        let device_intervals = submission.take_device_intervals();
        Ok(CompletedPasses { outputs, queued_at: submission.queued_at, device_intervals })
    }

    fn push(&self, reservation: &Reservation, passes: Vec<(usize, QueuedPass)>) -> Result<(), RerankError> {
        let mut queue = self.shared.queue_for(reservation);
        // Under the lock: a worker that ends sets `closed` before it empties the queue.
        if self.shared.closed.load(Ordering::Acquire) {
            drop(queue);
            return Err(worker_ended());
        }
        queue.push(reservation.tag(), passes);
        drop(queue);
        self.shared.work_available.notify_one();
        Ok(())
    }

    /// How soon an admitted request could run; `None` before the first batch of the model.
    #[must_use]
    pub fn forecast(&self, permit: &AdmissionPermit) -> Option<Forecast> {
        let wait = self.shared.device.throughput.time_for(permit.reservation().tokens_ahead())?;
        Some(Forecast { wait, tokens_per_second: self.shared.throughput.get()? })
    }

    /// Requests and passes at this moment.
    #[must_use]
    pub fn status(&self) -> QueueStatus {
        let queue = self.shared.queue();
        QueueStatus {
            requests: self.shared.requests.in_flight.load(Ordering::Relaxed),
            max_requests: self.shared.settings().max_queued_requests,
            waiting_passes: queue.passes(),
            waiting_tokens: queue.tokens(),
            draining: self.shared.draining.load(Ordering::Acquire),
        }
    }

    /// Whether new requests are accepted, as far as this scheduler and its device can tell.
    ///
    /// # Errors
    /// [`RerankError::Draining`], [`RerankError::DeviceLost`] and [`RerankError::Stalled`].
    pub fn ready(&self) -> Result<(), RerankError> {
        self.check_device()?;
        if self.shared.draining.load(Ordering::Acquire) {
            return Err(RerankError::Draining);
        }
        match self.settings().stall_limit() {
            Some(limit) if self.shared.device.is_stalled() => Err(RerankError::Stalled { limit }),
            _ => Ok(()),
        }
    }

    fn check_device(&self) -> Result<(), RerankError> {
        self.shared.device.lost_reason().map_or(Ok(()), |reason| Err(RerankError::DeviceLost(reason.into())))
    }

    /// Waits until the device is lost and returns the reason; `None` if the scheduler ends first.
    /// The future keeps neither of them alive.
    pub fn lost(&self) -> impl Future<Output = Option<String>> + Send + use<> {
        self.shared.device.until_lost()
    }

    /// Statistics of the batches that ran.
    #[must_use]
    pub fn batches(&self) -> BatchStatistics {
        self.shared.batches.statistics()
    }

    /// Rejects new requests from now on.
    pub fn start_draining(&self) {
        let _no_admission_meanwhile = self.shared.requests.admission.state();
        self.shared.draining.store(true, Ordering::Release);
    }

    /// Waits until every admitted request is answered. Does not wait for passes of
    /// abandoned requests that are still on the device.
    pub async fn drained(&self) {
        // The sender lives in `self`, so the channel cannot be closed here.
        let _ = self.shared.requests.unanswered.subscribe().wait_for(|requests| *requests == 0).await;
    }

    /// Ends the worker and waits until it has dropped the runtime, after the batch that runs.
    pub async fn close(&self) {
        self.shared.close();
        let mut worker = self.worker.clone();
        while worker.changed().await.is_ok() {}
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.shared.close();
    }
}

fn worker_ended() -> RerankError {
    RerankError::DeviceLost("the scheduler's worker has ended".into())
}

/// The error of a request whose pass of `tokens` tokens failed.
fn rerank_error(error: RuntimeError, tokens: usize) -> RerankError {
    match error {
        RuntimeError::OutOfMemory(_) => RerankError::TooLargeForDevice { tokens },
        RuntimeError::DeviceLost(_) => RerankError::DeviceLost(error.into()),
        RuntimeError::InvalidPass { .. }
        | RuntimeError::NonFinite { .. }
        | RuntimeError::Device(_)
        | RuntimeError::Panicked => RerankError::internal(error),
    }
}
