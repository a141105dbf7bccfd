//! The reply of the shared dialect to a valid request, field by field.

use serde_json::{Value, json};

use crate::support::{Answer, Server};

/// Checks the numbers that differ from run to run, and replaces them by `null`.
fn without_numbers(answer: &Answer) -> Value {
    let mut reply = answer.json();
    for stage in ["queue", "tokenize", "forward", "total"] {
        let time = reply["meta"]["timing_ms"][stage].take();
        assert!(time.as_f64().is_some_and(|time| time >= 0.0), "{stage}: {time}");
    }
    for rows in ["results", "data"] {
        let mut last = 1.0;
        for row in reply[rows].as_array_mut().unwrap() {
            let score = row["relevance_score"].take().as_f64().unwrap();
            assert!((0.0..=1.0).contains(&score) && score <= last, "{score} after {last}");
            last = score;
            assert!(row["raw_score"].take().is_f64());
            for count in ["tokens", "tokens_read"] {
                assert!(row[count].take().as_u64().is_some_and(|count| count > 0));
            }
        }
    }
    assert!(reply["usage"]["prompt_tokens"].as_u64().is_some_and(|tokens| tokens > 0));
    assert_eq!(reply["usage"]["prompt_tokens"].take(), reply["usage"]["total_tokens"].take());
    reply
}

fn indices(reply: &Value) -> Vec<u64> {
    reply["results"].as_array().unwrap().iter().map(|row| row["index"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn a_ranking_has_every_field_and_nothing_else() {
    let server = Server::start().await;
    let answer = server.request(reqwest::Method::POST, "/v1/rerank").header("x-request-id", "my-request.1").json(
        &json!({"query": "q", "documents": ["one", {"text": "two", "title": "t"}], "priority": 0, "unknown": [1]}),
    );
    let answer = Answer::of(answer).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("x-request-id"), "my-request.1");
    assert_eq!(answer.header("podium-truncated-documents"), "0");
    assert!(answer.header("server-timing").starts_with("queue;dur="));
    let order = indices(&answer.json());
    assert_eq!(
        {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            sorted
        },
        [0, 1]
    );
    let rows: Vec<Value> = order
        .iter()
        .map(|index| {
            json!({"index": index, "relevance_score": null, "raw_score": null, "tokens": null, "tokens_read": null,
                "truncated": false})
        })
        .collect();
    assert_eq!(
        without_numbers(&answer),
        json!({
            "id": "my-request.1",
            "object": "rerank",
            "model": "podium-nano",
            "results": rows,
            "data": rows,
            "usage": {"prompt_tokens": null, "completion_tokens": 0, "total_tokens": null, "truncated_documents": 0},
            "meta": {
                "api_version": {"version": "2"},
                "billed_units": {"search_units": 1},
                "mode": "listwise",
                "slates": 1,
                "warnings": ["\"unknown\" is not known and was ignored"],
                "timing_ms": {"queue": null, "tokenize": null, "forward": null, "total": null},
            },
        })
    );
}

#[tokio::test]
async fn the_three_shared_paths_return_the_same_ranking() {
    let server = Server::start().await;
    let body = json!({"query": "q", "documents": ["one", "two", "three"]});
    let mut rankings = Vec::new();
    for path in ["/v1/rerank", "/v2/rerank", "/rerank"] {
        let answer = server.post(path, &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        rankings.push(answer.json()["results"].clone());
    }
    assert_eq!(rankings[0], rankings[1]);
    assert_eq!(rankings[0], rankings[2]);
}

#[tokio::test]
async fn documents_are_returned_as_they_were_sent_and_only_on_request() {
    let server = Server::start().await;
    let texts = ["  spaces \n kept ", "<|im_start|>system", "ünïcödé 🏆"];
    for asked in [json!(true), json!("true")] {
        let reply = server.rerank(&json!({"query": "q", "documents": texts, "return_documents": asked})).await.json();
        for (row, datum) in reply["results"].as_array().unwrap().iter().zip(reply["data"].as_array().unwrap()) {
            let text = texts[usize::try_from(row["index"].as_u64().unwrap()).unwrap()];
            assert_eq!(row["document"], json!({"text": text}));
            assert_eq!(datum["document"], json!(text));
        }
    }
    let answer = server.rerank(&json!({"query": "q", "documents": texts, "return_documents": "false"})).await;
    assert!(!answer.text.contains("\"document\""));
}

#[tokio::test]
async fn top_n_limits_the_results_and_a_larger_one_returns_all() {
    let server = Server::start().await;
    let documents = ["one", "two", "three", "four"];
    let all = indices(&server.rerank(&json!({"query": "q", "documents": documents})).await.json());
    assert_eq!(all.len(), 4);
    for (field, value, count) in [
        ("top_n", json!(2), 2),
        ("top_k", json!(3), 3),
        ("top_n", json!(1.0), 1),
        ("top_n", json!(null), 4),
        ("top_n", json!(99), 4),
        ("top_n", json!(1e30), 4),
    ] {
        let reply = server.rerank(&json!({"query": "q", "documents": documents, field: value})).await.json();
        assert_eq!(indices(&reply), all[..count], "{field} {value}");
        assert_eq!(reply["data"].as_array().unwrap().len(), count);
    }
}

#[tokio::test]
async fn documents_with_equal_scores_keep_the_order_of_the_request() {
    let server = Server::start().await;
    let body = json!({"query": "q", "documents": ["same", "same", "same"], "mode": "pointwise"});
    let reply = server.rerank(&body).await.json();
    assert_eq!(indices(&reply), [0, 1, 2]);
    assert_eq!(reply["meta"]["mode"], "pointwise");
    assert_eq!(reply["meta"]["slates"], 3);
}

#[tokio::test]
async fn a_document_that_was_cut_is_marked() {
    let server = Server::start().await;
    let long = "word ".repeat(50);
    let reply =
        server.rerank(&json!({"query": "q", "documents": [long, "short"], "max_tokens_per_doc": 10})).await.json();
    let row =
        |index: u64| reply["results"].as_array().unwrap().iter().find(|row| row["index"] == index).cloned().unwrap();
    assert_eq!(row(0)["truncated"], true);
    assert_eq!(row(0)["tokens_read"], 10);
    assert!(row(0)["tokens"].as_u64().unwrap() > 10);
    assert_eq!(row(1)["truncated"], false);
    assert_eq!(row(1)["tokens"], row(1)["tokens_read"]);
    assert_eq!(reply["usage"]["truncated_documents"], 1);
    assert_ne!(reply["meta"]["warnings"], json!([]));
}

#[tokio::test]
async fn scores_are_the_shortest_decimals_of_their_f32() {
    let server = Server::start().await;
    let answer = server.rerank(&json!({"query": "q", "documents": ["one", "two", "three", "four", "five"]})).await;
    for (place, _) in answer.text.match_indices("_score\":") {
        let number = &answer.text[place + 8..];
        let number = &number[..number.find(',').unwrap()];
        let score: f32 = number.parse().unwrap();
        assert_eq!(number, serde_json::to_string(&score).unwrap());
    }
}

#[tokio::test]
async fn two_hundred_documents_are_cut_into_slates() {
    let server = Server::start().await;
    let documents: Vec<String> = (0..200).map(|number| format!("document number {number}")).collect();
    let reply = server.rerank(&json!({"query": "q", "documents": documents})).await.json();
    assert_eq!(indices(&reply).len(), 200);
    assert_eq!(reply["meta"]["slates"], 4);
    assert_eq!(reply["meta"]["billed_units"]["search_units"], 2);
}

#[tokio::test]
async fn a_ranking_does_not_depend_on_other_requests() {
    let server = Server::start().await;
    let body = |query: &str| json!({"query": query, "documents": ["one", "two", "three"]});
    let alone = server.rerank(&body("the query")).await.json()["results"].clone();
    let others: Vec<_> = (0..8).map(|number| server.rerank_later(&body(&format!("query {number}")))).collect();
    let together = server.rerank(&body("the query")).await.json()["results"].clone();
    for request in others {
        assert_eq!(request.await.unwrap().status, 200);
    }
    assert_eq!(alone, together);
}

#[tokio::test]
async fn the_instruction_changes_the_scores() {
    let server = Server::start().await;
    let plain = server.rerank(&json!({"query": "q", "documents": ["one", "two"]})).await.json();
    let instructed = server
        .rerank(&json!({"query": "q", "documents": ["one", "two"], "instruction": "prefer the newest"}))
        .await
        .json();
    assert_ne!(plain["results"], instructed["results"]);
}

#[tokio::test]
async fn a_request_may_name_the_model() {
    let server = Server::start().await;
    for name in ["podium-nano", "vendor/rerank"] {
        let answer = server.rerank(&json!({"query": "q", "documents": ["one"], "model": name})).await;
        assert_eq!((answer.status, &answer.json()["model"]), (200, &json!(name)), "{}", answer.text);
    }
}

#[tokio::test]
async fn models_are_listed_as_openai_lists_them() {
    let server = Server::start().await;
    let answer = server.get("/v1/models").await;
    assert_eq!(answer.status, 200);
    let mut reply = answer.json();
    for row in reply["data"].as_array_mut().unwrap() {
        assert!(row["created"].take().as_u64().is_some_and(|time| time > 1_700_000_000));
    }
    let model = |name: &str| {
        json!({"id": name, "object": "model", "created": null, "owned_by": "podium", "model_type": "rerank",
            "state": "loaded", "memory_bytes": 0, "max_tokens_per_doc": 200})
    };
    assert_eq!(reply, json!({"object": "list", "data": [model("podium-nano"), model("vendor/rerank")]}));
    let mut one = server.get("/v1/models/vendor/rerank").await.json();
    one["created"].take();
    assert_eq!(one, model("vendor/rerank"));
    let message = "model: `other` is not served here; available: podium-nano, vendor/rerank; `podium serve --served-model-name` adds a name";
    server.get("/v1/models/other").await.assert_failure(404, "model_not_found", Some("model"), message);
}

#[tokio::test]
async fn health_and_ready_are_200() {
    let server = Server::start().await;
    for (path, status) in [("/health", "ok"), ("/ready", "ready")] {
        let answer = server.get(path).await;
        assert_eq!((answer.status, answer.json()), (200, json!({"status": status})));
        assert_eq!(answer.header("content-type"), "application/json");
    }
    let head = Answer::of(server.request(reqwest::Method::HEAD, "/health")).await;
    assert_eq!((head.status, head.text.as_str()), (200, ""));
}

#[tokio::test]
async fn the_root_lists_the_routes() {
    let server = Server::start().await;
    let answer = server.get("/").await;
    assert_eq!(answer.status, 200);
    let mut reply = answer.json();
    let routes = reply["routes"].take();
    assert_eq!(
        reply,
        json!({
            "name": "podium",
            "version": env!("CARGO_PKG_VERSION"),
            "model": "podium-nano",
            "family": "podium-nano",
            "routes": null,
        })
    );
    // Every listed route answers to the methods in its allow header.
    for route in routes.as_array().unwrap() {
        let path = route.as_str().unwrap().replace("{*model}", "podium-nano").replace("{file}", "swagger-ui.css");
        let answer = Answer::of(server.request(reqwest::Method::OPTIONS, &path)).await;
        assert_eq!(answer.status, 204, "{path}");
        let allowed = answer.header("allow").to_owned();
        for method in allowed.split(',').filter(|method| *method != "HEAD") {
            let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
            let status = Answer::of(server.request(method.clone(), &path)).await.status;
            assert_eq!(status, if method == "GET" { 200 } else { 415 }, "{method} {path}");
        }
    }
}
