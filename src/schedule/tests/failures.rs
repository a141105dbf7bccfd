//! Batches that fail: only the culprit's request fails, and the others run again.

use super::*;
use crate::runtime::RuntimeError;
use crate::runtime::fake::Fault;

/// A token that no other pass holds.
const POISON: u32 = 150_000;

fn poisoned(tokens: usize) -> ForwardPass {
    let mut pass = pass(tokens);
    pass.prefix[0] = POISON;
    pass
}

#[tokio::test]
async fn only_the_culprit_of_a_failed_batch_fails() {
    let (scheduler, controls) = scheduler(8, 100);
    let first = spawn_held(&scheduler, &controls, vec![pass(10)]).await;
    let mut invalid = pass(4);
    invalid.prefix[0] = 200_000;
    let (good, bad) = (spawn(&scheduler, vec![pass(5)]), spawn(&scheduler, vec![invalid]));
    wait_for_queued(&scheduler, 2).await;
    controls.release();
    assert!(first.await.unwrap().is_ok());
    assert!(good.await.unwrap().is_ok());
    assert!(matches!(bad.await.unwrap(), Err(RerankError::Internal(_))));
}

#[tokio::test]
async fn a_panic_fails_its_batch_and_the_worker_goes_on() {
    let (scheduler, controls) = scheduler(8, 100);
    controls.panic_next("a bug");
    let failed = run(&scheduler, vec![pass(3)]).await.unwrap_err();
    assert!(matches!(&failed, RerankError::Internal(cause) if cause.to_string().contains("panicked")), "{failed:?}");
    controls.fail_next(RuntimeError::Device("gone".into()));
    assert!(run(&scheduler, vec![pass(3)]).await.is_err());
    assert!(run(&scheduler, vec![pass(3)]).await.is_ok());
}

#[tokio::test]
async fn bisecting_finds_the_culprit_without_running_every_pass_alone() {
    for fault in [Fault::Panic, Fault::Device, Fault::NonFinite] {
        let (scheduler, controls) = scheduler(64, 1000);
        controls.poison(POISON, fault);
        let mut passes: Vec<ForwardPass> = (0..16).map(|_| pass(10)).collect();
        passes[11] = poisoned(10);
        let results = run_in_one_batch(&scheduler, &controls, passes).await;
        for (index, result) in results.iter().enumerate() {
            assert_eq!(result.is_err(), index == 11, "{fault:?}: pass {index}");
        }
        assert!(matches!(results[11], Err(RerankError::Internal(_))), "{fault:?}");
        // One batch of 16; then halves, which find one of 16 in 2 x 4 steps, or at once where the
        // error names it.
        let calls = controls.calls() - 1;
        assert_eq!(calls, if fault == Fault::NonFinite { 3 } else { 9 }, "{fault:?}");
        assert!(scheduler.ready().is_ok());
    }
}

#[tokio::test]
async fn bisecting_ends_when_every_pass_is_a_culprit() {
    for fault in [Fault::NonFinite, Fault::Device] {
        let (scheduler, controls) = scheduler(64, 1000);
        controls.poison(POISON, fault);
        let results = run_in_one_batch(&scheduler, &controls, vec![poisoned(4); 16]).await;
        assert!(results.iter().all(Result::is_err));
        assert!(controls.passes() <= 1 + 16 * 5, "{} passes ran", controls.passes());
    }
}

#[tokio::test]
async fn a_batch_that_does_not_fit_into_memory_runs_in_smaller_ones() {
    let (scheduler, controls) = scheduler(64, 1000);
    controls.limit_memory(300);
    let passes = || (0..10).map(|_| pass(100)).collect::<Vec<_>>();
    assert!(run_in_one_batch(&scheduler, &controls, passes()).await.iter().all(Result::is_ok));
    // The first pass; all ten; two times five; then two and three of each, or so.
    let first = controls.calls();
    assert!((7..=11).contains(&first), "{first} batches");
    // The reduced limit stays: no batch of the next ten passes is too large.
    assert!(run_in_one_batch(&scheduler, &controls, passes()).await.iter().all(Result::is_ok));
    assert_eq!(controls.passes(), 1 + 10 + 10 + 10 + 1 + 10, "a batch that fails runs its passes once more");
}

#[tokio::test]
async fn batches_grow_again_when_there_is_memory_again() {
    let (scheduler, controls) = scheduler(64, 1000);
    controls.limit_memory(300);
    run_in_one_batch(&scheduler, &controls, vec![pass(100); 10]).await;
    controls.limit_memory(usize::MAX);
    for _ in 0..500 {
        run(&scheduler, vec![pass(100); 10]).await.unwrap();
    }
    let before = controls.calls();
    run_in_one_batch(&scheduler, &controls, vec![pass(100); 10]).await;
    assert_eq!(controls.calls() - before, 2, "ten passes of a hundred tokens are one batch again");
}

#[tokio::test]
async fn a_pass_that_does_not_fit_alone_fails_and_leaves_the_limit_as_it_is() {
    let (scheduler, controls) = scheduler(64, 1000);
    controls.limit_memory(1500);
    let failed = run(&scheduler, vec![pass(2000)]).await.unwrap_err();
    assert!(matches!(failed, RerankError::TooLargeForDevice { tokens: 2000 }), "{failed:?}");
    let before = controls.calls();
    assert!(run_in_one_batch(&scheduler, &controls, vec![pass(100); 10]).await.iter().all(Result::is_ok));
    assert_eq!(controls.calls() - before, 2, "batches are as large as before");
}

#[tokio::test]
async fn a_lost_device_fails_all_passes_in_flight_and_rejects_new_requests() {
    let (scheduler, controls) = scheduler(64, 20);
    controls.poison(POISON, Fault::DeviceLost);
    // Three batches: the second one loses the device, the third one never runs.
    let results = run_in_one_batch(&scheduler, &controls, vec![pass(10), poisoned(10), pass(20)]).await;
    assert!(results.iter().all(|result| matches!(result, Err(RerankError::DeviceLost(_)))), "{results:?}");
    assert_eq!(controls.calls(), 2);
    assert!(scheduler.lost().await.unwrap().contains("ILLEGAL_ADDRESS"));
    assert!(matches!(scheduler.ready(), Err(RerankError::DeviceLost(_))));
    assert!(matches!(scheduler.try_admit(&request(1)), Err(RerankError::DeviceLost(_))));
    assert!(matches!(run(&scheduler, vec![pass(1)]).await, Err(RerankError::DeviceLost(_))));
}

#[tokio::test]
async fn a_panic_of_the_driver_that_reports_a_lost_device_loses_the_device() {
    let (scheduler, controls) = scheduler(8, 100);
    controls.panic_next("called `Result::unwrap()` on DriverError(CUDA_ERROR_ILLEGAL_ADDRESS)");
    assert!(matches!(run(&scheduler, vec![pass(3)]).await, Err(RerankError::DeviceLost(_))));
    assert!(matches!(scheduler.ready(), Err(RerankError::DeviceLost(_))));
}
