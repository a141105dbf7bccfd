//! The worker: takes passes off the queue in order, a batch at a time, and has them run.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::Shared;
use super::execute::Executor;
use crate::runtime::{ForwardPass, Readout, Runtime, RuntimeError};

/// A pass that waits, and who waits for it.
pub(super) struct Job {
    pub pass: ForwardPass,
    pub tokens: usize,
    pub reply: oneshot::Sender<Done>,
}

/// What became of a pass.
pub(super) struct Done {
    pub result: Result<Readout, RuntimeError>,
    pub started: Instant,
    pub ended: Instant,
}

/// Runs until the queue's other end is dropped.
pub(super) async fn run(
    mut executor: Executor<impl Runtime>,
    mut inbox: mpsc::UnboundedReceiver<Job>,
    shared: Arc<Shared>,
) {
    let _watched = Watched(&shared);
    let mut waiting = VecDeque::new();
    loop {
        if waiting.is_empty() {
            match inbox.recv().await {
                Some(job) => waiting.push_back(job),
                None => return,
            }
        }
        while let Ok(job) = inbox.try_recv() {
            waiting.push_back(job);
        }
        let batch = next_batch(&mut waiting, executor.max_tokens(), &shared);
        if !batch.is_empty() {
            executor.run(batch).await;
        }
    }
}

/// A worker that ends by a panic takes the device with it: nothing would ever be run again.
struct Watched<'a>(&'a Shared);

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.health.lose("the scheduler's worker panicked");
        }
    }
}

/// The passes at the head of the queue that fit the budget; one that is larger runs alone.
/// Passes that nobody waits for any more are dropped.
fn next_batch(waiting: &mut VecDeque<Job>, max_batch_tokens: usize, shared: &Shared) -> Vec<Job> {
    let mut batch: Vec<Job> = Vec::new();
    let mut tokens = 0;
    while let Some(job) = waiting.front() {
        let abandoned = job.reply.is_closed();
        if !abandoned && !batch.is_empty() && tokens + job.tokens > max_batch_tokens {
            break;
        }
        let Some(job) = waiting.pop_front() else { break };
        shared.waiting_passes.fetch_sub(1, Ordering::Relaxed);
        shared.waiting_tokens.fetch_sub(job.tokens, Ordering::Relaxed);
        if !abandoned {
            tokens += job.tokens;
            batch.push(job);
        }
    }
    batch
}
