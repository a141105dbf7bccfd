//! Admission: the limits of the process, permits, and draining.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;

use super::*;
use crate::rerank::Full;

fn is_rejected(result: &Result<AdmissionPermit, RerankError>, expected: &Full) -> bool {
    matches!(result, Err(RerankError::Overloaded { full, .. }) if full == expected)
}

#[tokio::test]
async fn a_request_over_the_limit_is_rejected_with_a_time_to_retry() {
    let (scheduler, _) = scheduler(2, 100);
    let permits = [0; 2].map(|_| scheduler.try_admit(&request(1)).unwrap());
    let rejected = scheduler.try_admit(&request(1));
    assert!(is_rejected(&rejected, &Full::Requests { queued: 2, limit: 2 }), "{rejected:?}");
    assert!(
        matches!(rejected, Err(RerankError::Overloaded { retry_after, .. }) if retry_after >= Duration::from_secs(1))
    );
    drop(permits);
    assert!(scheduler.try_admit(&request(1)).is_ok());
}

#[tokio::test]
async fn limits_hold_for_all_models_together() {
    let admission = AdmissionControl::new(&settings(2, 100));
    let [(one, _), (two, _)] = [(); 2].map(|()| start(&admission));
    let permits = (one.try_admit(&request(60_000)).unwrap(), two.try_admit(&request(30_000)).unwrap());
    let full = Full::Requests { queued: 2, limit: 2 };
    for scheduler in [&one, &two] {
        let rejected = scheduler.try_admit(&request(1));
        assert!(is_rejected(&rejected, &full), "{rejected:?}");
        assert_eq!((scheduler.status().requests, scheduler.status().max_requests), (1, 2));
    }
    drop(permits.1);
    let rejected = two.try_admit(&request(50_000));
    let full = Full::Tokens { queued: 60_000, asked: 50_000, limit: 100_000 };
    assert!(is_rejected(&rejected, &full), "{rejected:?}");
    assert!(two.try_admit(&request(40_000)).is_ok());
}

#[tokio::test]
async fn a_clients_share_counts_its_requests_to_all_models() {
    let admission = AdmissionControl::new(&settings(4, 100));
    let [(one, _), (two, _)] = [(); 2].map(|()| start(&admission));
    let by_client = |name: &str| AdmissionRequest { client: Client::named(name), ..request(1) };
    let _permits = (one.try_admit(&by_client("many")).unwrap(), one.try_admit(&by_client("many")).unwrap());
    let rejected = two.try_admit(&by_client("many"));
    assert!(is_rejected(&rejected, &Full::Share { requests: 2, tokens: 2 }), "{rejected:?}");
    assert!(two.try_admit(&by_client("few")).is_ok());
}

#[tokio::test]
async fn replaced_settings_hold_for_all_models_from_the_next_request() {
    let admission = AdmissionControl::new(&settings(1, 100));
    let [(one, controls), (two, _)] = [(); 2].map(|()| start(&admission));
    let first = one.try_admit(&request(1)).unwrap();
    assert!(one.try_admit(&request(1)).is_err());
    one.reconfigure(&ScheduleSettings { max_queued_requests: 2, max_batch_tokens: 1000, ..one.settings() });
    let second = two.try_admit(&request(1)).unwrap();
    let rejected = two.try_admit(&request(1));
    assert!(is_rejected(&rejected, &Full::Requests { queued: 2, limit: 2 }), "{rejected:?}");
    drop((first, second));
    two.reconfigure(&ScheduleSettings { max_queued_requests: 64, ..two.settings() });
    run_in_one_batch(&one, &controls, vec![pass(100); 10]).await;
    assert_eq!(controls.calls(), 2, "one batch of a thousand tokens");
}

#[tokio::test]
async fn tokens_in_flight_follow_the_exact_count_and_the_passes_that_ran() {
    let admission = AdmissionControl::new(&settings(8, 10));
    let (scheduler, controls) = start(&admission);
    let permit = scheduler.try_admit(&request(500)).unwrap();
    let tokens = || admission.state().in_flight.total().tokens;
    assert_eq!(tokens(), 500);
    permit.set_exact_tokens(30, 3).unwrap();
    assert_eq!(tokens(), 30);
    let mut done = Vec::new();
    controls.hold();
    {
        let running = scheduler.run(&permit, vec![pass(10), pass(10), pass(10)], |pass| done.push(pass));
        tokio::pin!(running);
        tokio::select! {
            _ = &mut running => panic!("the device holds the batch"),
            () = controls.held(1) => {}
        }
        assert_eq!((tokens(), scheduler.status().waiting_passes), (30, 2));
        controls.release();
        running.await.unwrap();
    }
    assert_eq!((tokens(), done), (0, vec![0, 1, 2]));
    let error = permit.set_exact_tokens(100_001, 3).unwrap_err();
    assert!(matches!(error, RerankError::TooManyTokens { tokens: 100_001, documents: 3, limit: 100_000 }), "{error}");
    drop(permit);
    assert_eq!(scheduler.status(), QueueStatus { max_requests: 8, ..QueueStatus::default() });
}

#[tokio::test]
async fn an_estimate_over_the_limit_takes_all_tokens_until_the_exact_count_is_known() {
    let (scheduler, _) = scheduler(8, 10);
    let permit = scheduler.try_admit(&request(1_000_000)).unwrap();
    let rejected = scheduler.try_admit(&request(1));
    assert!(is_rejected(&rejected, &Full::Tokens { queued: 100_000, asked: 1, limit: 100_000 }), "{rejected:?}");
    permit.set_exact_tokens(20, 1).unwrap();
    assert!(scheduler.try_admit(&request(99_980)).is_ok(), "20 tokens are in flight, whatever the estimate was");
    assert!(scheduler.try_admit(&request(1)).is_ok());
    let _other = scheduler.try_admit(&request(99_980)).unwrap();
    assert!(scheduler.try_admit(&request(1)).is_err());
}

#[tokio::test]
async fn a_request_is_released_with_the_last_clone_of_its_permit() {
    let (scheduler, _) = scheduler(8, 10);
    let permit = scheduler.try_admit(&request(5)).unwrap();
    let clone = permit.clone();
    drop(permit);
    assert_eq!(scheduler.status().requests, 1);
    drop(clone);
    assert_eq!(scheduler.status().requests, 0);
}

#[tokio::test]
async fn an_abandoned_request_counts_until_the_device_has_finished_its_pass() {
    let admission = AdmissionControl::new(&settings(8, 10));
    let (scheduler, controls) = start(&admission);
    let abandoned = spawn_held(&scheduler, &controls, vec![pass(10), pass(7)]).await;
    cancel(abandoned).await;
    let total = || admission.state().in_flight.total();
    assert_eq!((total().requests, total().tokens), (1, 10), "the waiting pass leaves, the running one counts");
    assert_eq!((scheduler.status().requests, scheduler.status().waiting_passes), (1, 0));
    controls.release();
    while total().requests > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!((total().tokens, controls.passes()), (0, 1));
}

#[tokio::test]
async fn a_warm_up_is_admitted_when_the_queue_is_full_and_measures_nothing() {
    let (scheduler, _) = scheduler(1, 100);
    let permit = scheduler.try_admit(&request(1)).unwrap();
    let warm_up = scheduler.admit_warm_up(10);
    scheduler.run(&warm_up, vec![pass(10)], |_| {}).await.unwrap();
    assert_eq!(scheduler.forecast(&permit), None);
    scheduler.run(&permit, vec![pass(10)], |_| {}).await.unwrap();
    assert!(scheduler.forecast(&permit).is_some());
}

#[tokio::test]
async fn draining_rejects_new_requests_and_waits_for_the_admitted_ones() {
    let (scheduler, _) = scheduler(2, 100);
    let permit = scheduler.try_admit(&request(1)).unwrap();
    scheduler.start_draining();
    assert!(matches!(scheduler.try_admit(&request(1)), Err(RerankError::Draining)));
    let waiting = tokio::spawn({
        let scheduler = Arc::clone(&scheduler);
        async move { scheduler.drained().await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(permit);
    waiting.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_waits_for_a_request_that_is_admitted_as_it_starts() {
    for _ in 0..300 {
        let (scheduler, _) = scheduler(2, 100);
        let (started, has_started) = oneshot::channel();
        let is_drained = Arc::new(AtomicBool::new(false));
        let clients = tokio::task::spawn_blocking({
            let (scheduler, is_drained) = (Arc::clone(&scheduler), Arc::clone(&is_drained));
            move || {
                started.send(()).unwrap();
                while let Ok(permit) = scheduler.try_admit(&request(1)) {
                    assert!(!is_drained.load(Ordering::Acquire), "admitted, and not waited for");
                    drop(permit);
                }
            }
        });
        has_started.await.unwrap();
        scheduler.start_draining();
        scheduler.drained().await;
        is_drained.store(true, Ordering::Release);
        clients.await.unwrap();
    }
}
