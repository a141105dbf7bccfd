//! `min_score` and its other names: results below it are left out and counted, in every dialect.

use serde_json::{Value, json};

use crate::support::{Answer, Server};

const DOCUMENTS: [&str; 5] = ["one", "two", "three", "four", "five"];

/// Each path that ranks with a request of its dialect, the place of its results, and its name for an
/// index and a score.
fn dialects() -> Vec<(&'static str, Value, &'static str, &'static str)> {
    let texts = || json!(DOCUMENTS.map(|text| json!({"text": text})));
    vec![
        ("/v1/rerank", json!({"query": "q", "documents": DOCUMENTS}), "/results", "relevance_score"),
        ("/v2/rerank", json!({"query": "q", "documents": DOCUMENTS}), "/data", "relevance_score"),
        ("/rerank", json!({"query": "q", "texts": DOCUMENTS}), "", "score"),
        ("/v1/reranking", json!({"query": "q", "input": DOCUMENTS}), "/data", "score"),
        ("/v1/ranking", json!({"query": {"text": "q"}, "passages": texts()}), "/rankings", "logit"),
        ("/v1/models/rerank", json!({"query": "q", "documents": DOCUMENTS}), "/results", "relevance_score"),
        ("/_inference/rerank/any", json!({"query": "q", "input": DOCUMENTS}), "/rerank", "relevance_score"),
        ("/infinity/rerank", json!({"query": "q", "documents": DOCUMENTS}), "/results", "relevance_score"),
        ("/pinecone/rerank", json!({"query": "q", "documents": texts()}), "/data", "score"),
    ]
}

fn with(body: &Value, name: &str, value: impl Into<Value>) -> Value {
    let mut body = body.clone();
    body[name] = value.into();
    body
}

fn rows(answer: &Answer, place: &str) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json().pointer(place).unwrap().as_array().unwrap().clone()
}

/// The `relevance_score` of every document, best first.
async fn relevance(server: &Server) -> Vec<f64> {
    let answer = server.rerank(&json!({"query": "q", "documents": DOCUMENTS})).await;
    rows(&answer, "/results").iter().map(|row| row["relevance_score"].as_f64().unwrap()).collect()
}

#[tokio::test]
async fn results_below_the_minimum_are_left_out_and_counted_in_every_dialect() {
    let server = Server::start().await;
    let scores = relevance(&server).await;
    let minimum = f64::midpoint(scores[1], scores[2]);
    for (path, body, place, score) in dialects() {
        let all = rows(&server.post(path, &body).await, place);
        let answer = server.post(path, &with(&body, "min_score", minimum)).await;
        let kept = rows(&answer, place);
        assert_eq!(kept, all[..2], "{path}: the others keep their {score}");
        assert_eq!(answer.header("podium-left-out-documents"), "3", "{path}");
        assert_eq!(answer.header("podium-warnings"), "0", "{path}: {}", answer.text);
    }
}

#[tokio::test]
async fn the_reply_counts_what_was_left_out_only_where_a_minimum_was_asked_for() {
    let server = Server::start().await;
    let body = json!({"query": "q", "documents": DOCUMENTS});
    let answer = server.rerank(&with(&body, "min_score", 1)).await;
    let reply = answer.json();
    assert_eq!((&reply["results"], &reply["data"]), (&json!([]), &json!([])), "{}", answer.text);
    assert_eq!(reply["meta"]["min_score"], json!({"min_score": 1.0, "left_out": 5}));
    assert_eq!(reply["meta"]["billed_units"]["search_units"], 1, "all documents were read");
    let without = server.rerank(&body).await;
    assert_eq!(without.json()["meta"].get("min_score"), None);
    assert_eq!(without.header("podium-left-out-documents"), "");
}

#[tokio::test]
async fn other_servers_names_for_the_minimum_mean_the_same() {
    let server = Server::start().await;
    let body = json!({"query": "q", "documents": DOCUMENTS});
    for name in ["min_score", "score_threshold", "relevance_threshold"] {
        assert_eq!(rows(&server.rerank(&with(&body, name, 1)).await, "/results"), [] as [Value; 0], "{name}");
        assert_eq!(rows(&server.rerank(&with(&body, name, Value::Null)).await, "/results").len(), 5, "{name}");
        let answer = server.rerank(&with(&body, name, 30)).await;
        let message = format!("{name}: is 30; it must be between 0 and 1");
        answer.assert_failure(422, "invalid_value", Some(name), &message);
    }
    let word = server.rerank(&with(&body, "score_threshold", "high")).await;
    let message = r#"score_threshold: expected a number between 0 and 1 or "auto", found the string "high""#;
    word.assert_failure(422, "invalid_value", Some("score_threshold"), message);
    let two = server.rerank(&with(&with(&body, "min_score", 0.1), "score_threshold", 0.2)).await;
    assert_eq!(two.status, 422, "{}", two.text);
}

#[tokio::test]
async fn the_minimum_applies_before_top_n() {
    let server = Server::start().await;
    let scores = relevance(&server).await;
    let body =
        json!({"query": "q", "documents": DOCUMENTS, "min_score": f64::midpoint(scores[2], scores[3]), "top_n": 1});
    let reply = server.rerank(&body).await.json();
    assert_eq!(reply["results"].as_array().unwrap().len(), 1);
    assert_eq!(reply["meta"]["min_score"]["left_out"], 2);
}

#[tokio::test]
async fn auto_keeps_what_stands_above_the_largest_gap_of_relevant_scores() {
    let server = Server::start().await;
    let scores = relevance(&server).await;
    let relevant: Vec<f64> = scores.iter().copied().filter(|score| *score >= 0.5).collect();
    let mut ends = relevant.clone();
    ends.push(0.5);
    let gap = |index: &usize| ends[*index] - ends[index + 1];
    let kept = (0..relevant.len()).max_by(|a, b| gap(a).total_cmp(&gap(b))).map_or(0, |index| index + 1);
    let reply = server.rerank(&json!({"query": "q", "documents": DOCUMENTS, "min_score": "auto"})).await.json();
    assert_eq!(reply["results"].as_array().unwrap().len(), kept, "{scores:?}");
    assert_eq!(reply["meta"]["min_score"]["left_out"], 5 - kept);
    let least = reply["meta"]["min_score"]["min_score"].as_f64().unwrap();
    let expected = kept.checked_sub(1).map_or(0.5, |last| scores[last]);
    assert!((least - expected).abs() < 1e-6, "{reply}");
}

#[tokio::test]
async fn a_document_that_the_budget_left_unread_is_below_every_minimum() {
    let server = Server::start().await;
    let long = "word ".repeat(60);
    let documents: Vec<&str> = vec![&long; 6];
    let body = json!({"query": "q", "documents": documents, "max_total_tokens": 200, "min_score": 0.000_001});
    let reply = server.rerank(&body).await.json();
    let read = reply["meta"]["budget"]["documents_read"].as_u64().unwrap();
    assert!((1..6).contains(&read), "{reply}");
    assert_eq!(reply["meta"]["min_score"]["left_out"], 6 - read);
    assert!(reply["results"].as_array().unwrap().iter().all(|row| row["tokens_read"] != 0));
}

#[tokio::test]
async fn scores_of_pairs_all_come_back() {
    let server = Server::start().await;
    let body = json!({"text_1": "q", "text_2": DOCUMENTS, "score_threshold": 1});
    let answer = server.post("/v1/score", &body).await;
    assert_eq!(rows(&answer, "/data").len(), 5);
    assert_eq!(answer.header("podium-warning"), "score_threshold: \"1\" has no effect here: every score comes back");
}

#[tokio::test]
async fn the_metrics_count_what_was_left_out() {
    let server = Server::start().await;
    server.rerank(&json!({"query": "q", "documents": DOCUMENTS, "min_score": 1})).await;
    server.until_metrics_say("podium_left_out_documents_total 5").await;
}
