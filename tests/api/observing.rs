//! What operators see: ids and metrics.

use reqwest::Method;
use serde_json::json;

use crate::support::{Answer, Server};

#[tokio::test]
async fn every_response_has_an_id_of_its_own() {
    let server = Server::start().await;
    let mut ids = Vec::new();
    for path in ["/health", "/nowhere", "/metrics", "/v1/rerank"] {
        ids.push(server.get(path).await.header("x-request-id").to_owned());
    }
    assert!(ids.iter().all(|id| id.len() == 36), "{ids:?}");
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4);
}

#[tokio::test]
async fn an_id_from_a_client_is_kept_if_it_is_sane() {
    let server = Server::start().await;
    for (given, kept) in [("abc-1", true), ("a b", false), (&"a".repeat(129), false), ("<x>", false)] {
        let answer = Answer::of(server.request(Method::GET, "/health").header("x-request-id", given)).await;
        assert_eq!(answer.header("x-request-id") == given, kept, "{given}");
    }
    let answer = Answer::of(server.request(Method::GET, "/nowhere").header("x-request-id", "abc-1")).await;
    assert_eq!(answer.json()["id"], "abc-1");
}

#[tokio::test]
async fn metrics_count_each_request_once_with_closed_labels() {
    let server = Server::start().await;
    let documents = ["word ".repeat(50), "two".to_owned(), "three".to_owned()];
    let body = json!({"query": "q", "documents": documents, "max_tokens_per_doc": 10});
    let reply = server.rerank(&body).await.json();
    server.post("/rerank", &json!({"query": "q", "documents": ["a", "b"], "mode": "pointwise"})).await;
    server.rerank(&json!({})).await;
    server.get("/nowhere/else").await;
    server.get("/somewhere?query=secret").await;
    let answer = server.get("/metrics").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let lines: Vec<&str> = answer.text.lines().collect();
    for line in [
        r#"podium_requests_total{route="/v1/rerank",status="200"} 1"#,
        r#"podium_requests_total{route="/v1/rerank",status="422"} 1"#,
        r#"podium_requests_total{route="/rerank",status="200"} 1"#,
        r#"podium_requests_total{route="other",status="404"} 2"#,
        r#"podium_request_duration_seconds_count{route="/v1/rerank"} 2"#,
        r#"podium_stage_duration_seconds_count{stage="queue"} 2"#,
        r#"podium_stage_duration_seconds_count{stage="tokenize"} 2"#,
        r#"podium_stage_duration_seconds_count{stage="forward"} 2"#,
        r#"podium_rankings_total{mode="listwise"} 1"#,
        r#"podium_rankings_total{mode="pointwise"} 1"#,
        r#"podium_slates_total{mode="listwise"} 1"#,
        r#"podium_slates_total{mode="pointwise"} 2"#,
        "podium_documents_total 5",
        "podium_truncated_documents_total 1",
        "podium_request_documents_count 2",
        "podium_queue_requests 0",
        "podium_queue_passes 0",
        "podium_queue_tokens 0",
        "podium_ready 1",
    ] {
        assert!(lines.contains(&line), "{line:?} is not in\n{}", answer.text);
    }
    assert!(!answer.text.contains("secret") && !answer.text.contains("nowhere"));
    let tokens = lines.iter().find_map(|line| line.strip_prefix("podium_prompt_tokens_total ")).unwrap();
    assert!(tokens.parse::<u64>().unwrap() > reply["usage"]["prompt_tokens"].as_u64().unwrap());
}

#[tokio::test]
async fn every_metric_has_help_and_a_type() {
    let server = Server::start().await;
    server.rerank(&json!({"query": "q", "documents": ["one"]})).await;
    let text = server.get("/metrics").await.text;
    let mut families = 0;
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
        let described = |kind: &str| {
            [base, name].iter().any(|name| text.lines().any(|line| line.starts_with(&format!("# {kind} {name} "))))
        };
        assert!(described("HELP") && described("TYPE"), "{name} lacks its HELP or TYPE");
        families += 1;
    }
    assert!(families > 20);
}

#[tokio::test]
async fn counters_stand_at_zero_before_the_first_request() {
    let server = Server::start().await;
    let text = server.get("/metrics").await.text;
    for line in [
        "podium_documents_total 0",
        "podium_prompt_tokens_total 0",
        "podium_truncated_documents_total 0",
        r#"podium_rankings_total{mode="listwise"} 0"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(text.contains("podium_model_info{"));
}
