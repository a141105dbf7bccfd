//! Who runs when: admission, the queue, and batches by token budget.
//!
//! A request is admitted once, before any work, and holds its place until it is answered: it is booked with an estimate
//! of its tokens, which becomes exact when they are counted and shrinks with every pass that has run (`house`). Its
//! passes join one queue (`queue`); while the device is busy, passes of all requests gather, and the next batch takes
//! them in the queue's order up to the token budget. Nothing ever waits for company, and what nobody waits for any more
//! leaves the queue at once.

mod batches;
mod budget;
mod client;
mod execute;
mod health;
mod house;
mod queue;
mod rate;
mod settings;
#[cfg(test)]
mod tests;
mod turns;
mod worker;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot, watch};

use self::batches::Batches;
use self::execute::Executor;
use self::health::Health;
use self::house::{Guest, House};
use self::queue::{Owner, Queue};
use self::rate::Rate;
use self::worker::{Done, Job};
use crate::rerank::RerankError;
use crate::runtime::{ForwardPass, Readout, Runtime, RuntimeError};

pub use batches::{BatchStatistics, Distribution};
pub use client::Client;
pub use execute::DeviceGate;
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

/// What the scheduler, its worker and the admitted requests see.
#[derive(Debug)]
struct Shared {
    /// Those in force.
    settings: RwLock<ScheduleSettings>,
    house: Mutex<House>,
    queue: Mutex<Queue<Job>>,
    /// Rung when there is something in the queue, or nobody is left to put anything there.
    bell: Notify,
    closed: AtomicBool,
    draining: AtomicBool,
    rate: Rate,
    /// Requests inside.
    requests: watch::Sender<usize>,
    /// Requests ever let in.
    arrivals: AtomicU64,
    health: Health,
    batches: Batches,
}

impl Shared {
    fn settings(&self) -> ScheduleSettings {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn house(&self) -> MutexGuard<'_, House> {
        self.house.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> MutexGuard<'_, Queue<Job>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands passes to one runtime, a batch at a time.
pub struct Scheduler {
    shared: Arc<Shared>,
    /// Closed when the worker has ended.
    worker: watch::Receiver<()>,
}

/// A request that asks for admission.
#[derive(Debug, Clone)]
pub struct AdmissionRequest {
    /// Who asks.
    pub client: Client,
    /// 0 is the most urgent.
    pub priority: u16,
    /// Estimate of the tokens that the model will read for it.
    pub tokens: usize,
    /// When it must be answered.
    pub deadline: Option<Instant>,
}

/// A request's place in the queue and its tokens. Clones share them; they are given back when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct AdmissionPermit(Arc<Admission>);

#[derive(Debug)]
struct Admission {
    shared: Arc<Shared>,
    guest: Guest,
    number: u64,
    /// Tokens that are booked for it.
    booked: AtomicUsize,
}

impl AdmissionPermit {
    /// Corrects the estimate that the request was let in with.
    ///
    /// # Errors
    /// [`RerankError::TooManyTokens`] when so many never fit.
    pub fn correct(&self, estimated: usize, exact: usize, documents: usize) -> Result<(), RerankError> {
        let limit = self.0.shared.settings().max_queued_tokens;
        if exact > limit {
            return Err(RerankError::TooManyTokens { tokens: exact, documents, limit });
        }
        // No more was booked than there is room for.
        self.book(|booked| booked.saturating_sub(estimated) + exact);
        Ok(())
    }

    fn book(&self, change: impl FnOnce(usize) -> usize) {
        let mut house = self.0.shared.house();
        let from = self.0.booked.load(Ordering::Relaxed);
        let to = change(from);
        self.0.booked.store(to, Ordering::Relaxed);
        house.book(&self.0.guest, from, to);
    }

    fn owner(&self) -> Owner {
        Owner { request: self.0.number, priority: self.0.guest.priority, key: self.0.guest.key.clone() }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.shared.house().leave(&self.guest, self.booked.load(Ordering::Relaxed));
        self.shared.requests.send_modify(|count| *count -= 1);
    }
}

/// Takes a request's passes out of the queue when nobody waits for them any more.
struct Waiting<'a>(&'a AdmissionPermit);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.0.shared.queue().remove(self.0.0.number);
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
    /// Starts the worker that owns `runtime`, on a device of its own. It ends when the scheduler is dropped.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(runtime: impl Runtime, settings: &ScheduleSettings) -> Self {
        Self::start_behind(DeviceGate::default(), runtime, settings)
    }

    /// As [`Scheduler::start`], on a device that others who hold this gate use too.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start_behind(gate: DeviceGate, runtime: impl Runtime, settings: &ScheduleSettings) -> Self {
        let shared = Arc::new(Shared {
            settings: RwLock::new(settings.clone()),
            house: Mutex::default(),
            queue: Mutex::default(),
            bell: Notify::new(),
            closed: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            rate: Rate::default(),
            requests: watch::channel(0).0,
            arrivals: AtomicU64::new(0),
            health: Health::default(),
            batches: Batches::default(),
        });
        let executor = Executor::new(runtime, gate, Arc::clone(&shared));
        let (ends, worker) = watch::channel(());
        tokio::spawn(worker::run(ends, executor, Arc::clone(&shared)));
        Self { shared, worker }
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> ScheduleSettings {
        self.shared.settings()
    }

    /// Puts other settings in force, for what comes from now on. Who is in stays in.
    pub fn reconfigure(&self, settings: &ScheduleSettings) {
        settings.clone_into(&mut self.shared.settings.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Takes a request in, or says why not. To be called once per request, before any work.
    ///
    /// An estimate that is over all there is room for takes all of it: whether the request fits shows when its tokens are
    /// counted.
    ///
    /// # Errors
    /// [`RerankError::Draining`], [`RerankError::DeviceLost`] and [`RerankError::Overloaded`].
    pub fn try_admit(&self, request: &AdmissionRequest) -> Result<AdmissionPermit, RerankError> {
        let shared = &self.shared;
        if let Some(reason) = shared.health.lost() {
            return Err(RerankError::DeviceLost(reason.into()));
        }
        let settings = shared.settings();
        let guest = Guest { key: request.client.name().map(Arc::from), priority: request.priority };
        let tokens = request.tokens.min(settings.max_queued_tokens);
        let patience = request.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        {
            let mut house = shared.house();
            // Under the lock, so that nobody slips in once it has begun, and is not waited for.
            if shared.draining.load(Ordering::Acquire) {
                return Err(RerankError::Draining);
            }
            house.enter(&guest, tokens, &settings, &shared.rate, patience, Instant::now())?;
            // Under the lock, so that nobody sees a request in the book who is not waited for.
            shared.requests.send_modify(|count| *count += 1);
        }
        let number = shared.arrivals.fetch_add(1, Ordering::Relaxed);
        let booked = AtomicUsize::new(tokens);
        Ok(AdmissionPermit(Arc::new(Admission { shared: Arc::clone(shared), guest, number, booked })))
    }

    /// Runs passes of an admitted request, once at a time, and waits for all of them; `done` hears of each that has run. Dropping the future takes those that
    /// have not started out of the queue.
    ///
    /// # Errors
    /// The runtime's error of the first pass that failed: [`RerankError::TooLargeForDevice`],
    /// [`RerankError::DeviceLost`], and [`RerankError::Internal`] for everything else.
    pub async fn run(
        &self,
        admission: &AdmissionPermit,
        passes: Vec<ForwardPass>,
        mut done: impl FnMut(usize),
    ) -> Result<Executed, RerankError> {
        let submitted = Instant::now();
        let mut replies = Vec::with_capacity(passes.len());
        let mut jobs = Vec::with_capacity(passes.len());
        for pass in passes {
            let (reply, answer) = oneshot::channel();
            let tokens = pass.tokens();
            replies.push((tokens, answer));
            jobs.push((tokens, Job { pass, tokens, reply }));
        }
        let _waiting = Waiting(admission);
        {
            let mut queue = self.shared.queue();
            // Under the lock, behind which a worker that ends empties the queue for the last time.
            if self.shared.closed.load(Ordering::Acquire) {
                return Err(worker_is_gone());
            }
            queue.push(&admission.owner(), jobs);
        }
        self.shared.bell.notify_one();
        let mut readouts = Vec::with_capacity(replies.len());
        let (mut first_start, mut last_end) = (None::<Instant>, submitted);
        for (index, (tokens, reply)) in replies.into_iter().enumerate() {
            let Done { result, started, ended } = reply.await.map_err(|_| worker_is_gone())?;
            readouts.push(result.map_err(|error| failure(error, tokens))?);
            admission.book(|booked| booked.saturating_sub(tokens));
            done(index);
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

    /// How long the passes of an admitted request will wait for others, and how many tokens the device reads in a
    /// second; nothing before anything was measured.
    #[must_use]
    pub fn forecast(&self, admission: &AdmissionPermit) -> Option<(Duration, f64)> {
        let booked = admission.0.booked.load(Ordering::Relaxed);
        let ahead = self.shared.house().ahead(&admission.0.guest, booked, booked);
        self.shared.rate.seconds_for(ahead).zip(self.shared.rate.get())
    }

    /// Takes the device for unmeasured again.
    pub fn forget_rate(&self) {
        self.shared.rate.forget();
    }

    /// What waits and runs now.
    #[must_use]
    pub fn status(&self) -> QueueStatus {
        let requests = self.shared.house().total().requests;
        let queue = self.shared.queue();
        QueueStatus {
            requests,
            max_requests: self.shared.settings().max_queued_requests,
            waiting_passes: queue.passes(),
            waiting_tokens: queue.tokens(),
            draining: self.shared.draining.load(Ordering::Acquire),
        }
    }

    /// Whether new requests are welcome, as far as this scheduler and its device can tell.
    ///
    /// # Errors
    /// [`RerankError::Draining`], [`RerankError::DeviceLost`] and [`RerankError::Stalled`].
    pub fn ready(&self) -> Result<(), RerankError> {
        if let Some(reason) = self.shared.health.lost() {
            return Err(RerankError::DeviceLost(reason.into()));
        }
        if self.shared.draining.load(Ordering::Acquire) {
            return Err(RerankError::Draining);
        }
        match self.settings().stall_limit() {
            Some(limit) if self.shared.health.is_stalled() => Err(RerankError::Stalled { limit }),
            _ => Ok(()),
        }
    }

    /// Waits until the device is gone, for good, and says why; nothing where the scheduler ended first. The future
    /// keeps nothing alive.
    pub fn lost(&self) -> impl Future<Output = Option<String>> + Send + use<> {
        self.shared.health.until_lost()
    }

    /// What went to the device so far.
    #[must_use]
    pub fn batches(&self) -> BatchStatistics {
        self.shared.batches.statistics()
    }

    /// Refuses new requests from now on.
    pub fn start_draining(&self) {
        let _nobody_enters = self.shared.house();
        self.shared.draining.store(true, Ordering::Release);
    }

    /// Waits until every admitted request is answered.
    pub async fn drained(&self) {
        // The sender lives in `self`, so the channel cannot be closed here.
        let _ = self.shared.requests.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Ends the worker, and waits until it has let go of the runtime: also of a batch that nobody waits for any more.
    pub async fn close(&self) {
        self.tell_to_end();
        let mut worker = self.worker.clone();
        while worker.changed().await.is_ok() {}
    }

    fn tell_to_end(&self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.bell.notify_one();
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.tell_to_end();
    }
}

fn worker_is_gone() -> RerankError {
    RerankError::DeviceLost("the scheduler's worker has ended".into())
}

/// What the runtime's error is to the request with a pass of so many tokens.
fn failure(error: RuntimeError, tokens: usize) -> RerankError {
    match error {
        RuntimeError::OutOfMemory(_) => RerankError::TooLargeForDevice { tokens },
        RuntimeError::DeviceLost(_) => RerankError::DeviceLost(error.into()),
        RuntimeError::InvalidPass { .. }
        | RuntimeError::NonFinite { .. }
        | RuntimeError::Device(_)
        | RuntimeError::Panicked => RerankError::internal(error),
    }
}
