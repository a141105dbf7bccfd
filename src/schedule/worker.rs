//! The worker: takes passes off the queue in order, a batch at a time, and runs them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::Shared;
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
    runtime: impl Runtime,
    mut inbox: mpsc::UnboundedReceiver<Job>,
    max_batch_tokens: usize,
    shared: Arc<Shared>,
) {
    let runtime = Arc::new(runtime);
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
        let batch = next_batch(&mut waiting, max_batch_tokens, &shared);
        if !batch.is_empty() {
            run_batch(&runtime, batch, &shared).await;
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

async fn run_batch(runtime: &Arc<impl Runtime>, batch: Vec<Job>, shared: &Shared) {
    let tokens = batch.iter().map(|job| job.tokens).sum();
    let (passes, replies): (Vec<ForwardPass>, Vec<_>) = batch.into_iter().map(|job| (job.pass, job.reply)).unzip();
    let alone = passes.len() == 1;
    // Passes are kept only where a failure would have to be traced to the guilty one.
    let kept = if alone { Vec::new() } else { passes.clone() };
    let started = Instant::now();
    let result = forward(runtime, passes).await;
    shared.batches.record(replies.len(), tokens, started.elapsed());
    match result {
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
