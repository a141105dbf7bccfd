//! The scheduler above a gated fake runtime: nothing here sleeps to make something happen.

use std::time::Duration;

use super::*;
use crate::runtime::fake::{FakeControls, FakeRuntime};
use crate::runtime::{JointLayers, Mark, Probe, RuntimeError};

fn pass(tokens: usize) -> ForwardPass {
    ForwardPass {
        trunk: (0..tokens as u32).collect(),
        branches: vec![],
        joint_layers: JointLayers::default(),
        probe: Probe::HiddenStates { marks: vec![Mark::trunk(tokens - 1)], project: false },
    }
}

fn scheduler(max_queued_requests: usize, max_batch_tokens: usize) -> (Arc<Scheduler>, FakeControls) {
    let runtime = FakeRuntime::new();
    let controls = runtime.controls();
    let settings = ScheduleSettings { max_queued_requests, max_batch_tokens, timeout_seconds: 0 };
    (Arc::new(Scheduler::start(runtime, &settings)), controls)
}

fn spawn(
    scheduler: &Arc<Scheduler>,
    passes: Vec<ForwardPass>,
) -> tokio::task::JoinHandle<Result<Executed, RerankError>> {
    let scheduler = Arc::clone(scheduler);
    tokio::spawn(async move { scheduler.run(passes).await })
}

/// Waits until `count` passes wait in the queue.
async fn until_waiting(scheduler: &Scheduler, count: usize) {
    while scheduler.status().waiting_passes != count {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn passes_that_gather_behind_a_busy_device_run_together_up_to_the_budget() {
    let (scheduler, controls) = scheduler(8, 100);
    controls.hold();
    let first = spawn(&scheduler, vec![pass(10)]);
    controls.held(1).await;
    let others: Vec<_> = [60, 40, 1, 200].map(|tokens| spawn(&scheduler, vec![pass(tokens)])).into();
    until_waiting(&scheduler, 4).await;
    assert_eq!(scheduler.status().waiting_tokens, 301);
    controls.release();
    for task in std::iter::once(first).chain(others) {
        assert_eq!(task.await.unwrap().unwrap().readouts.len(), 1);
    }
    // [10], [60, 40], [1], [200]: the last is over the budget and runs alone.
    assert_eq!((controls.calls(), controls.passes()), (4, 5));
    assert_eq!(scheduler.status(), QueueStatus { max_requests: 8, ..QueueStatus::default() });
}

#[tokio::test]
async fn readouts_do_not_depend_on_the_batch() {
    let (scheduler, _) = scheduler(8, 1000);
    let together = scheduler.run(vec![pass(5), pass(9), pass(3)]).await.unwrap().readouts;
    for (tokens, expected) in [5, 9, 3].into_iter().zip(together) {
        assert_eq!(scheduler.run(vec![pass(tokens)]).await.unwrap().readouts, [expected]);
    }
}

#[tokio::test]
async fn a_full_house_says_when_to_try_again() {
    let (scheduler, _) = scheduler(2, 100);
    let guests = (scheduler.admit().unwrap(), scheduler.admit().unwrap());
    let refused = scheduler.admit().unwrap_err();
    assert!(
        matches!(refused, RerankError::Overloaded { queued: 2, limit: 2, retry_after } if retry_after >= Duration::from_secs(1)),
        "{refused}"
    );
    drop(guests);
    assert!(scheduler.admit().is_ok());
}

#[tokio::test]
async fn draining_refuses_new_requests_and_waits_for_the_accepted_ones() {
    let (scheduler, _) = scheduler(2, 100);
    let admission = scheduler.admit().unwrap();
    scheduler.start_draining();
    assert!(matches!(scheduler.admit(), Err(RerankError::Draining)));
    let waiting = tokio::spawn({
        let scheduler = Arc::clone(&scheduler);
        async move { scheduler.drained().await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(admission);
    waiting.await.unwrap();
}

#[tokio::test]
async fn who_stops_waiting_costs_the_device_nothing() {
    let (scheduler, controls) = scheduler(8, 10);
    controls.hold();
    let running = spawn(&scheduler, vec![pass(10)]);
    controls.held(1).await;
    let gone = spawn(&scheduler, vec![pass(7)]);
    until_waiting(&scheduler, 1).await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    let after = spawn(&scheduler, vec![pass(9)]);
    until_waiting(&scheduler, 2).await;
    controls.release();
    running.await.unwrap().unwrap();
    after.await.unwrap().unwrap();
    assert_eq!((controls.calls(), controls.tokens()), (2, 19));
    assert_eq!(scheduler.status().waiting_tokens, 0);
}

#[tokio::test]
async fn only_the_guilty_pass_of_a_failed_batch_fails() {
    let (scheduler, controls) = scheduler(8, 100);
    controls.hold();
    let first = spawn(&scheduler, vec![pass(10)]);
    controls.held(1).await;
    let mut broken = pass(4);
    broken.trunk[0] = 200_000;
    let (good, bad) = (spawn(&scheduler, vec![pass(5)]), spawn(&scheduler, vec![broken]));
    until_waiting(&scheduler, 2).await;
    controls.release();
    assert!(first.await.unwrap().is_ok());
    assert!(good.await.unwrap().is_ok());
    assert!(matches!(bad.await.unwrap(), Err(RerankError::Internal(_))));
}

#[tokio::test]
async fn a_panic_is_the_error_of_its_batch_and_the_worker_goes_on() {
    let (scheduler, controls) = scheduler(8, 100);
    controls.panic_next("a bug");
    let failed = scheduler.run(vec![pass(3)]).await.unwrap_err();
    assert!(matches!(&failed, RerankError::Internal(cause) if cause.to_string().contains("panicked")), "{failed:?}");
    controls.fail_next(RuntimeError::Device("gone".into()));
    assert!(scheduler.run(vec![pass(3)]).await.is_err());
    assert!(scheduler.run(vec![pass(3)]).await.is_ok());
}
