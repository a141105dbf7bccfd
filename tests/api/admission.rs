//! Admission, order, deadlines and budgets of requests. The fake runtime holds batches; no test sleeps.

use podium::config::Settings;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::task::JoinHandle;

use crate::support::{Answer, Server, hang_up};

/// A limit on a batch's tokens that makes every pass a batch of its own.
const ONE_PASS: usize = 64;

/// A request with one document of `count` words.
fn words(count: usize) -> Value {
    json!({"query": "q", "documents": ["word ".repeat(count)]})
}

fn with(mut body: Value, more: &Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// Tokens that the model reads for a request.
async fn tokens_of(body: &Value) -> usize {
    let mut server = Server::start().await;
    let reply = server.rerank(body).await.json();
    server.stop();
    server.outcome().await;
    usize::try_from(reply["usage"]["prompt_tokens"].as_u64().unwrap()).unwrap()
}

async fn server(change: impl FnOnce(&mut Settings)) -> Server {
    Server::start_with(|settings| {
        settings.schedule.max_batch_tokens = ONE_PASS;
        change(settings);
    })
    .await
}

/// Waits until this many passes are in the queue.
async fn until_queued(server: &Server, passes: usize) {
    server.until_metrics_say(&format!(r#"podium_queue_passes{{model="podium-nano"}} {passes}"#)).await;
}

#[tokio::test]
async fn a_request_over_the_limit_on_tokens_is_429_with_a_time_to_retry() {
    let (body, more) = (words(100), words(120));
    let tokens = tokens_of(&body).await;
    let limit = tokens + 100;
    let server = server(|settings| settings.schedule.max_queued_tokens = limit).await;
    server.controls.hold();
    let first = server.rerank_later(&body);
    server.controls.held(1).await;

    // On arrival four bytes are a token: 600 bytes of document and one of query.
    let message = format!(
        "the server is at capacity: {tokens} tokens wait already, and 152 more are over the limit of {limit}; try again in 1 s"
    );
    let refused = server.rerank(&more).await;
    refused.assert_failure(429, "overloaded", None, &message);
    assert_eq!(refused.header("retry-after"), "1");

    server.controls.release();
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(server.rerank(&more).await.status, 200, "alone it fits");
}

#[tokio::test]
async fn a_request_that_never_fits_is_413_with_its_size_and_takes_no_device_time() {
    let body = json!({"query": "q", "documents": ["word ".repeat(200), "two"]});
    let tokens = tokens_of(&body).await;
    let refusing = server(|settings| settings.schedule.max_queued_tokens = tokens - 1).await;
    let message = format!(
        "the request has {tokens} tokens in 2 documents, over the {} that the queue takes in all; send fewer documents or \
         set max_tokens_per_doc",
        tokens - 1
    );
    refusing.rerank(&body).await.assert_failure(413, "too_many_tokens", Some("documents"), &message);
    assert_eq!(refusing.controls.calls(), 0);
    // A request over the limit by the estimate alone is admitted.
    let spaces = json!({"query": "q", "documents": [" ".repeat(20_000)]});
    assert_eq!(refusing.rerank(&spaces).await.status, 200);
    let fitting = server(|settings| settings.schedule.max_queued_tokens = tokens).await;
    assert_eq!(fitting.rerank(&body).await.status, 200);
}

#[tokio::test]
async fn a_more_urgent_request_overtakes_waiting_ones() {
    let [running, low, high] =
        [words(70), with(words(80), &json!({"priority": 999})), with(words(90), &json!({"priority": 998}))];
    let server = server(|_| {}).await;
    server.controls.hold();
    let mut answers = vec![server.rerank_later(&running)];
    server.controls.held(1).await;
    for (waiting, body) in [&low, &high].into_iter().enumerate() {
        answers.push(server.rerank_later(body));
        until_queued(&server, waiting + 1).await;
    }
    server.controls.release();
    for answer in answers {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    let expected = [tokens_of(&running).await, tokens_of(&high).await, tokens_of(&low).await];
    assert_eq!(server.controls.batches(), expected);
}

fn as_key(server: &Server, key: &str, body: &Value) -> RequestBuilder {
    server.request(Method::POST, "/v1/rerank").bearer_auth(key).json(body)
}

fn later(request: RequestBuilder) -> JoinHandle<Answer> {
    tokio::spawn(Answer::of(request))
}

/// A server with two API keys, and the file that holds them.
async fn with_keys(change: impl FnOnce(&mut Settings)) -> (Server, NamedTempFile) {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "key-of-many name=many\nkey-of-few name=few\n").unwrap();
    let server = server(|settings| {
        settings.auth.keys_file = file.path().display().to_string();
        change(settings);
    });
    (server.await, file)
}

#[tokio::test]
async fn a_key_with_many_requests_does_not_delay_one_with_few() {
    let (server, _file) = with_keys(|_| {}).await;
    server.controls.hold();
    let mut answers = vec![later(as_key(&server, "key-of-many", &words(70)))];
    server.controls.held(1).await;
    let queued =
        [("key-of-many", 71), ("key-of-many", 72), ("key-of-many", 73), ("key-of-few", 90), ("key-of-few", 91)];
    for (waiting, (key, count)) in queued.into_iter().enumerate() {
        answers.push(later(as_key(&server, key, &words(count))));
        until_queued(&server, waiting + 1).await;
    }
    server.controls.release();
    for answer in answers {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    let mut expected = Vec::new();
    for count in [70, 90, 71, 91, 72, 73] {
        expected.push(tokens_of(&words(count)).await);
    }
    assert_eq!(server.controls.batches(), expected);
}

#[tokio::test]
async fn a_key_cannot_fill_the_queue() {
    let (server, _file) = with_keys(|settings| settings.schedule.max_queued_requests = 4).await;
    server.controls.hold();
    let mut answers = vec![later(as_key(&server, "key-of-many", &words(1)))];
    server.controls.held(1).await;
    answers.push(later(as_key(&server, "key-of-many", &words(1))));
    until_queued(&server, 1).await;
    let refused = Answer::of(as_key(&server, "key-of-many", &words(1))).await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, "1"), "{}", refused.text);
    assert!(refused.text.contains("this key has its share of the queue: 2 requests"), "{}", refused.text);
    answers.push(later(as_key(&server, "key-of-few", &words(1))));
    until_queued(&server, 2).await;
    server.controls.release();
    for answer in answers {
        assert_eq!(answer.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_disconnect_removes_a_waiting_request_from_the_queue_immediately() {
    let server = server(|_| {}).await;
    server.controls.hold();
    let running = server.rerank_later(&words(10));
    server.controls.held(1).await;
    let waiting = server.rerank_later(&words(100));
    until_queued(&server, 1).await;
    hang_up(&waiting).await;
    // The device still runs the first request.
    for line in [
        r#"podium_queue_passes{model="podium-nano"} 0"#,
        r#"podium_queue_tokens{model="podium-nano"} 0"#,
        r#"podium_queue_requests{model="podium-nano"} 1"#,
    ] {
        server.until_metrics_say(line).await;
    }
    server.until_metrics_say(r#"podium_requests_total{kind="rank",route="/v1/rerank",status="499"} 1"#).await;
    server.controls.release();
    assert_eq!(running.await.unwrap().status, 200);
    assert_eq!(server.controls.passes(), 1);
}

#[tokio::test]
async fn a_deadline_in_the_queue_is_504_and_takes_no_device_time() {
    let server = server(|_| {}).await;
    server.controls.hold();
    let running = server.rerank_later(&words(10));
    server.controls.held(1).await;
    let message = "the request took longer than 60 ms: 0 of 1 passes had run, and 0 of 1 documents were read";
    let late = server.rerank(&with(words(20), &json!({"timeout_ms": 60}))).await;
    late.assert_failure(504, "deadline_exceeded", None, message);
    let header = server.request(Method::POST, "/v1/rerank").json(&words(20)).header("podium-timeout-ms", "60");
    Answer::of(header).await.assert_failure(504, "deadline_exceeded", None, message);
    let metrics = server.get("/metrics").await.text;
    for line in [
        r#"podium_queue_passes{model="podium-nano"} 0"#,
        r#"podium_queue_requests{model="podium-nano"} 1"#,
        r#"podium_requests_total{kind="rank",route="/v1/rerank",status="504"} 2"#,
        r#"podium_errors_total{kind="rank",code="own_deadline_exceeded"} 2"#,
        r#"podium_errors_total{kind="rank",code="deadline_exceeded"} 0"#,
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    server.controls.release();
    assert_eq!(running.await.unwrap().status, 200);
    assert_eq!(server.controls.passes(), 1);
}

#[tokio::test]
async fn a_deadline_between_passes_reports_the_progress() {
    let server = server(|settings| settings.schedule.timeout_seconds = 1).await;
    server.controls.hold();
    let documents: Vec<String> = (0..5).map(|count| "word ".repeat(80 + count)).collect();
    let answer = server.rerank_later(&json!({"query": "q", "documents": documents, "mode": "pointwise"}));
    for _ in 0..2 {
        server.controls.held(1).await;
        server.controls.let_through();
        while server.controls.calls() < 2 {
            tokio::task::yield_now().await;
        }
    }
    while server.controls.calls() < 3 {
        tokio::task::yield_now().await;
    }
    let message = "the request took longer than 1000 ms: 2 of 5 passes had run, and 2 of 5 documents were read";
    answer.await.unwrap().assert_failure(504, "deadline_exceeded", None, message);
    server.until_metrics_say(r#"podium_queue_passes{model="podium-nano"} 0"#).await;
    server.controls.release();
    assert_eq!(server.rerank(&words(1)).await.status, 200);
    assert_eq!(server.controls.passes(), 4, "the third pass was on the device, the last two never were");
}

/// A request with ten documents of about a hundred tokens each.
fn ten() -> Value {
    let documents: Vec<String> = (0..10).map(|index| format!("{index} {}", "word ".repeat(100))).collect();
    json!({"query": "q", "documents": documents})
}

#[tokio::test]
async fn a_token_budget_cuts_documents_before_it_skips_any() {
    let server = Server::start().await;
    let whole = tokens_of(&ten()).await;
    let answer = server.rerank(&with(ten(), &json!({"max_total_tokens": whole * 2 / 3}))).await;
    let reply = answer.json();
    assert_eq!(answer.status, 200, "{reply}");
    let used = usize::try_from(reply["usage"]["prompt_tokens"].as_u64().unwrap()).unwrap();
    assert!(used <= whole * 2 / 3 && used > whole * 5 / 9, "{used} of {whole}");
    let limit = reply["meta"]["budget"]["tokens_per_document"].as_u64().unwrap();
    let reason = format!("the whole request has {whole} tokens; max_total_tokens is {}", whole * 2 / 3);
    assert_eq!(
        reply["meta"]["budget"],
        json!({"tokens_per_document": limit, "documents_read": 10, "documents_left_in_input_order": 0, "reason": reason})
    );
    for row in reply["results"].as_array().unwrap() {
        assert!(row["tokens_read"].as_u64().unwrap() <= limit && row["truncated"] == true, "{row}");
    }
    assert_eq!(
        reply["meta"]["warnings"],
        json!([
            format!("budget: at most {limit} tokens of each document were read; {reason}"),
            format!("10 of 10 documents were cut to {limit} tokens: indices 0, 1, 2, 3, 4, 5, 6, 7, 8, 9")
        ])
    );
    assert_eq!(answer.header("podium-warnings"), "2");
}

#[tokio::test]
async fn a_smaller_budget_skips_the_last_documents_and_keeps_their_order() {
    let server = Server::start().await;
    let answer = server.rerank(&with(ten(), &json!({"max_total_tokens": 300}))).await;
    let reply = answer.json();
    let budget = &reply["meta"]["budget"];
    let read = usize::try_from(budget["documents_read"].as_u64().unwrap()).unwrap();
    assert!((1..10).contains(&read), "{reply}");
    assert_eq!(budget["documents_left_in_input_order"], 10 - read);
    assert!(reply["usage"]["prompt_tokens"].as_u64().unwrap() <= 300);
    let rows = reply["results"].as_array().unwrap();
    assert_eq!(rows.len(), 10);
    for (index, row) in rows.iter().enumerate().skip(read) {
        assert_eq!(
            (&row["index"], &row["tokens_read"], &row["relevance_score"]),
            (&json!(index), &json!(0), &json!(0.0))
        );
    }
    assert!(rows[..read].iter().all(|row| row["index"].as_u64().unwrap() < read as u64));
    assert!(answer.text.contains(&format!("budget: {} of 10 documents were not read", 10 - read)), "{reply}");

    // Without truncation, documents are read whole or skipped.
    let reply = server.rerank(&with(ten(), &json!({"max_total_tokens": 300, "truncation": false}))).await.json();
    assert_eq!(reply["meta"]["budget"]["tokens_per_document"], Value::Null, "{reply}");
    assert!(
        reply["results"]
            .as_array()
            .unwrap()
            .iter()
            .all(|row| { row["tokens_read"] == row["tokens"] || row["tokens_read"] == 0 })
    );

    // No document fits: the results are in the order of the request.
    let reply = server.rerank(&with(ten(), &json!({"max_total_tokens": 1}))).await.json();
    let order: Vec<u64> =
        reply["results"].as_array().unwrap().iter().map(|row| row["index"].as_u64().unwrap()).collect();
    assert_eq!(order, (0..10).collect::<Vec<u64>>());
    assert_eq!((&reply["usage"]["prompt_tokens"], &reply["meta"]["slates"]), (&json!(0), &json!(0)));
}

#[tokio::test]
async fn a_sufficient_budget_is_reported_and_no_budget_is_not() {
    let server = Server::start().await;
    let reply = server.rerank(&with(ten(), &json!({"max_total_tokens": 100_000}))).await.json();
    assert_eq!(reply["meta"]["budget"]["documents_read"], 10);
    assert_eq!(reply["meta"]["warnings"], json!([]));
    let plain = server.rerank(&ten()).await.json();
    assert!(plain["meta"].get("budget").is_none());
    assert_eq!(reply["results"], plain["results"]);
}

#[tokio::test]
async fn a_time_budget_uses_the_measured_throughput() {
    let server = Server::start().await;
    let reply = server.rerank(&with(ten(), &json!({"max_latency_ms": 5000}))).await.json();
    let unknown = "max_latency_ms was ignored: throughput has not been measured yet";
    assert_eq!(reply["meta"]["budget"]["reason"], unknown);
    assert_eq!(reply["meta"]["warnings"], json!([unknown]));
    // Now throughput is measured, and tokenizing a thousand documents takes longer than a millisecond.
    let documents = vec!["word ".repeat(200); 1000];
    let body = json!({"query": "q", "documents": documents, "max_latency_ms": 1});
    let reply = server.rerank(&body).await.json();
    let budget = &reply["meta"]["budget"];
    assert_eq!((&budget["documents_read"], &budget["documents_left_in_input_order"]), (&json!(0), &json!(1000)));
    let reason = budget["reason"].as_str().unwrap();
    assert!(reason.contains("tokens a second") && reason.contains("of max_latency_ms 1 leave room for 0"), "{reason}");
    let strict = server.rerank(&with(body, &json!({"strict": true}))).await;
    assert_eq!((strict.status, &strict.json()["error"]["param"]), (422, &json!("max_latency_ms")), "{}", strict.text);
}

#[tokio::test]
async fn a_strict_budget_is_kept_or_rejected() {
    let server = Server::start().await;
    let whole = tokens_of(&ten()).await;
    let strict = |tokens: usize| with(ten(), &json!({"max_total_tokens": tokens, "strict": true}));
    assert_eq!(server.rerank(&strict(whole)).await.status, 200);
    let message = format!(
        "max_total_tokens: is too small, and strict is set: the whole request has {whole} tokens; max_total_tokens is {}",
        whole - 1
    );
    let refused = server.rerank(&strict(whole - 1)).await;
    refused.assert_failure(422, "over_budget", Some("max_total_tokens"), &message);
    assert_eq!(server.controls.calls(), 1);
}

#[tokio::test]
async fn pairs_take_no_budget() {
    let server = Server::start().await;
    let pairs = json!({"text_1": ["a", "b"], "text_2": ["c", "d"], "max_total_tokens": 1000});
    let message = "max_total_tokens: a budget is for one list of documents, not for pairs";
    server.post("/v1/score", &pairs).await.assert_failure(422, "invalid_value", Some("max_total_tokens"), message);
    // A list of scores cannot say which documents were not read.
    let list = json!({"text_1": "a", "text_2": ["c", "d"], "max_total_tokens": 1});
    let refused = server.post("/v1/score", &list).await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (422, &json!("over_budget")), "{}", refused.text);
}

#[tokio::test]
async fn an_invalid_priority_timeout_or_budget_is_named() {
    let server = Server::start().await;
    for (field, value, message) in [
        ("priority", json!(1000), "priority: is 1000; it must be between 0, the most urgent, and 999"),
        ("timeout_ms", json!(0), "timeout_ms: is 0; it must be at least 1"),
        ("max_latency_ms", json!(0), "max_latency_ms: is 0; it must be at least 1"),
        ("max_total_tokens", json!("few"), "max_total_tokens: expected a whole number, found the string \"few\""),
        ("strict", json!(2), "strict: expected true or false, found the number 2"),
    ] {
        let answer = server.rerank(&with(words(1), &json!({field: value}))).await;
        answer.assert_failure(422, "invalid_value", Some(field), message);
    }
    let header = server.request(Method::POST, "/v1/rerank").json(&words(1)).header("podium-priority", "high");
    let message = "priority: the header podium-priority is not a whole number";
    Answer::of(header).await.assert_failure(422, "invalid_value", Some("priority"), message);
}

#[tokio::test]
async fn a_body_that_would_grow_too_large_is_rejected_before_it_is_parsed() {
    let server = Server::start_with(|settings| settings.server.max_parsing_bytes = 1 << 20).await;
    let text = json!({"query": "q", "documents": ["word ".repeat(30_000)]});
    assert_eq!(server.rerank(&text).await.status, 200, "a text needs about as much memory as it has bytes");
    let answer = server.rerank(&json!({"query": "q", "documents": vec![1; 50_000]})).await;
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    answer.assert_failure(413, "body_too_complex", None, &message);
    assert!(message.starts_with("the body holds 5") && message.ends_with("over the limit of 1048576"), "{message}");
}
