//! The scheduler above a gated fake runtime: nothing here sleeps to make something happen.

use std::time::Duration;

use super::*;
use crate::rerank::Full;
use crate::runtime::fake::{FakeControls, FakeRuntime, Fault};
use crate::runtime::{JointLayers, Mark, Probe, RuntimeError};

fn pass(tokens: usize) -> ForwardPass {
    ForwardPass {
        trunk: (0..tokens as u32).collect(),
        branches: vec![],
        joint_layers: JointLayers::default(),
        probe: Probe::HiddenStates { marks: vec![Mark::trunk(tokens - 1)], project: false },
    }
}

fn settings(max_queued_requests: usize, max_batch_tokens: usize) -> ScheduleSettings {
    ScheduleSettings {
        max_queued_requests,
        max_queued_tokens: 100_000,
        max_wait_seconds: 0,
        max_batch_tokens,
        timeout_seconds: 0,
        stall_seconds: 0,
    }
}

fn scheduler(max_queued_requests: usize, max_batch_tokens: usize) -> (Arc<Scheduler>, FakeControls) {
    let runtime = FakeRuntime::new();
    let controls = runtime.controls();
    let settings = settings(max_queued_requests, max_batch_tokens);
    (Arc::new(Scheduler::start(runtime, &settings)), controls)
}

/// A request of nobody in particular.
fn arrival(tokens: usize) -> AdmissionRequest {
    AdmissionRequest { client: Client::anonymous(), priority: 0, tokens, deadline: None }
}

/// Lets a request in and runs its passes.
async fn run(scheduler: &Scheduler, passes: Vec<ForwardPass>) -> Result<Executed, RerankError> {
    let tokens = passes.iter().map(ForwardPass::tokens).sum();
    let admission = scheduler.try_admit(&arrival(tokens))?;
    scheduler.run(&admission, passes, |_| {}).await
}

fn spawn(
    scheduler: &Arc<Scheduler>,
    passes: Vec<ForwardPass>,
) -> tokio::task::JoinHandle<Result<Executed, RerankError>> {
    let scheduler = Arc::clone(scheduler);
    tokio::spawn(async move { run(&scheduler, passes).await })
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
    let together = run(&scheduler, vec![pass(5), pass(9), pass(3)]).await.unwrap().readouts;
    for (tokens, expected) in [5, 9, 3].into_iter().zip(together) {
        assert_eq!(run(&scheduler, vec![pass(tokens)]).await.unwrap().readouts, [expected]);
    }
}

#[tokio::test]
async fn a_full_house_says_when_to_try_again() {
    let (scheduler, _) = scheduler(2, 100);
    let guests = (scheduler.try_admit(&arrival(1)).unwrap(), scheduler.try_admit(&arrival(1)).unwrap());
    let refused = scheduler.try_admit(&arrival(1)).unwrap_err();
    assert!(
        matches!(refused, RerankError::Overloaded { full: Full::Requests { queued: 2, limit: 2 }, retry_after } if retry_after >= Duration::from_secs(1)),
        "{refused}"
    );
    drop(guests);
    assert!(scheduler.try_admit(&arrival(1)).is_ok());
}

#[tokio::test]
async fn draining_refuses_new_requests_and_waits_for_the_accepted_ones() {
    let (scheduler, _) = scheduler(2, 100);
    let admission = scheduler.try_admit(&arrival(1)).unwrap();
    scheduler.start_draining();
    assert!(matches!(scheduler.try_admit(&arrival(1)), Err(RerankError::Draining)));
    let waiting = tokio::spawn({
        let scheduler = Arc::clone(&scheduler);
        async move { scheduler.drained().await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(admission);
    waiting.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_let_in_while_draining_begins_is_waited_for() {
    for _ in 0..300 {
        let (scheduler, _) = scheduler(2, 100);
        let (asking, asked) = oneshot::channel();
        let gone = Arc::new(AtomicBool::new(false));
        let guests = tokio::task::spawn_blocking({
            let (scheduler, gone) = (Arc::clone(&scheduler), Arc::clone(&gone));
            move || {
                asking.send(()).unwrap();
                while let Ok(inside) = scheduler.try_admit(&arrival(1)) {
                    assert!(!gone.load(Ordering::Acquire), "let in, and nobody waited");
                    drop(inside);
                }
            }
        });
        asked.await.unwrap();
        scheduler.start_draining();
        scheduler.drained().await;
        gone.store(true, Ordering::Release);
        guests.await.unwrap();
    }
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
    let gone = QueueStatus { requests: 1, max_requests: 8, ..QueueStatus::default() };
    assert_eq!(scheduler.status(), gone, "it leaves the counts at once, not when its turn comes");
    let after = spawn(&scheduler, vec![pass(9)]);
    until_waiting(&scheduler, 1).await;
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
    let failed = run(&scheduler, vec![pass(3)]).await.unwrap_err();
    assert!(matches!(&failed, RerankError::Internal(cause) if cause.to_string().contains("panicked")), "{failed:?}");
    controls.fail_next(RuntimeError::Device("gone".into()));
    assert!(run(&scheduler, vec![pass(3)]).await.is_err());
    assert!(run(&scheduler, vec![pass(3)]).await.is_ok());
}

#[tokio::test]
async fn the_book_follows_what_is_known_and_what_has_run() {
    let (scheduler, controls) = scheduler(8, 10);
    let admission = scheduler.try_admit(&arrival(500)).unwrap();
    let held = || scheduler.shared.house().total().tokens;
    assert_eq!(held(), 500);
    admission.correct(500, 30, 3).unwrap();
    assert_eq!(held(), 30);
    let mut ran = Vec::new();
    controls.hold();
    {
        let running = scheduler.run(&admission, vec![pass(10), pass(10), pass(10)], |pass| ran.push(pass));
        tokio::pin!(running);
        tokio::select! {
            _ = &mut running => panic!("the gate is closed"),
            () = controls.held(1) => {}
        }
        assert_eq!((held(), scheduler.status().waiting_passes), (30, 2));
        controls.release();
        running.await.unwrap();
    }
    assert_eq!((held(), ran), (0, vec![0, 1, 2]));
    let error = admission.correct(30, 100_001, 3).unwrap_err();
    assert!(matches!(error, RerankError::TooManyTokens { tokens: 100_001, documents: 3, limit: 100_000 }), "{error}");
    drop(admission);
    assert_eq!(scheduler.status(), QueueStatus { max_requests: 8, ..QueueStatus::default() });
}

#[tokio::test]
async fn an_estimate_over_everything_is_let_into_an_empty_house_only() {
    let (scheduler, _) = scheduler(8, 10);
    let admission = scheduler.try_admit(&arrival(1_000_000)).unwrap();
    let refused = scheduler.try_admit(&arrival(1)).unwrap_err();
    let expected = Full::Tokens { queued: 100_000, asked: 1, limit: 100_000 };
    assert!(matches!(&refused, RerankError::Overloaded { full, .. } if *full == expected), "{refused}");
    admission.correct(1_000_000, 20, 1).unwrap();
    assert!(scheduler.try_admit(&arrival(99_980)).is_ok(), "20 are booked, however wrong the estimate was");
    assert!(scheduler.try_admit(&arrival(1)).is_ok());
    let _other = scheduler.try_admit(&arrival(99_980)).unwrap();
    assert!(scheduler.try_admit(&arrival(1)).is_err());
}

#[tokio::test]
async fn changed_limits_hold_from_the_next_request() {
    let (scheduler, _) = scheduler(1, 100);
    let first = scheduler.try_admit(&arrival(1)).unwrap();
    assert!(scheduler.try_admit(&arrival(1)).is_err());
    scheduler.reconfigure(&ScheduleSettings { max_queued_requests: 2, ..scheduler.settings() });
    assert!(scheduler.try_admit(&arrival(1)).is_ok());
    drop(first);
    assert_eq!(scheduler.status().max_requests, 2);
}

#[tokio::test]
async fn a_more_urgent_request_overtakes_between_passes() {
    let (scheduler, controls) = scheduler(8, 10);
    let order = Arc::new(Mutex::new(Vec::new()));
    let enqueue = |name: &'static str, priority: u16| {
        let (scheduler, order) = (Arc::clone(&scheduler), Arc::clone(&order));
        tokio::spawn(async move {
            let admission = scheduler.try_admit(&AdmissionRequest { priority, ..arrival(30) }).unwrap();
            let passes = vec![pass(10), pass(10), pass(10)];
            scheduler.run(&admission, passes, |_| order.lock().unwrap().push(name)).await.unwrap();
        })
    };
    controls.hold();
    let low = enqueue("low", 9);
    controls.held(1).await;
    let high = enqueue("high", 1);
    until_waiting(&scheduler, 5).await;
    controls.release();
    low.await.unwrap();
    high.await.unwrap();
    assert_eq!(*order.lock().unwrap(), ["low", "high", "high", "high", "low", "low"]);
}

/// A token that stands in no other pass.
const POISON: u32 = 150_000;

fn poisoned(tokens: usize) -> ForwardPass {
    let mut pass = pass(tokens);
    pass.trunk[0] = POISON;
    pass
}

/// A first pass holds the device; the others gather behind it and run as one batch when it is let go.
async fn together(
    scheduler: &Arc<Scheduler>,
    controls: &FakeControls,
    passes: Vec<ForwardPass>,
) -> Vec<Result<Executed, RerankError>> {
    controls.hold();
    let first = spawn(scheduler, vec![pass(1)]);
    controls.held(1).await;
    let count = passes.len();
    let tasks: Vec<_> = passes.into_iter().map(|pass| spawn(scheduler, vec![pass])).collect();
    until_waiting(scheduler, count).await;
    controls.release();
    first.await.unwrap().unwrap();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}

#[tokio::test]
async fn whatever_a_pass_does_to_its_batch_it_fails_alone_and_without_everyone_being_run_one_by_one() {
    for fault in [Fault::Panic, Fault::Device, Fault::NonFinite] {
        let (scheduler, controls) = scheduler(64, 1000);
        controls.poison(POISON, fault);
        let mut passes: Vec<ForwardPass> = (0..16).map(|_| pass(10)).collect();
        passes[11] = poisoned(10);
        let results = together(&scheduler, &controls, passes).await;
        for (place, result) in results.iter().enumerate() {
            assert_eq!(result.is_err(), place == 11, "{fault:?}: pass {place}");
        }
        assert!(matches!(results[11], Err(RerankError::Internal(_))), "{fault:?}");
        // One batch of 16; then halves, which find one among 16 in 2 x 4 steps, or at once where the error names it.
        let calls = controls.calls() - 1;
        assert_eq!(calls, if fault == Fault::NonFinite { 3 } else { 9 }, "{fault:?}");
        assert!(scheduler.ready().is_ok());
    }
}

#[tokio::test]
async fn a_batch_in_which_every_pass_is_guilty_ends_too() {
    for fault in [Fault::NonFinite, Fault::Device] {
        let (scheduler, controls) = scheduler(64, 1000);
        controls.poison(POISON, fault);
        let results = together(&scheduler, &controls, vec![poisoned(4); 16]).await;
        assert!(results.iter().all(Result::is_err));
        assert!(controls.passes() <= 1 + 16 * 5, "{} passes were run", controls.passes());
    }
}

#[tokio::test]
async fn out_of_memory_makes_batches_smaller_and_nobody_fails() {
    let (scheduler, controls) = scheduler(64, 1000);
    controls.limit_memory(300);
    let passes = || (0..10).map(|_| pass(100)).collect::<Vec<_>>();
    assert!(together(&scheduler, &controls, passes()).await.iter().all(Result::is_ok));
    // The first pass; all ten; two times five; then two and three of each, or so.
    let first = controls.calls();
    assert!((7..=11).contains(&first), "{first} batches");
    // What was learnt stays: no batch of the next ten is too large.
    assert!(together(&scheduler, &controls, passes()).await.iter().all(Result::is_ok));
    assert_eq!(controls.passes(), 1 + 10 + 10 + 10 + 1 + 10, "a batch that fails costs its passes once more");
}

#[tokio::test]
async fn batches_grow_again_when_there_is_memory_again() {
    let (scheduler, controls) = scheduler(64, 1000);
    controls.limit_memory(300);
    together(&scheduler, &controls, vec![pass(100); 10]).await;
    controls.limit_memory(usize::MAX);
    for _ in 0..500 {
        run(&scheduler, vec![pass(100); 10]).await.unwrap();
    }
    let before = controls.calls();
    together(&scheduler, &controls, vec![pass(100); 10]).await;
    assert_eq!(controls.calls() - before, 2, "ten times a hundred tokens are one batch again");
}

#[tokio::test]
async fn a_pass_that_does_not_fit_even_alone_is_its_requests_error_and_costs_the_others_nothing() {
    let (scheduler, controls) = scheduler(64, 1000);
    controls.limit_memory(1500);
    let failed = run(&scheduler, vec![pass(2000)]).await.unwrap_err();
    assert!(matches!(failed, RerankError::TooLargeForDevice { tokens: 2000 }), "{failed:?}");
    let before = controls.calls();
    assert!(together(&scheduler, &controls, vec![pass(100); 10]).await.iter().all(Result::is_ok));
    assert_eq!(controls.calls() - before, 2, "it was over the budget: batches are as large as before");
}

#[tokio::test]
async fn a_device_that_is_gone_fails_everything_in_flight_and_takes_nothing_more() {
    let (scheduler, controls) = scheduler(64, 20);
    controls.poison(POISON, Fault::DeviceLost);
    // Three batches: the second finds the device gone, the third is never tried.
    let results = together(&scheduler, &controls, vec![pass(10), poisoned(10), pass(20)]).await;
    assert!(results.iter().all(|result| matches!(result, Err(RerankError::DeviceLost(_)))), "{results:?}");
    assert_eq!(controls.calls(), 2);
    assert!(scheduler.lost().await.unwrap().contains("ILLEGAL_ADDRESS"));
    assert!(matches!(scheduler.ready(), Err(RerankError::DeviceLost(_))));
    assert!(matches!(scheduler.try_admit(&arrival(1)), Err(RerankError::DeviceLost(_))));
    assert!(matches!(run(&scheduler, vec![pass(1)]).await, Err(RerankError::DeviceLost(_))));
}

#[tokio::test]
async fn a_driver_that_panics_because_the_device_is_gone_is_no_bug_of_the_request() {
    let (scheduler, controls) = scheduler(8, 100);
    controls.panic_next("called `Result::unwrap()` on DriverError(CUDA_ERROR_ILLEGAL_ADDRESS)");
    assert!(matches!(run(&scheduler, vec![pass(3)]).await, Err(RerankError::DeviceLost(_))));
    assert!(matches!(scheduler.ready(), Err(RerankError::DeviceLost(_))));
}

#[tokio::test]
async fn a_batch_that_does_not_come_back_makes_the_server_unready_until_it_does() {
    let runtime = FakeRuntime::new();
    let controls = runtime.controls();
    let settings = ScheduleSettings { stall_seconds: 1, ..settings(8, 100) };
    let scheduler = Arc::new(Scheduler::start(runtime, &settings));
    controls.hold();
    let hanging = spawn(&scheduler, vec![pass(3)]);
    controls.held(1).await;
    assert!(scheduler.ready().is_ok());
    while scheduler.ready().is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(matches!(scheduler.ready(), Err(RerankError::Stalled { limit }) if limit == Duration::from_secs(1)));
    controls.release();
    assert!(hanging.await.unwrap().is_ok());
    assert!(scheduler.ready().is_ok());
}

#[tokio::test]
async fn schedulers_behind_one_gate_take_turns() {
    let gate = DeviceGate::default();
    let settings = settings(8, 100);
    let [(one, first), (two, second)] = [(); 2].map(|()| {
        let runtime = FakeRuntime::new();
        let controls = runtime.controls();
        (Arc::new(Scheduler::start_behind(gate.clone(), runtime, &settings)), controls)
    });
    first.hold();
    let running = spawn(&one, vec![pass(3)]);
    first.held(1).await;
    let waiting = spawn(&two, vec![pass(3)]);
    // Long enough for it to be queued, taken off the queue, and run if nothing stood before the device.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!((two.status().waiting_passes, second.calls()), (1, 0), "the device is taken");
    // Who gives up meanwhile leaves.
    let gone = spawn(&two, vec![pass(7)]);
    until_waiting(&two, 2).await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    assert_eq!(two.status().waiting_passes, 1);
    first.release();
    running.await.unwrap().unwrap();
    waiting.await.unwrap().unwrap();
    assert_eq!((first.calls(), second.tokens()), (1, 3));
}

#[tokio::test]
async fn a_scheduler_that_is_closed_has_let_go_of_its_runtime() {
    let (scheduler, controls) = scheduler(8, 100);
    controls.hold();
    let gone = spawn(&scheduler, vec![pass(3)]);
    controls.held(1).await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    scheduler.drained().await;
    let closing = tokio::spawn({
        let scheduler = Arc::clone(&scheduler);
        async move { scheduler.close().await }
    });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!closing.is_finished(), "a batch that nobody waits for is still on the device");
    controls.release();
    closing.await.unwrap();
    assert!(run(&scheduler, vec![pass(1)]).await.is_err());
}

#[tokio::test]
async fn other_settings_hold_for_what_comes_after_them() {
    let (scheduler, controls) = scheduler(1, 100);
    let first = scheduler.try_admit(&arrival(1)).unwrap();
    assert!(matches!(
        scheduler.try_admit(&arrival(1)),
        Err(RerankError::Overloaded { full: Full::Requests { limit: 1, .. }, .. })
    ));
    let settings = ScheduleSettings { max_queued_requests: 2, max_batch_tokens: 1000, ..scheduler.settings() };
    scheduler.reconfigure(&settings);
    let second = scheduler.try_admit(&arrival(1)).unwrap();
    assert!(matches!(
        scheduler.try_admit(&arrival(1)),
        Err(RerankError::Overloaded { full: Full::Requests { limit: 2, .. }, .. })
    ));
    drop((first, second));
    scheduler.reconfigure(&ScheduleSettings { max_queued_requests: 64, ..settings });
    together(&scheduler, &controls, vec![pass(100); 10]).await;
    assert_eq!(controls.calls(), 2, "one batch of a thousand tokens");
}
