//! Traces as a receiver gets them: over OTLP, under the caller's span, and never in a request's way.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use podium::app::ShutdownOutcome;
use podium::models::LoadWhen;
use podium::runtime::RuntimeError;
use prost::Message;
use reqwest::Method;
use serde_json::json;
use tokio::net::TcpListener;

use crate::cascaded::{Cascaded, body};
use crate::support::{Answer, Server};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// A receiver in this process.
#[derive(Clone, Default)]
struct Receiver {
    requests: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
}

impl Receiver {
    async fn start() -> (Self, String) {
        let receiver = Self::default();
        let receive = |State(receiver): State<Self>, headers: HeaderMap, body: Bytes| async move {
            receiver.requests.lock().unwrap().push((headers, body));
        };
        let router = Router::new().route("/v1/traces", post(receive)).with_state(receiver.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (receiver, url)
    }

    /// All spans received, in the order of their starts, with the attributes of the service that sent them.
    fn spans(&self) -> Vec<(BTreeMap<String, String>, Span)> {
        let mut spans = Vec::new();
        for (headers, body) in self.requests.lock().unwrap().iter() {
            assert_eq!(headers["content-type"], "application/x-protobuf");
            for resource in ExportTraceServiceRequest::decode(body.clone()).unwrap().resource_spans {
                let service = attributes(&resource.resource.unwrap().attributes);
                let found = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
                spans.extend(found.map(|span| (service.clone(), span)));
            }
        }
        spans.sort_by_key(|(_, span)| span.start_time_unix_nano);
        spans
    }

    fn has_seen(&self, word: &str) -> bool {
        self.requests.lock().unwrap().iter().any(|(_, body)| String::from_utf8_lossy(body).contains(word))
    }
}

fn attributes(list: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |pair: &KeyValue| match pair.value.clone().and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{}: {other:?}", pair.key),
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

/// Reranks under the caller's trace.
async fn rerank_in_trace(server: &Server, flags: &str, id: &str, mode: &str) -> Answer {
    let body =
        json!({"query": "zebrafish", "documents": ["okapidoc", "two"], "instruction": "walrusmode", "mode": mode});
    let request = server.request(Method::POST, "/v1/rerank?q=zebrafish").json(&body).header("x-request-id", id);
    Answer::of(request.header("traceparent", format!("00-{TRACE}-{CALLER}-{flags}")).header("tracestate", "a=b")).await
}

#[tokio::test]
async fn a_request_is_a_span_of_its_callers_trace_with_a_child_for_each_stage() {
    let (receiver, url) = Receiver::start().await;
    let mut server = traced(&url, 0.0).await;
    let answer = rerank_in_trace(&server, "01", "my-request", "auto").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    server.get("/health").await;
    server.stop();
    assert_eq!(server.outcome().await, ShutdownOutcome::Clean);

    let spans = receiver.spans();
    let names: Vec<&str> = spans.iter().map(|(_, span)| span.name.as_str()).collect();
    assert_eq!(names, ["POST /v1/rerank", "tokenize", "queue", "forward", "score"]);
    let own = &spans[0].1;
    assert_eq!(hex(&own.parent_span_id), CALLER);
    let status = own.status.clone().unwrap_or_default();
    assert_eq!((own.kind, own.flags, status.code), (2, 0x301, 0));
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
        assert_eq!((service["service.name"].as_str(), hex(&span.trace_id).as_str()), ("search", TRACE));
        assert_eq!(span.trace_state, "a=b");
        assert!(own.start_time_unix_nano <= span.start_time_unix_nano, "{}", span.name);
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{}", span.name);
        assert!(span.end_time_unix_nano <= own.end_time_unix_nano, "{}", span.name);
    }
    assert!(spans[1..].iter().all(|(_, span)| span.parent_span_id == own.span_id && span.kind == 1));
    assert!(spans[2].1.end_time_unix_nano <= spans[3].1.end_time_unix_nano, "the wait ends when the device begins");
    assert_eq!(attributes(&spans[3].1.attributes)["podium.tokens"], tokens);
    for word in ["zebrafish", "okapidoc", "walrusmode"] {
        assert!(!receiver.has_seen(word), "{word}");
    }
}

#[tokio::test]
async fn a_failed_request_has_its_code_in_its_span_and_the_stages_that_it_reached() {
    let (receiver, url) = Receiver::start().await;
    let mut server = traced(&url, 0.0).await;
    server.controls.fail_next(RuntimeError::Device("gone".to_owned()));
    assert_eq!(rerank_in_trace(&server, "01", "one", "auto").await.status, 500);
    assert_eq!(rerank_in_trace(&server, "01", "two", "okapimode").await.status, 422);
    server.controls.hold();
    assert_eq!(rerank_in_trace(&server, "01", "three", "auto").await.status, 504);
    server.controls.release();
    server.stop();
    server.outcome().await;

    let spans = receiver.spans();
    let names: Vec<&str> = spans.iter().map(|(_, span)| span.name.as_str()).collect();
    let own = "POST /v1/rerank";
    assert_eq!(names, [own, "tokenize", "queue", "forward", "queue", own, own, "tokenize", "queue", "forward"]);
    let failures =
        [("500", "internal_error", true), ("422", "invalid_value", false), ("504", "deadline_exceeded", true)];
    for ((_, span), (status, code, is_error)) in spans.iter().filter(|(_, span)| span.name == own).zip(failures) {
        let found = attributes(&span.attributes);
        assert_eq!((found["http.response.status_code"].as_str(), found["error.type"].as_str()), (status, code));
        assert_eq!(found.contains_key("podium.model"), status != "422", "{found:?}: the body was never a request");
        assert_eq!(span.status.clone().unwrap_or_default().code, if is_error { 2 } else { 0 });
    }
    assert!(!receiver.has_seen("gone") && !receiver.has_seen("okapimode"));
}

#[tokio::test]
async fn each_stage_of_a_cascade_is_a_span_with_its_documents_and_tokens() {
    let (receiver, url) = Receiver::start().await;
    let mut cascaded = Cascaded::start_with(LoadWhen::Start, |settings| {
        settings.telemetry.otlp_endpoint = url;
        settings.telemetry.trace_sample = 1.0;
    })
    .await;
    let answer = cascaded.rerank(&body("careful", 6)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    cascaded.server.stop();
    assert_eq!(cascaded.server.outcome().await, ShutdownOutcome::Clean);

    let spans = receiver.spans();
    let names: Vec<&str> = spans.iter().map(|(_, span)| span.name.as_str()).collect();
    let work = ["tokenize", "queue", "forward", "score"];
    assert_eq!(names, [&["POST /v1/rerank", "stage"], &work[..], &["stage"], &work[..]].concat());
    for (number, model, documents, place) in [("1", "podium-nano", "6", 1), ("2", "large", "2", 6)] {
        let stage = &spans[place].1;
        assert_eq!(stage.parent_span_id, spans[0].1.span_id);
        let used = &answer.json()["meta"]["cascade"]["stages"][place / 6];
        let expected = [
            ("podium.stage", number),
            ("podium.model", model),
            ("podium.documents", documents),
            ("podium.tokens", &used["tokens"].to_string()),
        ];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(attributes(&stage.attributes), BTreeMap::from(expected));
        let children = &spans[place + 1..place + 5];
        assert!(children.iter().all(|(_, span)| span.parent_span_id == stage.span_id), "{names:?}");
        assert!(children.iter().all(|(_, span)| span.end_time_unix_nano <= stage.end_time_unix_nano));
    }
}

#[tokio::test]
async fn the_caller_decides_for_its_requests_and_the_share_for_the_others() {
    for (share, spans) in [(0.0, 1), (1.0, 2)] {
        let (receiver, url) = Receiver::start().await;
        let mut server = traced(&url, share).await;
        rerank_in_trace(&server, "00", "not-sampled", "none").await;
        rerank_in_trace(&server, "01", "sampled", "none").await;
        server.rerank(&json!({})).await;
        server.stop();
        server.outcome().await;
        assert_eq!(receiver.spans().len(), spans, "share {share}");
    }
}

#[tokio::test]
async fn a_receiver_that_never_answers_delays_no_request() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut server = traced(&format!("http://{}", silent.local_addr().unwrap()), 1.0).await;
    for _ in 0..600 {
        assert_eq!(server.rerank(&json!({})).await.status, 422);
    }
    assert_eq!(rerank_in_trace(&server, "01", "last", "auto").await.status, 200);
    server.until_metrics_say(r#"podium_trace_spans_total{outcome="sent"} 0"#).await;
    server.stop();
    assert_eq!(server.outcome().await, ShutdownOutcome::Clean);
}

#[tokio::test]
async fn spans_that_the_receiver_rejects_are_counted_as_dropped() {
    let rejecting = Router::new().fallback(|| async { axum::http::StatusCode::BAD_REQUEST });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, rejecting).await });
    let mut server = traced(&url, 1.0).await;
    // A full batch, which is sent at once.
    for _ in 0..512 {
        server.rerank(&json!({})).await;
    }
    server.until_metrics_say(r#"podium_trace_spans_total{outcome="dropped"} 512"#).await;
    server.stop();
    server.outcome().await;
}

/// `podium serve` with these environment variables.
fn start_process(address: &str, variables: &[(&str, &str)]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_podium"));
    command.args(["serve", "--listen", address]).envs(variables.iter().copied()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// The address of a port that is free now.
async fn free_address() -> String {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    format!("127.0.0.1:{port}")
}

async fn wait_until_ready(address: &str) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for _ in 0..400 {
        if client.get(format!("http://{address}/ready")).send().await.is_ok_and(|ready| ready.status() == 200) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the server is not ready after 20 s");
}

#[cfg(unix)]
#[tokio::test]
async fn the_variables_of_opentelemetry_reach_the_receiver() {
    let (receiver, url) = Receiver::start().await;
    let address = free_address().await;
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-scope=team%20a,authorization=Basic%20abc"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,deployment.environment.name=test"),
        ("OTEL_SERVICE_NAME", "search"),
        ("OTEL_TRACES_SAMPLER", "always_on"),
    ];
    let mut process = start_process(&address, &variables);
    wait_until_ready(&address).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let body = json!({"query": "q", "documents": ["one", "two"]});
    let answer = client.post(format!("http://{address}/v1/rerank")).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let stopped = Command::new("kill").arg(process.id().to_string()).status().unwrap();
    assert!(stopped.success());
    assert!(tokio::task::spawn_blocking(move || process.wait()).await.unwrap().unwrap().success());

    let spans = receiver.spans();
    let names: Vec<&str> = spans.iter().map(|(_, span)| span.name.as_str()).collect();
    assert_eq!(names, ["POST /v1/rerank", "tokenize", "queue", "forward", "score"], "and none of the warm-up");
    let service = &spans[0].0;
    assert_eq!(service["service.name"], "search");
    assert_eq!(service["service.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(service["deployment.environment.name"], "test");
    let headers = &receiver.requests.lock().unwrap()[0].0;
    assert_eq!(
        (&headers["x-scope"], &headers["authorization"]),
        (&"team a".parse().unwrap(), &"Basic abc".parse().unwrap())
    );
}
