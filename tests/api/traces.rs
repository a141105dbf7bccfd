//! Traces, as a receiver gets them: over OTLP, with the caller's context, and never in a request's way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use podium::app::ShutdownOutcome;
use podium::runtime::RuntimeError;
use podium::telemetry::traces::otlp::{ExportTraceServiceRequest, KeyValue, Span, Value};
use prost::Message;
use reqwest::Method;
use serde_json::json;
use tokio::net::TcpListener;

use crate::support::{Answer, Server};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// A receiver in this process.
#[derive(Clone, Default)]
struct Receiver {
    bodies: Arc<Mutex<Vec<Bytes>>>,
}

impl Receiver {
    async fn start() -> (Self, String) {
        let receiver = Self::default();
        let take = |State(receiver): State<Self>, headers: HeaderMap, body: Bytes| async move {
            assert_eq!(headers["content-type"], "application/x-protobuf");
            receiver.bodies.lock().unwrap().push(body);
        };
        let router = Router::new().route("/v1/traces", post(take)).with_state(receiver.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (receiver, url)
    }

    /// All spans that came, by the resource's service name.
    fn spans(&self) -> Vec<(String, Span)> {
        let bodies = self.bodies.lock().unwrap();
        let requests = bodies.iter().map(|body| ExportTraceServiceRequest::decode(body.clone()).unwrap());
        let resources = requests.flat_map(|request| request.resource_spans);
        let of_one = resources.flat_map(|one| {
            let service = attributes(&one.resource.unwrap().attributes)["service.name"].clone();
            one.scope_spans.into_iter().flat_map(|scope| scope.spans).map(move |span| (service.clone(), span))
        });
        of_one.collect()
    }

    fn has_seen(&self, word: &str) -> bool {
        self.bodies.lock().unwrap().iter().any(|body| String::from_utf8_lossy(body).contains(word))
    }
}

fn attributes(list: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |pair: &KeyValue| match pair.value.clone().unwrap().value.unwrap() {
        Value::String(text) => text,
        Value::Int(number) => number.to_string(),
    };
    list.iter().map(|pair| (pair.key.clone(), text(pair))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |digits, byte| format!("{digits}{byte:02x}"))
}

async fn traced(url: &str, share: f64) -> Server {
    let url = url.to_owned();
    Server::start_with(|settings| {
        settings.telemetry.otlp_endpoint = url;
        settings.telemetry.trace_sample = share;
        settings.telemetry.service_name = "search".into();
        settings.schedule.timeout_seconds = 1;
    })
    .await
}

/// Asks with the caller's trace.
async fn ask(server: &Server, flags: &str, id: &str, more: &str) -> Answer {
    let body =
        json!({"query": "zebrafish", "documents": ["okapidoc", "two"], "instruction": "walrusmode", "mode": more});
    let request = server.request(Method::POST, "/v1/rerank?q=zebrafish").json(&body).header("x-request-id", id);
    Answer::of(request.header("traceparent", format!("00-{TRACE}-{CALLER}-{flags}")).header("tracestate", "a=b")).await
}

#[tokio::test]
async fn a_request_is_a_span_of_its_callers_trace_with_a_span_for_each_stage() {
    let (receiver, url) = Receiver::start().await;
    let mut server = traced(&url, 0.0).await;
    let answer = ask(&server, "01", "my-request", "auto").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    server.get("/health").await;
    server.stop();
    assert_eq!(server.outcome().await, ShutdownOutcome::Clean);

    let spans = receiver.spans();
    let names: Vec<&str> = spans.iter().map(|(_, span)| span.name.as_str()).collect();
    assert_eq!(names, ["POST /v1/rerank", "tokenize", "queue", "forward", "score"]);
    let own = &spans[0].1;
    assert_eq!(hex(&own.parent_span_id), CALLER);
    assert_eq!((own.kind, own.flags, own.status.as_ref()), (2, 0x301, None));
    let tokens = answer.json()["usage"]["prompt_tokens"].to_string();
    let expected = [
        ("http.request.method", "POST"),
        ("http.route", "/v1/rerank"),
        ("http.response.status_code", "200"),
        ("podium.request_id", "my-request"),
        ("podium.model", "podium-nano"),
        ("podium.mode", "listwise"),
        ("podium.documents", "2"),
        ("podium.slates", "1"),
        ("podium.tokens", &tokens),
        ("podium.truncated_documents", "0"),
    ];
    let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(attributes(&own.attributes), BTreeMap::from(expected));
    for (service, span) in &spans {
        assert_eq!((service.as_str(), hex(&span.trace_id).as_str()), ("search", TRACE));
        assert_eq!(span.trace_state, "a=b");
        assert!(own.start_time_unix_nano <= span.start_time_unix_nano, "{}", span.name);
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{}", span.name);
        assert!(span.end_time_unix_nano <= own.end_time_unix_nano, "{}", span.name);
    }
    assert!(spans[1..].iter().all(|(_, span)| span.parent_span_id == own.span_id && span.kind == 1));
    assert_eq!(attributes(&spans[3].1.attributes)["podium.tokens"], tokens);
    for word in ["zebrafish", "okapidoc", "walrusmode"] {
        assert!(!receiver.has_seen(word), "{word}");
    }
}

#[tokio::test]
async fn a_failure_is_in_its_span_and_its_stages_are_there_as_far_as_they_went() {
    let (receiver, url) = Receiver::start().await;
    let mut server = traced(&url, 0.0).await;
    server.controls.fail_next(RuntimeError::Device("gone".to_owned()));
    assert_eq!(ask(&server, "01", "one", "auto").await.status, 500);
    assert_eq!(ask(&server, "01", "two", "okapimode").await.status, 422);
    server.controls.hold();
    assert_eq!(ask(&server, "01", "three", "auto").await.status, 504);
    server.controls.release();
    server.stop();
    server.outcome().await;

    let spans = receiver.spans();
    let names: Vec<&str> = spans.iter().map(|(_, span)| span.name.as_str()).collect();
    let own = "POST /v1/rerank";
    assert_eq!(names, [own, "tokenize", "queue", own, own, "tokenize", "queue"]);
    let failures =
        [("500", "internal_error", true), ("422", "invalid_value", false), ("504", "deadline_exceeded", true)];
    for ((_, span), (status, code, is_error)) in spans.iter().filter(|(_, span)| span.name == own).zip(failures) {
        let found = attributes(&span.attributes);
        assert_eq!((found["http.response.status_code"].as_str(), found["error.type"].as_str()), (status, code));
        assert_eq!(found.contains_key("podium.model"), status != "422", "{found:?}: the body was never a request");
        assert_eq!(span.status.as_ref().map(|status| status.code), is_error.then_some(2));
    }
    assert!(!receiver.has_seen("gone") && !receiver.has_seen("okapimode"));
}

#[tokio::test]
async fn callers_decide_for_their_requests_and_the_share_for_the_others() {
    for (share, spans) in [(0.0, 1), (1.0, 2)] {
        let (receiver, url) = Receiver::start().await;
        let mut server = traced(&url, share).await;
        ask(&server, "00", "not-sampled", "none").await;
        ask(&server, "01", "sampled", "none").await;
        server.rerank(&json!({})).await;
        server.stop();
        server.outcome().await;
        assert_eq!(receiver.spans().len(), spans, "share {share}");
    }
}

#[tokio::test]
async fn a_receiver_that_never_answers_holds_up_nobody() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut server = traced(&format!("http://{}", silent.local_addr().unwrap()), 1.0).await;
    for _ in 0..600 {
        assert_eq!(server.rerank(&json!({})).await.status, 422);
    }
    assert_eq!(ask(&server, "01", "last", "auto").await.status, 200);
    server.until_metrics_say(r#"podium_trace_spans_total{outcome="sent"} 0"#).await;
    server.stop();
    assert_eq!(server.outcome().await, ShutdownOutcome::Clean);
}

#[tokio::test]
async fn spans_that_are_refused_are_counted_as_dropped() {
    let refusing = Router::new().fallback(|| async { axum::http::StatusCode::BAD_REQUEST });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, refusing).await });
    let server = traced(&url, 1.0).await;
    // As many as are sent at once, so that nothing has to wait for more.
    for _ in 0..512 {
        server.rerank(&json!({})).await;
    }
    server.until_metrics_say(r#"podium_trace_spans_total{outcome="dropped"} 512"#).await;
}
