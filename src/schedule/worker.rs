//! The worker: takes passes off the queue in its order, a batch at a time, and has them run.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::{oneshot, watch};

use super::Shared;
use super::execute::Executor;
use crate::runtime::{ForwardPass, Output, Runtime, RuntimeError};

/// A pass that waits, and who waits for it.
#[derive(Debug)]
pub(super) struct Job {
    pub pass: ForwardPass,
    pub tokens: usize,
    pub reply: oneshot::Sender<Done>,
}

/// What became of a pass.
#[derive(Debug)]
pub(super) struct Done {
    pub result: Result<Output, RuntimeError>,
    pub started: Instant,
    pub ended: Instant,
}

/// Runs until the scheduler is closed. `_ends` is dropped last, when the runtime is gone too.
pub(super) async fn run(_ends: watch::Sender<()>, mut executor: Executor<impl Runtime>, shared: Arc<Shared>) {
    let _watched = Watched(&shared);
    while !shared.closed.load(Ordering::Acquire) {
        if shared.queue().passes() == 0 {
            shared.bell.notified().await;
            continue;
        }
        // What waits for the device stays in the queue, where others may overtake it, and from where it may leave.
        let turn = executor.turn().await;
        let batch = shared.queue().take(executor.max_tokens());
        executor.run(batch, turn).await;
    }
}

/// Whoever still waits when the worker ends finds nobody at the other end. One that ends by a panic takes the device with
/// it: nothing would ever be run again.
struct Watched<'a>(&'a Shared);

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.health.lose("the scheduler's worker panicked");
        }
        self.0.closed.store(true, Ordering::Release);
        drop(self.0.queue().take(usize::MAX));
    }
}
