//! Passages, several orders and minimum scores under deadlines, disconnects, budgets and overload.
//! Admission counts what will run.

use podium::config::Settings;
use serde_json::{Value, json};

use crate::cascaded::{Cascaded, body, with};
use crate::combinations::chunked;
use crate::support::{Server, hang_up};

/// Requests to a server of one model, and whether its family depends on the order: each costs several
/// times what its documents alone would.
fn costly() -> Vec<(&'static str, Value)> {
    vec![
        ("podium-nano", with(chunked("podium-nano", 3), &json!({"min_score": 0.5}))),
        ("jina-v3", with(body("jina-v3", 20), &json!({"stability": 4}))),
        ("jina-v3", with(chunked("jina-v3", 3), &json!({"stability": 4, "chunk_tokens": 100}))),
    ]
}

async fn server(family: &str, change: impl FnOnce(&mut Settings)) -> Server {
    Server::of_family(family, change).await
}

/// Tokens that a model reads for a request.
async fn tokens_of(family: &str, request: &Value) -> usize {
    let answer = server(family, |_| {}).await.rerank(request).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    usize::try_from(answer.json()["usage"]["prompt_tokens"].as_u64().unwrap()).unwrap()
}

/// The estimate by which a request is rejected while another one with `tokens` tokens runs.
async fn rejected_estimate(server: &Server, request: &Value, tokens: usize, limit: usize) -> usize {
    let refused = server.rerank(request).await;
    let start = format!("the server is at capacity: {tokens} tokens wait already, and ");
    let message = refused.json()["message"].as_str().unwrap().to_owned();
    let rest = message.strip_prefix(&start).unwrap_or_else(|| panic!("{message:?} does not begin with {start:?}"));
    let (estimate, _) = rest.split_once(" more are over the limit").unwrap();
    let message = format!("{start}{estimate} more are over the limit of {limit}; try again in 1 s");
    refused.assert_failure(429, "overloaded", None, &message);
    estimate.parse().unwrap()
}

#[tokio::test]
async fn a_deadline_is_504_and_frees_everything() {
    for (family, request) in costly() {
        let server = server(family, |_| {}).await;
        let documents = request["documents"].as_array().unwrap().len();
        let passes = server.rerank(&request).await;
        assert_eq!(passes.status, 200, "{}", passes.text);
        let passes = server.controls.passes();
        server.controls.hold();
        let late = server.rerank(&with(request.clone(), &json!({"timeout_ms": 200}))).await;
        let message = format!(
            "the request took longer than 200 ms: 0 of {passes} passes had run, and 0 of {documents} documents were read"
        );
        late.assert_failure(504, "deadline_exceeded", None, &message);
        server.controls.release();
        server.until_metrics_say(&format!(r#"podium_queue_requests{{model="{family}"}} 0"#)).await;
        assert_eq!(server.rerank(&request).await.status, 200);
    }
}

#[tokio::test]
async fn a_client_that_disconnects_frees_everything() {
    for (family, request) in costly() {
        let server = server(family, |_| {}).await;
        server.controls.hold();
        let sent = server.rerank_later(&request);
        server.controls.held(1).await;
        hang_up(&sent).await;
        server.until_metrics_say(r#"podium_requests_total{kind="rank",route="/v1/rerank",status="499"} 1"#).await;
        server.controls.release();
        for gauge in ["requests", "passes", "tokens"] {
            server.until_metrics_say(&format!(r#"podium_queue_{gauge}{{model="{family}"}} 0"#)).await;
        }
        assert_eq!(server.rerank(&request).await.status, 200);
    }
}

#[tokio::test]
async fn an_overloaded_server_rejects_by_what_will_be_read() {
    for (family, request) in costly() {
        let tokens = tokens_of(family, &request).await;
        let orders = request["stability"].as_u64().map_or(1, |orders| usize::try_from(orders).unwrap());
        let texts: usize =
            request["documents"].as_array().unwrap().iter().map(|text| text.as_str().unwrap().len()).sum();
        // Room for one of two such requests.
        let limit = tokens + orders * texts / 8;
        let server = server(family, |settings| settings.schedule.max_queued_tokens = limit).await;
        server.controls.hold();
        let running = server.rerank_later(&request);
        server.controls.held(1).await;
        // The running request counts what its passes hold; the rejected one is estimated from its texts, four
        // bytes a token.
        let estimate = rejected_estimate(&server, &request, tokens, limit).await;
        let ratio = estimate as f64 / (orders * texts / 4) as f64;
        assert!((1.0..1.2).contains(&ratio), "{family}: {estimate} for {orders} orders of {texts} bytes");
        server.controls.release();
        assert_eq!(running.await.unwrap().status, 200);
        assert_eq!(server.rerank(&request).await.status, 200, "alone it fits");
        let tight = self::server(family, |settings| settings.schedule.max_queued_tokens = tokens - 1).await;
        let refused = tight.rerank(&request).await;
        assert_eq!((refused.status, tight.controls.calls()), (413, 0), "{}", refused.text);
    }
}

#[tokio::test]
async fn a_budget_counts_once_in_whichever_orders_it_is_spent() {
    let request = body("jina-v3", 60);
    let tokens = tokens_of("jina-v3", &request).await;
    let limit = tokens + tokens / 2;
    let server = server("jina-v3", |settings| settings.schedule.max_queued_tokens = limit).await;
    let whole = with(request.clone(), &json!({"stability": 4}));
    let more = with(whole.clone(), &json!({"max_total_tokens": tokens / 3}));
    server.controls.hold();
    let running = server.rerank_later(&request);
    server.controls.held(1).await;
    // Four orders are over the limit; the budget is not.
    assert_eq!(server.rerank(&whole).await.status, 429);
    let second = server.rerank_later(&more);
    server.until_metrics_say(r#"podium_queue_requests{model="jina-v3"} 2"#).await;
    server.controls.release();
    assert_eq!(running.await.unwrap().status, 200);
    let answer = second.await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text);
    let used = answer.json()["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(used > 0 && used <= tokens as u64 / 3, "{used} of {tokens}");
}

#[tokio::test]
async fn a_budget_for_passages_and_orders_is_kept() {
    for (family, request) in costly() {
        let tokens = tokens_of(family, &request).await;
        let server = server(family, |_| {}).await;
        for budget in [tokens, tokens * 2 / 3, tokens / 8, 1] {
            let answer = server.rerank(&with(request.clone(), &json!({"max_total_tokens": budget}))).await;
            assert_eq!(answer.status, 200, "{family}, {budget}: {}", answer.text);
            let used = answer.json()["usage"]["prompt_tokens"].as_u64().unwrap();
            assert!(used <= budget as u64, "{family}: {used} of {budget}");
            let is_less = !answer.json()["meta"]["warnings"].as_array().unwrap().is_empty();
            assert_eq!(is_less, budget < tokens, "{family}, {budget}: {}", answer.text);
        }
        let strict = server.rerank(&with(request, &json!({"max_total_tokens": tokens / 8, "strict": true}))).await;
        assert_eq!((strict.status, &strict.json()["error"]["code"]), (422, &json!("over_budget")), "{}", strict.text);
    }
}

#[tokio::test]
async fn admission_counts_the_passages_and_the_orders_of_every_stage() {
    let request = with(chunked("careful", 4), &json!({"chunk_tokens": 100, "stability": 2}));
    let stages = {
        let cascaded = Cascaded::start_in_order(|_| {}).await;
        cascaded.rerank(&request).await.json()["meta"]["cascade"]["stages"].clone()
    };
    let tokens = |stage: usize| usize::try_from(stages[stage]["tokens"].as_u64().unwrap()).unwrap();
    let limit = tokens(0) + tokens(1);
    let cascaded = Cascaded::start_in_order(|settings| settings.schedule.max_queued_tokens = limit).await;
    cascaded.server.controls.hold();
    let running = cascaded.server.rerank_later(&request);
    cascaded.server.controls.held(1).await;
    // The first stage's passes are counted exactly, the second stage's by an estimate: two orders of two
    // documents, four bytes a token.
    let refused = cascaded.rerank(&request).await;
    assert_eq!(refused.status, 429, "{}", refused.text);
    let text = refused.json()["message"].as_str().unwrap().to_owned();
    let counted: usize = text.split(' ').find_map(|word| word.parse().ok()).unwrap();
    let two_documents = request["documents"][0].as_str().unwrap().len() * 2;
    let ratio = (counted - tokens(0)) as f64 / (2 * two_documents / 4) as f64;
    assert!((1.0..1.2).contains(&ratio), "{text}: {} of them for the first stage", tokens(0));
    cascaded.large().hold();
    cascaded.server.controls.release();
    cascaded.large().held(1).await;
    // Now the second stage's passes are counted, and the first stage's no more.
    let refused = cascaded.rerank(&request).await;
    assert!(refused.text.contains(&format!("at capacity: {} tokens wait already", tokens(1))), "{}", refused.text);
    cascaded.large().release();
    assert_eq!(running.await.unwrap().status, 200);
    cascaded.until_idle().await;
    assert_eq!(cascaded.rerank(&request).await.status, 200);
}

#[tokio::test]
async fn the_passages_of_one_stage_are_bounded() {
    let cascaded =
        Cascaded::start_with(podium::models::LoadWhen::Start, |settings| settings.limits.max_passages = 39).await;
    // The canary has run on the loaded model.
    let calls = cascaded.server.controls.calls() + cascaded.large().calls();
    let refused = cascaded.rerank(&chunked("careful", 4)).await;
    let message = "documents: 40 passages of 4 documents are over the limit of 39 in one request (limits.max_passages); \
                   send fewer or shorter documents, or set max_chunks_per_doc";
    refused.assert_failure(422, "too_many_documents", Some("documents"), message);
    assert_eq!(cascaded.server.controls.calls() + cascaded.large().calls(), calls);
    let fewer = with(chunked("careful", 4), &json!({"max_chunks_per_doc": 9}));
    assert_eq!(cascaded.rerank(&fewer).await.status, 200);
    cascaded.until_idle().await;
}
