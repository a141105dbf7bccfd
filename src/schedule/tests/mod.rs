//! Schedulers over a fake runtime whose batches the tests hold and release.

mod admission;
mod batches;
mod devices;
mod failures;
mod next_batch;
mod spans;

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::*;
use crate::rerank::RerankError;
use crate::runtime::fake::{FakeControls, FakeRuntime};
use crate::runtime::{ForwardPass, Head, OutputSpec, TokenPosition};

fn pass(tokens: usize) -> ForwardPass {
    let output = OutputSpec::listed(vec![TokenPosition::prefix(tokens - 1)], Head::Hidden);
    ForwardPass::sequence((0..tokens as u32).collect(), output)
}

fn settings(max_queued_requests: usize, max_batch_tokens: usize) -> ScheduleSettings {
    ScheduleSettings { max_queued_requests, max_batch_tokens, ..ScheduleSettings::for_tests() }
}

/// A scheduler of its own process, as it were, and the controls of its runtime.
fn scheduler(max_queued_requests: usize, max_batch_tokens: usize) -> (Arc<Scheduler>, FakeControls) {
    start(&AdmissionControl::new(&settings(max_queued_requests, max_batch_tokens)))
}

/// A scheduler that shares admission control with others.
fn start(admission: &AdmissionControl) -> (Arc<Scheduler>, FakeControls) {
    let runtime = FakeRuntime::new();
    let controls = runtime.controls();
    (Arc::new(Scheduler::start(runtime, admission)), controls)
}

fn request(tokens: usize) -> AdmissionRequest {
    AdmissionRequest::anonymous(tokens)
}

/// Admits a request and runs its passes.
async fn run(scheduler: &Scheduler, passes: Vec<ForwardPass>) -> Result<CompletedPasses, RerankError> {
    let tokens = passes.iter().map(ForwardPass::tokens).sum();
    let permit = scheduler.try_admit(&request(tokens))?;
    scheduler.run(&permit, passes, |_| {}).await
}

fn spawn(scheduler: &Arc<Scheduler>, passes: Vec<ForwardPass>) -> JoinHandle<Result<CompletedPasses, RerankError>> {
    let scheduler = Arc::clone(scheduler);
    tokio::spawn(async move { run(&scheduler, passes).await })
}

/// Starts a request and waits until its first pass is on the device, which holds it.
async fn spawn_held(
    scheduler: &Arc<Scheduler>,
    controls: &FakeControls,
    passes: Vec<ForwardPass>,
) -> JoinHandle<Result<CompletedPasses, RerankError>> {
    controls.hold();
    let task = spawn(scheduler, passes);
    controls.held(1).await;
    task
}

/// Ends a request whose client has left.
async fn cancel<T: std::fmt::Debug>(task: JoinHandle<T>) {
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
}

/// Waits until `passes` passes are in the queue.
async fn wait_for_queued(scheduler: &Scheduler, passes: usize) {
    while scheduler.status().waiting_passes != passes {
        tokio::task::yield_now().await;
    }
}

/// Gives tasks that are ready a chance to run on this thread.
async fn let_other_tasks_run() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Runs one request per pass, all passes in one batch: a first request holds the device until all
/// others are queued.
async fn run_in_one_batch(
    scheduler: &Arc<Scheduler>,
    controls: &FakeControls,
    passes: Vec<ForwardPass>,
) -> Vec<Result<CompletedPasses, RerankError>> {
    let first = spawn_held(scheduler, controls, vec![pass(1)]).await;
    let count = passes.len();
    let tasks: Vec<_> = passes.into_iter().map(|pass| spawn(scheduler, vec![pass])).collect();
    wait_for_queued(scheduler, count).await;
    controls.release();
    first.await.unwrap().unwrap();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}
