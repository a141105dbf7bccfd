//! Overload, deadlines, failing devices and shutdown. The fake runtime holds batches; no test sleeps.

use podium::app::ShutdownOutcome;
use podium::runtime::RuntimeError;
use serde_json::{Value, json};

use crate::support::{Server, hang_up};

fn body() -> Value {
    json!({"query": "q", "documents": ["one", "two"]})
}

#[tokio::test]
async fn a_request_over_the_limit_is_429_with_a_time_to_retry() {
    let server = Server::start_with(|settings| settings.schedule.max_queued_requests = 2).await;
    server.controls.hold();
    let first = server.rerank_later(&body());
    let second = server.rerank_later(&body());
    server.until_metrics_say(r#"podium_queue_requests{model="podium-nano"} 2"#).await;

    let refused = server.rerank(&body()).await;
    let message = "the server is at capacity: 2 requests wait already (limit 2); try again in 1 s";
    refused.assert_failure(429, "overloaded", None, message);
    assert_eq!(refused.header("retry-after"), "1");

    server.controls.release();
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(second.await.unwrap().status, 200);
    assert_eq!(server.rerank(&body()).await.status, 200);
}

#[tokio::test]
async fn a_request_that_times_out_is_504_and_counts_until_the_device_has_finished_it() {
    let server = Server::start_with(|settings| settings.schedule.timeout_seconds = 1).await;
    server.controls.hold();
    let message = "the request took longer than 1000 ms: 0 of 1 passes had run, and 0 of 2 documents were read";
    server.rerank(&body()).await.assert_failure(504, "deadline_exceeded", None, message);
    server.until_metrics_say(r#"podium_queue_requests{model="podium-nano"} 1"#).await;
    server.controls.release();
    server.until_metrics_say(r#"podium_queue_requests{model="podium-nano"} 0"#).await;
    assert_eq!(server.rerank(&body()).await.status, 200);
}

#[tokio::test]
async fn a_disconnect_is_499_and_the_request_counts_until_the_device_has_finished_it() {
    let server = Server::start().await;
    server.controls.hold();
    let request = server.rerank_later(&body());
    server.controls.held(1).await;
    hang_up(&request).await;
    server.until_metrics_say(r#"podium_requests_total{kind="rank",route="/v1/rerank",status="499"} 1"#).await;
    server.until_metrics_say(r#"podium_queue_requests{model="podium-nano"} 1"#).await;
    server.controls.release();
    server.until_metrics_say(r#"podium_queue_requests{model="podium-nano"} 0"#).await;
}

#[tokio::test]
async fn a_device_error_is_500_and_its_cause_is_not_in_the_response() {
    let server = Server::start().await;
    server.controls.fail_next(RuntimeError::Device("out of secrets".to_owned()));
    server.rerank(&body()).await.assert_failure(500, "internal_error", None, "internal error");
    assert_eq!(server.rerank(&body()).await.status, 200);
}

#[tokio::test]
async fn a_panic_is_500_for_its_request_only() {
    let server = Server::start().await;
    server.controls.panic_next("out of order");
    server.rerank(&body()).await.assert_failure(500, "internal_error", None, "internal error");
    assert_eq!(server.rerank(&body()).await.status, 200);
}

#[tokio::test]
async fn a_request_that_exceeds_the_devices_memory_is_413_and_suggests_a_remedy() {
    let server = Server::start().await;
    server.controls.limit_memory(5);
    let answer = server.rerank(&body()).await;
    assert_eq!(answer.status, 413, "{}", answer.text);
    assert_eq!(answer.json()["error"]["code"], "too_large_for_device");
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("tokens") && message.contains("send fewer or shorter documents"), "{message}");
    server.controls.limit_memory(usize::MAX);
    assert_eq!(server.rerank(&body()).await.status, 200);
}

#[tokio::test]
async fn a_lost_device_is_503_and_ends_the_server() {
    let server = Server::start_with(|settings| settings.server.drain_delay_seconds = 3600).await;
    server.controls.hold();
    let accepted = server.rerank_later(&body());
    server.controls.held(1).await;
    server.controls.fail_next(RuntimeError::DeviceLost("CUDA_ERROR_ILLEGAL_ADDRESS".to_owned()));
    server.controls.release();
    let message = "the device has failed, and the server has to be started again";
    accepted.await.unwrap().assert_failure(503, "device_lost", None, message);
    assert_eq!(server.outcome().await, ShutdownOutcome::DeviceLost("CUDA_ERROR_ILLEGAL_ADDRESS".to_owned()));
}

#[tokio::test]
async fn a_stalled_device_is_unready_until_the_batch_comes_back() {
    let server = Server::start_with(|settings| settings.schedule.stall_seconds = 1).await;
    server.controls.hold();
    let waiting = server.rerank_later(&body());
    server.until_metrics_say("podium_ready 0").await;
    let message = "the device has been busy with one batch for more than 1 s";
    server.get("/ready").await.assert_failure(503, "device_stalled", None, message);
    assert_eq!(server.get("/health").await.status, 200);
    server.controls.release();
    assert_eq!(waiting.await.unwrap().status, 200);
    assert_eq!(server.get("/ready").await.status, 200);
}

#[tokio::test]
async fn a_device_that_hangs_is_503_and_ends_the_server_as_a_lost_device_does() {
    let server = Server::start_with(|settings| {
        settings.schedule.stall_seconds = 1;
        settings.schedule.hang_seconds = 2;
        settings.server.drain_delay_seconds = 3600;
    })
    .await;
    server.controls.hold();
    let waiting = server.rerank_later(&body());
    server.until_metrics_say("podium_ready 0").await;
    let message = "the device has failed, and the server has to be started again";
    waiting.await.unwrap().assert_failure(503, "device_lost", None, message);
    let reason = "a batch has not come back for 2 s (schedule.hang_seconds)";
    assert_eq!(server.outcome().await, ShutdownOutcome::DeviceLost(reason.to_owned()));
}

#[tokio::test]
async fn an_idle_connection_does_not_delay_the_shutdown() {
    let mut server = Server::start().await;
    let idle = tokio::net::TcpStream::connect(&server.address).await.unwrap();
    assert_eq!(server.get("/health").await.header("connection"), "");
    server.stop();
    assert_eq!(server.outcome().await, ShutdownOutcome::Clean);
    drop(idle);
}

#[tokio::test]
async fn during_shutdown_every_response_closes_its_connection() {
    let mut server = Server::start_with(|settings| settings.server.drain_delay_seconds = 3600).await;
    server.stop();
    server.until_metrics_say("podium_ready 0").await;
    let answer = server.rerank(&body()).await;
    assert_eq!((answer.status, answer.header("connection")), (200, "close"));
}

#[tokio::test]
async fn shutdown_finishes_accepted_requests_and_rejects_new_ones() {
    let mut server = Server::start().await;
    server.controls.hold();
    let accepted = server.rerank_later(&body());
    server.controls.held(1).await;
    server.stop();
    server.until_metrics_say("podium_ready 0").await;

    let unready = server.get("/ready").await;
    unready.assert_failure(503, "shutting_down", None, "the server is shutting down and takes no new requests");
    assert_eq!(server.get("/health").await.status, 200);
    let refused = server.rerank(&body()).await;
    refused.assert_failure(503, "shutting_down", None, "the server is shutting down and takes no new requests");
    assert_eq!(refused.header("retry-after"), "5");

    server.controls.release();
    assert_eq!(accepted.await.unwrap().status, 200);
    let address = server.address.clone();
    assert_eq!(server.outcome().await, ShutdownOutcome::Clean);
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "the port is still open");
}

#[tokio::test]
async fn a_shutdown_is_unready_before_it_rejects_requests() {
    let mut server = Server::start_with(|settings| settings.server.drain_delay_seconds = 3600).await;
    server.stop();
    server.until_metrics_say("podium_ready 0").await;
    assert_eq!(server.get("/ready").await.status, 503);
    assert_eq!(server.rerank(&body()).await.status, 200);
}

#[tokio::test]
async fn requests_that_outlast_the_shutdown_are_answered_with_503() {
    let mut server = Server::start_with(|settings| settings.server.shutdown_seconds = 0).await;
    server.controls.hold();
    let request = server.rerank_later(&body());
    server.controls.held(1).await;
    server.stop();
    let answer = request.await.unwrap();
    let message = "the server is shutting down, and this request did not finish in time";
    answer.assert_failure(503, "shutting_down", None, message);
    assert_eq!((answer.header("retry-after"), answer.header("connection")), ("5", "close"));
    assert_eq!(server.outcome().await, ShutdownOutcome::CutOff);
}
