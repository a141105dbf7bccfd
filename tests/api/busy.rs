//! Too much at once, too slow, and leaving: held by the gate of the fake runtime, not by sleeping.

use podium::app::Farewell;
use podium::runtime::RuntimeError;
use serde_json::{Value, json};

use crate::support::Server;

fn body() -> Value {
    json!({"query": "q", "documents": ["one", "two"]})
}

#[tokio::test]
async fn a_full_service_says_try_again() {
    let server = Server::start_with(|settings| settings.schedule.max_queued_requests = 2).await;
    server.controls.hold();
    let first = server.rerank_later(&body());
    let second = server.rerank_later(&body());
    server.until_metrics_say("podium_queue_requests 2").await;

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
async fn a_request_that_takes_too_long_is_504_and_makes_room() {
    let server = Server::start_with(|settings| settings.schedule.timeout_seconds = 1).await;
    server.controls.hold();
    let message = "the request took longer than 1000 ms: 0 of 1 passes had run, and 0 of 2 documents were read";
    server.rerank(&body()).await.assert_failure(504, "deadline_exceeded", None, message);
    server.until_metrics_say("podium_queue_requests 0").await;
    server.controls.release();
    assert_eq!(server.rerank(&body()).await.status, 200);
}

#[tokio::test]
async fn a_client_that_leaves_makes_room_and_is_counted() {
    let server = Server::start().await;
    server.controls.hold();
    let request = server.rerank_later(&body());
    server.controls.held(1).await;
    request.abort();
    server.until_metrics_say("podium_queue_requests 0").await;
    server.until_metrics_say(r#"podium_requests_total{route="/v1/rerank",status="499"} 1"#).await;
    server.controls.release();
}

#[tokio::test]
async fn a_failing_device_is_500_and_the_cause_stays_inside() {
    let server = Server::start().await;
    server.controls.fail_next(RuntimeError::Device("out of secrets".to_owned()));
    server.rerank(&body()).await.assert_failure(500, "internal_error", None, "internal error");
    assert_eq!(server.rerank(&body()).await.status, 200);
}

#[tokio::test]
async fn a_panic_is_that_requests_500_and_nobody_elses() {
    let server = Server::start().await;
    server.controls.panic_next("out of order");
    server.rerank(&body()).await.assert_failure(500, "internal_error", None, "internal error");
    assert_eq!(server.rerank(&body()).await.status, 200);
}

#[tokio::test]
async fn leaving_finishes_what_was_accepted_and_refuses_the_rest() {
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
    assert_eq!(server.farewell().await, Farewell::Clean);
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "the port is still open");
}

#[tokio::test]
async fn unready_comes_before_refusal() {
    let mut server = Server::start_with(|settings| settings.server.drain_delay_seconds = 3600).await;
    server.stop();
    server.until_metrics_say("podium_ready 0").await;
    assert_eq!(server.get("/ready").await.status, 503);
    assert_eq!(server.rerank(&body()).await.status, 200);
}

#[tokio::test]
async fn work_that_does_not_finish_in_time_is_cut_off() {
    let mut server = Server::start_with(|settings| settings.server.shutdown_seconds = 0).await;
    server.controls.hold();
    let request = server.rerank_later(&body());
    server.controls.held(1).await;
    server.stop();
    assert_eq!(server.farewell().await, Farewell::CutOff);
    assert!(request.await.is_err(), "the connection should be gone");
}
