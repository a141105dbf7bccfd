//! Running a batch, and what is done when that fails: the guilty pass is found, the others are run again.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Shared;
use super::budget::Budget;
use super::worker::{Done, Job};
use crate::runtime::{ForwardPass, Output, Runtime, RuntimeError};

/// The door of a device: one batch at a time goes through, whichever scheduler sends it, in the order of asking.
#[derive(Debug, Clone)]
pub struct DeviceGate(Arc<Semaphore>);

impl Default for DeviceGate {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

/// The time in which one scheduler has the device.
#[derive(Debug)]
pub(super) struct Turn {
    /// When it was asked for.
    asked: Instant,
    _permit: Option<OwnedSemaphorePermit>,
}

/// Runs one scheduler's batches.
pub(super) struct Executor<R> {
    runtime: Arc<R>,
    gate: DeviceGate,
    budget: Budget,
    shared: Arc<Shared>,
}

impl<R: Runtime> Executor<R> {
    pub fn new(runtime: R, gate: DeviceGate, shared: Arc<Shared>) -> Self {
        Self { runtime: Arc::new(runtime), gate, budget: Budget::default(), shared }
    }

    /// Tokens that the next batch may have.
    pub fn max_tokens(&self) -> usize {
        self.budget.tokens(self.shared.settings().max_batch_tokens)
    }

    /// Waits until the device is this scheduler's, for as long as the turn is held.
    pub fn turn(&self) -> impl Future<Output = Turn> + use<R> {
        let (gate, asked) = (Arc::clone(&self.gate.0), Instant::now());
        // The semaphore is never closed.
        async move { Turn { asked, _permit: gate.acquire_owned().await.ok() } }
    }

    /// Runs a batch in a turn, until each of its passes has an answer.
    ///
    /// A batch that fails is run again without the pass that the error names, in halves: several guilty passes among
    /// `n` cost `n log n` passes at the most, and a single one about a second run.
    pub async fn run(&mut self, batch: Vec<Job>, turn: Turn) {
        let mut groups = vec![batch];
        let mut asked = turn.asked;
        while let Some(mut group) = groups.pop() {
            group.retain(|job| !job.reply.is_closed());
            if group.is_empty() {
                continue;
            }
            if let Some(reason) = self.shared.health.lost() {
                fail(group, &RuntimeError::DeviceLost(reason));
                continue;
            }
            let tokens = group.iter().map(|job| job.tokens).sum();
            let (started, result) = self.forward(&group).await;
            self.shared.batches.record(group.len(), tokens, started.elapsed(), self.runtime.prefix_cache());
            match result {
                Ok(outputs) => {
                    let ended = Instant::now();
                    // From when the device was asked for: a device that others use too is slower.
                    self.shared.rate.record(tokens, ended - asked);
                    self.budget.note_success(self.shared.settings().max_batch_tokens, tokens);
                    for (job, output) in group.into_iter().zip(outputs) {
                        job.answer(Ok(output), started);
                    }
                }
                Err(error) => groups.extend(self.judge(error, group, tokens, started)),
            }
            asked = Instant::now();
        }
    }

    /// What is to be run again of a group that failed, the last first. Who is guilty is answered.
    fn judge(&mut self, error: RuntimeError, mut group: Vec<Job>, tokens: usize, started: Instant) -> Vec<Vec<Job>> {
        match &error {
            RuntimeError::DeviceLost(reason) => {
                self.shared.health.lose(reason);
                fail(group, &error);
                return Vec::new();
            }
            RuntimeError::OutOfMemory(reason) => {
                let configured = self.shared.settings().max_batch_tokens;
                let budget = self.budget.shrink(configured, tokens);
                let passes = group.len();
                tracing::warn!(reason, passes, tokens, budget, "out of memory: smaller batches from now on");
            }
            RuntimeError::InvalidPass { .. }
            | RuntimeError::NonFinite { .. }
            | RuntimeError::Device(_)
            | RuntimeError::Panicked => {}
        }
        let guilty = if group.len() == 1 { Some(0) } else { error.culprit().filter(|pass| *pass < group.len()) };
        if let Some(guilty) = guilty {
            group.remove(guilty).answer(Err(error), started);
        }
        halves(group)
    }

    /// Runs a group on a blocking thread; a panic there is an error of that group and does not end the worker. What it
    /// said may hold a request's text and stays with the panic hook. The passes stay, for another try.
    async fn forward(&self, group: &[Job]) -> (Instant, Result<Vec<Output>, RuntimeError>) {
        let started = Instant::now();
        let passes: Vec<ForwardPass> = group.iter().map(|job| job.pass.clone()).collect();
        let count = passes.len();
        let runtime = Arc::clone(&self.runtime);
        let mut task = tokio::task::spawn_blocking(move || runtime.run(&passes));
        let joined = match self.shared.settings().stall_limit() {
            None => task.await,
            Some(limit) => match tokio::time::timeout(limit, &mut task).await {
                Ok(joined) => joined,
                Err(_elapsed) => {
                    let _stall = self.shared.health.stall();
                    let seconds = limit.as_secs();
                    tracing::error!(seconds, "a batch does not come back from the device: not ready until it does");
                    let joined = task.await;
                    tracing::warn!(seconds = started.elapsed().as_secs(), "the batch came back: ready again");
                    joined
                }
            },
        };
        let result = match joined {
            Ok(Ok(outputs)) if outputs.len() == count => Ok(outputs),
            Ok(Ok(outputs)) => {
                Err(RuntimeError::Device(format!("{} outputs came back for {count} passes", outputs.len())))
            }
            Ok(Err(error)) => Err(error),
            Err(failure) => {
                Err(failure.try_into_panic().map_or(RuntimeError::Panicked, |panic| RuntimeError::from_panic(&*panic)))
            }
        };
        (started, result)
    }
}

impl Job {
    /// Whoever has stopped waiting does not need the answer.
    fn answer(self, result: Result<Output, RuntimeError>, started: Instant) {
        let _ = self.reply.send(Done { result, started, ended: Instant::now() });
    }
}

fn fail(group: Vec<Job>, error: &RuntimeError) {
    let now = Instant::now();
    for job in group {
        job.answer(Err(error.clone()), now);
    }
}

/// Two groups of about as many tokens, the second first; those with nothing in them are left out.
fn halves(mut group: Vec<Job>) -> Vec<Vec<Job>> {
    let all: usize = group.iter().map(|job| job.tokens).sum();
    let mut before = 0;
    let middle = group.iter().position(|job| {
        before += job.tokens;
        2 * before >= all
    });
    // Neither half may be the whole, or it would be run again for ever.
    let middle = middle.map_or(0, |place| (place + 1).min(group.len().saturating_sub(1)));
    let second = group.split_off(middle);
    [second, group].into_iter().filter(|half| !half.is_empty()).collect()
}
