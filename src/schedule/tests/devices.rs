//! Devices: several models on one, and one that stalls or hangs.

use std::time::Duration;

use super::*;

/// A scheduler whose batches count as stalled and as hanging after so many seconds.
fn scheduler_with_limits(stall_seconds: u64, hang_seconds: u64) -> (Arc<Scheduler>, FakeControls) {
    start(&AdmissionControl::new(&ScheduleSettings { stall_seconds, hang_seconds, ..settings(8, 100) }))
}

#[tokio::test]
async fn a_stalled_batch_makes_the_server_unready_until_it_comes_back() {
    let (scheduler, controls) = scheduler_with_limits(1, 0);
    let stalled = spawn_held(&scheduler, &controls, vec![pass(3)]).await;
    assert!(scheduler.ready().is_ok());
    while scheduler.ready().is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(matches!(scheduler.ready(), Err(RerankError::Stalled { limit }) if limit == Duration::from_secs(1)));
    controls.release();
    assert!(stalled.await.unwrap().is_ok());
    assert!(scheduler.ready().is_ok());
}

#[tokio::test]
async fn a_batch_that_hangs_loses_the_device_and_fails_its_requests() {
    for (stall_seconds, hang_seconds) in [(1, 2), (0, 1), (100, 1)] {
        let (scheduler, controls) = scheduler_with_limits(stall_seconds, hang_seconds);
        let hanging = spawn_held(&scheduler, &controls, vec![pass(3)]).await;
        let waiting = spawn(&scheduler, vec![pass(99)]);
        let reason = scheduler.lost().await.unwrap();
        assert_eq!(reason, format!("a batch has not come back for {hang_seconds} s (schedule.hang_seconds)"));
        for task in [hanging, waiting] {
            assert!(matches!(task.await.unwrap(), Err(RerankError::DeviceLost(_))));
        }
        assert!(matches!(scheduler.ready(), Err(RerankError::DeviceLost(_))));
        assert_eq!(controls.calls(), 1, "no batch runs after it");
        controls.release();
    }
}

#[tokio::test]
async fn schedulers_on_one_device_run_one_batch_at_a_time() {
    let admission = AdmissionControl::new(&settings(8, 100));
    let [(one, first), (two, second)] = [(); 2].map(|()| start(&admission));
    let running = spawn_held(&one, &first, vec![pass(3)]).await;
    let waiting = spawn(&two, vec![pass(3)]);
    // Long enough to be queued, to be taken off the queue, and to run if the device were free.
    let_other_tasks_run().await;
    assert_eq!((two.status().waiting_passes, second.calls()), (1, 0), "the device is in use");
    let cancelled = spawn(&two, vec![pass(7)]);
    wait_for_queued(&two, 2).await;
    cancel(cancelled).await;
    assert_eq!(two.status().waiting_passes, 1);
    first.release();
    running.await.unwrap().unwrap();
    waiting.await.unwrap().unwrap();
    assert_eq!((first.calls(), second.tokens()), (1, 3));
}

#[tokio::test]
async fn a_lost_device_is_lost_for_all_models_on_it() {
    let admission = AdmissionControl::new(&settings(8, 100));
    let [(one, controls), (two, _)] = [(); 2].map(|()| start(&admission));
    controls.panic_next("CUDA_ERROR_ILLEGAL_ADDRESS");
    assert!(run(&one, vec![pass(3)]).await.is_err());
    assert!(matches!(two.ready(), Err(RerankError::DeviceLost(_))));
    assert!(two.lost().await.is_some());
}

#[tokio::test]
async fn a_closed_scheduler_has_dropped_its_runtime() {
    let (scheduler, controls) = scheduler(8, 100);
    let abandoned = spawn_held(&scheduler, &controls, vec![pass(3)]).await;
    cancel(abandoned).await;
    scheduler.drained().await;
    let closing = tokio::spawn({
        let scheduler = Arc::clone(&scheduler);
        async move { scheduler.close().await }
    });
    let_other_tasks_run().await;
    assert!(!closing.is_finished(), "the abandoned batch is still on the device");
    controls.release();
    closing.await.unwrap();
    assert!(run(&scheduler, vec![pass(1)]).await.is_err());
}
