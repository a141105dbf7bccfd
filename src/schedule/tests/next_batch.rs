//! The next batch: prepared while the device is busy, without a change of what runs and in which
//! order.

use super::*;
use crate::runtime::fake::Fault;
use crate::runtime::{ModelFacts, Runtime, RuntimeError};

/// A token that no other pass holds.
const POISON: u32 = 150_000;

/// Waits until the batch that was prepared last has so many tokens.
async fn wait_for_prepared(controls: &FakeControls, tokens: usize) {
    while controls.preparations().last() != Some(&tokens) {
        tokio::task::yield_now().await;
    }
}

fn spawn_with_priority(
    scheduler: &Arc<Scheduler>,
    priority: u16,
    tokens: usize,
) -> JoinHandle<Result<CompletedPasses, RerankError>> {
    let scheduler = Arc::clone(scheduler);
    tokio::spawn(async move {
        let permit = scheduler.try_admit(&AdmissionRequest { priority, ..request(tokens) })?;
        scheduler.run(&permit, vec![pass(tokens)], |_| ()).await
    })
}

async fn all_succeed(tasks: impl IntoIterator<Item = JoinHandle<Result<CompletedPasses, RerankError>>>) {
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap().outputs.len(), 1);
    }
}

#[tokio::test]
async fn the_next_batch_is_prepared_while_one_runs() {
    let (scheduler, controls) = scheduler(8, 100);
    let first = spawn_held(&scheduler, &controls, vec![pass(10)]).await;
    let others = [60, 30, 20].map(|tokens| spawn(&scheduler, vec![pass(tokens)]));
    wait_for_queued(&scheduler, 3).await;
    // In the fair order, short before long: 20 and 30 tokens; the 60 do not fit beside them.
    wait_for_prepared(&controls, 50).await;
    assert_eq!(controls.batches(), [10], "one batch runs");
    assert_eq!(scheduler.status().waiting_passes, 3, "the passes stay in the queue");
    controls.release();
    all_succeed(std::iter::once(first).chain(others)).await;
    assert_eq!(controls.batches(), [10, 50, 60]);
    assert!(controls.prepared_runs() >= 1);
}

#[tokio::test]
async fn a_pass_that_arrives_late_joins_the_batch() {
    let (scheduler, controls) = scheduler(8, 100);
    let first = spawn_held(&scheduler, &controls, vec![pass(10)]).await;
    let early = spawn(&scheduler, vec![pass(40)]);
    wait_for_prepared(&controls, 40).await;
    let late = spawn(&scheduler, vec![pass(50)]);
    wait_for_prepared(&controls, 90).await;
    controls.release();
    all_succeed([first, early, late]).await;
    assert_eq!((controls.batches(), controls.prepared_runs()), (vec![10, 90], 1));
}

#[tokio::test]
async fn a_cancelled_pass_of_a_prepared_batch_does_not_run() {
    let (scheduler, controls) = scheduler(8, 100);
    let first = spawn_held(&scheduler, &controls, vec![pass(10)]).await;
    let (cancelled, other) = (spawn(&scheduler, vec![pass(40)]), spawn(&scheduler, vec![pass(50)]));
    wait_for_prepared(&controls, 90).await;
    cancel(cancelled).await;
    assert_eq!(scheduler.status().waiting_passes, 1, "it leaves the queue immediately");
    controls.release();
    all_succeed([first, other]).await;
    assert_eq!(controls.batches(), [10, 50]);
}

#[tokio::test]
async fn a_more_urgent_request_overtakes_a_prepared_batch() {
    for waits_for_preparation in [true, false] {
        let (scheduler, controls) = scheduler(8, 10);
        let first = spawn_held(&scheduler, &controls, vec![pass(10)]).await;
        let low = spawn_with_priority(&scheduler, 9, 8);
        wait_for_prepared(&controls, 8).await;
        let high = spawn_with_priority(&scheduler, 1, 7);
        wait_for_queued(&scheduler, 2).await;
        if waits_for_preparation {
            wait_for_prepared(&controls, 7).await;
        }
        controls.release();
        all_succeed([first, low, high]).await;
        assert_eq!(controls.batches(), [10, 7, 8]);
    }
}

#[tokio::test]
async fn a_prepared_batch_that_fails_is_bisected() {
    for (fault, calls) in [(Fault::Device, 5), (Fault::NonFinite, 3), (Fault::Panic, 5)] {
        let (scheduler, controls) = scheduler(8, 100);
        controls.poison(POISON, fault);
        let first = spawn_held(&scheduler, &controls, vec![pass(1)]).await;
        let mut poisoned = pass(10);
        poisoned.prefix[0] = POISON;
        let bad = spawn(&scheduler, vec![poisoned]);
        wait_for_queued(&scheduler, 1).await;
        let good = [10, 10, 10].map(|tokens| spawn(&scheduler, vec![pass(tokens)]));
        wait_for_prepared(&controls, 40).await;
        controls.release();
        all_succeed(std::iter::once(first).chain(good)).await;
        assert!(matches!(bad.await.unwrap(), Err(RerankError::Internal(_))), "{fault:?}");
        assert_eq!(controls.calls() - 1, calls, "{fault:?}: {:?}", controls.batches());
        assert_eq!(controls.prepared_runs(), 1, "{fault:?}: the halves are other batches");
    }
}

#[tokio::test]
async fn a_prepared_batch_that_does_not_fit_into_memory_runs_in_smaller_ones() {
    let (scheduler, controls) = scheduler(8, 100);
    controls.limit_memory(60);
    let first = spawn_held(&scheduler, &controls, vec![pass(1)]).await;
    let tasks = [40, 40, 40, 40].map(|tokens| spawn(&scheduler, vec![pass(tokens)]));
    wait_for_queued(&scheduler, 4).await;
    wait_for_prepared(&controls, 80).await;
    controls.release();
    all_succeed(std::iter::once(first).chain(tasks)).await;
    // The limit is 40 from then on, also for a batch of 80 that was prepared before.
    assert_eq!(controls.batches(), [1, 80, 40, 40, 40, 40]);
}

#[tokio::test]
async fn a_prepared_batch_does_not_run_on_a_device_that_is_lost() {
    let (scheduler, controls) = scheduler(8, 100);
    controls.fail_next(RuntimeError::DeviceLost("gone".into()));
    let first = spawn_held(&scheduler, &controls, vec![pass(10)]).await;
    let prepared = spawn(&scheduler, vec![pass(40)]);
    wait_for_prepared(&controls, 40).await;
    controls.release();
    for task in [first, prepared] {
        assert!(matches!(task.await.unwrap(), Err(RerankError::DeviceLost(_))));
    }
    assert_eq!(controls.batches(), [10]);
}

#[tokio::test]
async fn a_panic_in_preparation_fails_no_batch() {
    let (scheduler, controls) = scheduler(8, 100);
    controls.panic_in_prepare();
    let first = spawn_held(&scheduler, &controls, vec![pass(10)]).await;
    let second = spawn(&scheduler, vec![pass(40)]);
    wait_for_prepared(&controls, 40).await;
    let_other_tasks_run().await;
    controls.release();
    all_succeed([first, second]).await;
    assert_eq!((controls.batches(), controls.prepared_runs()), (vec![10, 40], 0));
    assert_eq!(controls.preparations(), [40], "it is not tried again");
}

#[tokio::test]
async fn a_batch_is_prepared_while_another_model_uses_the_device() {
    let admission = AdmissionControl::new(&settings(8, 100));
    let [(one, first), (two, second)] = [(); 2].map(|()| start(&admission));
    let running = spawn_held(&one, &first, vec![pass(10)]).await;
    let waiting = spawn(&two, vec![pass(40)]);
    wait_for_prepared(&second, 40).await;
    assert_eq!((two.status().waiting_passes, second.calls()), (1, 0));
    first.release();
    all_succeed([running, waiting]).await;
    assert_eq!((second.batches(), second.prepared_runs()), (vec![40], 1));
}

#[tokio::test]
async fn nothing_is_prepared_on_a_cpu_whose_time_the_batch_needs() {
    let facts = ModelFacts { device: "cpu".to_owned(), ..FakeRuntime::new().facts().clone() };
    let runtime = FakeRuntime::with_facts(facts);
    let controls = runtime.controls();
    let scheduler = Arc::new(Scheduler::start(runtime, &AdmissionControl::new(&settings(8, 100))));
    let first = spawn_held(&scheduler, &controls, vec![pass(10)]).await;
    let second = spawn(&scheduler, vec![pass(40)]);
    wait_for_queued(&scheduler, 1).await;
    let_other_tasks_run().await;
    controls.release();
    all_succeed([first, second]).await;
    assert_eq!((controls.preparations(), controls.prepared_runs()), (Vec::new(), 0));
}
