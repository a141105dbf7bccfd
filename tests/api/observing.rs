//! Request ids and metrics.

use std::collections::BTreeSet;

use podium::runtime::RuntimeError;
use reqwest::Method;
use serde_json::json;

use crate::support::{Answer, Server, hang_up};

#[tokio::test]
async fn every_response_has_its_own_request_id() {
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
async fn a_safe_request_id_of_a_client_is_kept() {
    let server = Server::start().await;
    for (given, kept) in [("abc-1", true), ("a b", false), (&"a".repeat(129), false), ("<x>", false)] {
        let answer = Answer::of(server.request(Method::GET, "/health").header("x-request-id", given)).await;
        assert_eq!(answer.header("x-request-id") == given, kept, "{given}");
    }
    let answer = Answer::of(server.request(Method::GET, "/nowhere").header("x-request-id", "abc-1")).await;
    assert_eq!(answer.json()["id"], "abc-1");
}

#[tokio::test]
async fn each_request_is_counted_once_and_labels_hold_no_text_of_a_client() {
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
        r#"podium_requests_total{kind="rank",route="/v1/rerank",status="200"} 1"#,
        r#"podium_requests_total{kind="rank",route="/v1/rerank",status="422"} 1"#,
        r#"podium_requests_total{kind="rank",route="/rerank",status="200"} 1"#,
        r#"podium_requests_total{kind="other",route="other",status="404"} 2"#,
        r#"podium_request_duration_seconds_count{kind="rank",route="/v1/rerank"} 2"#,
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
        r#"podium_queue_requests{model="podium-nano"} 0"#,
        r#"podium_queue_passes{model="podium-nano"} 0"#,
        r#"podium_queue_tokens{model="podium-nano"} 0"#,
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
async fn counters_start_at_zero() {
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

#[tokio::test]
async fn every_series_that_a_failure_adds_to_starts_at_zero() {
    let server = Server::start_with(|settings| settings.server.max_body_bytes = 1024).await;
    let series = |text: &str| -> BTreeSet<String> {
        let counted =
            |line: &&str| line.starts_with("podium_requests_total{") || line.starts_with("podium_errors_total{");
        text.lines().filter(counted).map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
    };
    let before = server.get("/metrics").await.text;
    let at_start = before.lines().filter(|line| line.starts_with("podium_requests_total{"));
    assert!(at_start.clone().count() > 200);
    assert!(at_start.clone().all(|line| line.ends_with(" 0")), "{before}");

    let good = json!({"query": "q", "documents": ["a"]});
    for path in ["/v1/rerank", "/score", "/", "/nowhere"] {
        for body in [&good, &json!({}), &json!({"query": "x".repeat(2000)}), &json!({"query": "q", "documents": []})] {
            server.post(path, body).await;
        }
        Answer::of(server.request(Method::POST, path).body("x")).await;
        Answer::of(server.request(Method::POST, path).header("content-type", "application/json").body("{")).await;
        Answer::of(server.request(Method::DELETE, path)).await;
        server.get(path).await;
    }
    server.rerank(&json!({"query": "q", "documents": ["a"], "model": "secret"})).await;
    server.controls.fail_next(RuntimeError::Device("gone".to_owned()));
    server.rerank(&good).await;
    for path in ["/v1/models/secret", "/docs/secret", "/docs", "/ready", "/openapi.json", "/info", "/v1/models"] {
        server.get(path).await;
        Answer::of(server.request(Method::POST, path)).await;
    }

    let after = server.get("/metrics").await.text;
    let (before, found) = (series(&before), series(&after));
    let new: Vec<&String> = found.difference(&before).collect();
    assert!(new.is_empty(), "{new:?}");
    for line in [
        r#"podium_errors_total{kind="rank",code="internal_error"} 1"#,
        r#"podium_errors_total{kind="rank",code="model_not_found"} 1"#,
        r#"podium_errors_total{kind="other",code="model_not_found"} 1"#,
        r#"podium_errors_total{kind="rank",code="overloaded"} 0"#,
        r#"podium_requests_total{kind="other",route="other",status="404"} 8"#,
        r#"podium_requests_total{kind="rank",route="/v1/rerank",status="405"} 2"#,
    ] {
        assert!(after.lines().any(|found| found == line), "{line} is not in\n{after}");
    }
    assert!(!after.contains("secret"));
}

#[tokio::test]
async fn every_ranking_route_is_counted_under_the_kind_that_alerts_select() {
    let server = Server::start().await;
    let text = server.get("/metrics").await.text;
    for route in &podium::http::dialects::ROUTES {
        let kind = if route.path.contains("score") { "score" } else { "rank" };
        let line = format!("podium_requests_total{{kind=\"{kind}\",route=\"{}\",status=\"200\"}} 0", route.path);
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    // A browser at the index ranks nothing, though a dialect has the same path.
    server.get("/").await;
    server.post("/", &json!({"query": "q", "texts": ["a"]})).await;
    server.until_metrics_say(r#"podium_requests_total{kind="other",route="/",status="200"} 1"#).await;
    server.until_metrics_say(r#"podium_requests_total{kind="rank",route="/",status="200"} 1"#).await;
}

#[tokio::test]
async fn every_error_code_and_kind_that_alerts_and_dashboard_select_is_counted() {
    let server = Server::start().await;
    let metrics = server.get("/metrics").await.text;
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    for file in ["alerts.yml", "grafana/podium.json"] {
        let text = std::fs::read_to_string(root.join(file)).unwrap().replace('\\', "");
        for label in ["code", "kind"] {
            let mut selected: Vec<&str> = Vec::new();
            for operator in ["=~\"", "=\""] {
                let start = format!("{label}{operator}");
                let values = text.split(&start).skip(1);
                selected.extend(values.flat_map(|rest| rest.split('"').next().unwrap().split('|')));
            }
            assert!(!selected.is_empty(), "{file} selects no {label}");
            for value in selected {
                assert!(metrics.contains(&format!("{label}=\"{value}\"")), "{file}: no {label} is {value}");
            }
        }
    }
}

#[tokio::test]
async fn batches_count_even_if_the_client_has_left() {
    let server = Server::start().await;
    server.controls.hold();
    let request = server.rerank_later(&json!({"query": "q", "documents": ["one", "two"]}));
    server.controls.held(1).await;
    hang_up(&request).await;
    server.until_metrics_say(r#"podium_requests_total{kind="rank",route="/v1/rerank",status="499"} 1"#).await;
    server.controls.release();
    server.until_metrics_say(r#"podium_batch_passes_count{model="podium-nano"} 1"#).await;
    let text = server.get("/metrics").await.text;
    for line in [
        r#"podium_batch_passes_bucket{model="podium-nano",le="1"} 1"#,
        r#"podium_batch_passes_sum{model="podium-nano"} 1"#,
        "podium_prompt_tokens_total 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains(r#"podium_batch_tokens_sum{model="podium-nano"} 0"#));
}

#[tokio::test]
async fn drift_is_measured_by_model_and_instruction() {
    let server = Server::start_with(|settings| settings.telemetry.drift_sample = 1.0).await;
    let labels = |instruction: &str| format!(r#"model="podium-nano",instruction="{instruction}""#);
    let documents = ["word ".repeat(50), "a cat".to_owned(), "cat and cat".to_owned(), "cats".to_owned()];
    for (count, (field, value, label)) in
        [("unused", "", "none"), ("instruction", "secret words", "own"), ("profile", "legal", "legal")]
            .iter()
            .enumerate()
    {
        let body = json!({"query": "cat", "documents": documents, "max_tokens_per_doc": 10, "model": "vendor/rerank",
            "top_n": 1, *field: value});
        let answer = server.rerank(&body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let labels = labels(label);
        server.until_metrics_say(&format!("podium_drift_truncated_share_bucket{{{labels},le=\"0.25\"}} 1")).await;
        server.until_metrics_say(&format!("podium_drift_relevance_count{{{labels}}} 4")).await;
        server.until_metrics_say(&format!("podium_drift_top_relevance_count{{{labels}}} 1")).await;
        server.until_metrics_say(&format!("podium_drift_top_lead_count{{{labels}}} 1")).await;
        for with in ["input", "bm25"] {
            let line = format!("podium_drift_order_agreement_count{{{labels},with=\"{with}\"}} 1");
            server.until_metrics_say(&line).await;
        }
        assert!(count < 3);
    }
    assert!(!server.get("/metrics").await.text.contains("secret"));
}

#[tokio::test]
async fn a_drift_sample_of_zero_measures_nothing() {
    let server = Server::start_with(|settings| settings.telemetry.drift_sample = 0.0).await;
    server.rerank(&json!({"query": "q", "documents": ["one", "two"]})).await;
    server.until_metrics_say("podium_documents_total 2").await;
    assert!(!server.get("/metrics").await.text.contains("podium_drift_relevance_count"));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn process_metrics_have_prometheus_names() {
    let server = Server::start().await;
    let text = server.get("/metrics").await.text;
    for name in [
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
        "process_threads",
        "process_open_fds",
        "process_start_time_seconds",
    ] {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        assert!(value.is_some_and(|value| value > 0.0), "{name} in\n{text}");
    }
    assert!(text.lines().any(|line| line.starts_with("podium_build_info{version=")));
}
