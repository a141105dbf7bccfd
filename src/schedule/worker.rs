//! The worker: takes passes off the queue in its order, a batch at a time, and runs them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::oneshot;

use super::Shared;
use crate::runtime::{ForwardPass, Readout, Runtime, RuntimeError};

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
    pub result: Result<Readout, RuntimeError>,
    pub started: Instant,
    pub ended: Instant,
}

/// Runs until the scheduler is dropped.
pub(super) async fn run(runtime: impl Runtime, shared: Arc<Shared>) {
    let runtime = Arc::new(runtime);
    while !shared.closed.load(Ordering::Acquire) {
        let max_batch_tokens = shared.settings().max_batch_tokens;
        let batch = shared.queue().take(max_batch_tokens);
        if batch.is_empty() {
            shared.bell.notified().await;
        } else {
            run_batch(&runtime, batch, &shared).await;
        }
    }
    // Whoever still waits finds nobody at the other end.
    drop(shared.queue().take(usize::MAX));
}

async fn run_batch(runtime: &Arc<impl Runtime>, batch: Vec<Job>, shared: &Shared) {
    let tokens = batch.iter().map(|job| job.tokens).sum();
    let (passes, replies): (Vec<ForwardPass>, Vec<_>) = batch.into_iter().map(|job| (job.pass, job.reply)).unzip();
    let alone = passes.len() == 1;
    // Passes are kept only where a failure would have to be traced to the guilty one.
    let kept = if alone { Vec::new() } else { passes.clone() };
    let started = Instant::now();
    match forward(runtime, passes).await {
        Ok(readouts) => {
            let ended = Instant::now();
            shared.rate.record(tokens, ended - started);
            for (reply, readout) in replies.into_iter().zip(readouts) {
                // Whoever has stopped waiting does not need the answer.
                let _ = reply.send(Done { result: Ok(readout), started, ended });
            }
        }
        Err(error) if alone => {
            for reply in replies {
                let _ = reply.send(Done { result: Err(error.clone()), started, ended: Instant::now() });
            }
        }
        Err(_) => {
            for (pass, reply) in kept.into_iter().zip(replies) {
                let result = forward(runtime, vec![pass]).await.and_then(|mut readouts| {
                    readouts.pop().ok_or_else(|| RuntimeError::Device("no readout came back".into()))
                });
                let _ = reply.send(Done { result, started, ended: Instant::now() });
            }
        }
    }
}

/// Runs a batch in a task of its own, so that a panic is an error of that batch and not the worker's end.
/// What it said may hold a request's text and stays with the panic hook.
async fn forward(runtime: &Arc<impl Runtime>, passes: Vec<ForwardPass>) -> Result<Vec<Readout>, RuntimeError> {
    let runtime = Arc::clone(runtime);
    let count = passes.len();
    let readouts =
        tokio::spawn(async move { runtime.forward(passes).await }).await.unwrap_or(Err(RuntimeError::Panicked))?;
    if readouts.len() == count {
        Ok(readouts)
    } else {
        Err(RuntimeError::Device(format!("{} readouts came back for {count} passes", readouts.len())))
    }
}
