//! Batches: which passes run together, in which order, and when the device worked for a request.

use super::*;

#[tokio::test]
async fn passes_queued_behind_a_busy_device_run_together_up_to_the_limit() {
    let (scheduler, controls) = scheduler(8, 100);
    let first = spawn_held(&scheduler, &controls, vec![pass(10)]).await;
    let others: Vec<_> = [60, 40, 1, 200].map(|tokens| spawn(&scheduler, vec![pass(tokens)])).into();
    wait_for_queued(&scheduler, 4).await;
    assert_eq!(scheduler.status().waiting_tokens, 301);
    controls.release();
    for task in std::iter::once(first).chain(others) {
        assert_eq!(task.await.unwrap().unwrap().outputs.len(), 1);
    }
    // [10], [60, 40], [1], [200]: the last pass exceeds the limit and runs alone.
    assert_eq!((controls.calls(), controls.passes()), (4, 5));
    assert_eq!(scheduler.status(), QueueStatus { max_requests: 8, ..QueueStatus::default() });
}

#[tokio::test]
async fn outputs_do_not_depend_on_the_batch() {
    let (scheduler, _) = scheduler(8, 1000);
    let together = run(&scheduler, vec![pass(5), pass(9), pass(3)]).await.unwrap().outputs;
    for (tokens, expected) in [5, 9, 3].into_iter().zip(together) {
        assert_eq!(run(&scheduler, vec![pass(tokens)]).await.unwrap().outputs, [expected]);
    }
}

#[tokio::test]
async fn a_cancelled_request_leaves_the_queue_immediately() {
    let (scheduler, controls) = scheduler(8, 10);
    let running = spawn_held(&scheduler, &controls, vec![pass(10)]).await;
    let cancelled = spawn(&scheduler, vec![pass(7)]);
    wait_for_queued(&scheduler, 1).await;
    cancel(cancelled).await;
    let expected = QueueStatus { requests: 1, max_requests: 8, ..QueueStatus::default() };
    assert_eq!(scheduler.status(), expected, "not only when its pass would run");
    let after = spawn(&scheduler, vec![pass(9)]);
    wait_for_queued(&scheduler, 1).await;
    controls.release();
    running.await.unwrap().unwrap();
    after.await.unwrap().unwrap();
    assert_eq!((controls.calls(), controls.tokens()), (2, 19));
    assert_eq!(scheduler.status().waiting_tokens, 0);
}

#[tokio::test]
async fn a_more_urgent_request_overtakes_between_passes() {
    let (scheduler, controls) = scheduler(8, 10);
    let enqueue = |priority: u16| {
        let scheduler = Arc::clone(&scheduler);
        tokio::spawn(async move {
            let permit = scheduler.try_admit(&AdmissionRequest { priority, ..request(30) }).unwrap();
            let passes = vec![pass(10), pass(10), pass(10)];
            scheduler.run(&permit, passes, |_| ()).await.unwrap()
        })
    };
    controls.hold();
    let low = enqueue(9);
    controls.held(1).await;
    let high = enqueue(1);
    wait_for_queued(&scheduler, 5).await;
    controls.release();
    let (low, high) = (low.await.unwrap().device_intervals, high.await.unwrap().device_intervals);
    assert_eq!((low.len(), high.len()), (3, 3));
    assert!(low[0].ended <= high[0].started, "the first pass was on the device already");
    assert!(high[2].ended <= low[1].started, "{low:?} {high:?}");
}

#[tokio::test]
async fn the_forward_time_of_a_request_does_not_contain_other_requests_batches() {
    let (scheduler, controls) = scheduler(8, 10);
    // The long request's first pass runs, then the short request, then the long one's second pass.
    let long = spawn_held(&scheduler, &controls, vec![pass(10), pass(10)]).await;
    let short = spawn(&scheduler, vec![pass(5)]);
    wait_for_queued(&scheduler, 2).await;
    controls.release();
    let (long, short) = (long.await.unwrap().unwrap(), short.await.unwrap().unwrap());
    let [first, second] = long.device_intervals[..] else { panic!("two batches: {long:?}") };
    let [between] = short.device_intervals[..] else { panic!("one batch: {short:?}") };
    assert!(first.ended <= between.started && between.ended <= second.started, "{long:?} {short:?}");
    assert_eq!(long.forward_time(), (first.ended - first.started) + (second.ended - second.started));
    assert_eq!(long.queue_time(), (first.started - long.queued_at) + (second.started - first.ended));
    assert!(long.queue_time() >= short.forward_time(), "the long request waits for the short one's batch");
}

#[tokio::test]
async fn passes_of_one_batch_share_its_time() {
    let (scheduler, _) = scheduler(8, 100);
    let completed = run(&scheduler, vec![pass(5), pass(9), pass(3)]).await.unwrap();
    let [interval] = completed.device_intervals[..] else { panic!("one batch: {completed:?}") };
    assert_eq!(completed.forward_time(), interval.ended - interval.started);
    assert_eq!(completed.queue_time(), interval.started - completed.queued_at);
}
