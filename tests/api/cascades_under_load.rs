//! Cascades whose stages are busy, fail or are not loaded, and their budgets and deadlines.

use podium::models::LoadWhen;
use podium::runtime::RuntimeError;
use reqwest::Method;
use serde_json::json;

use crate::cascaded::{ADMIN, Cascaded, body, reports, stages, warnings, with};
use crate::support::{Answer, hang_up};

#[tokio::test]
async fn a_stage_that_is_not_loaded_leaves_the_order_before_it_or_is_503_if_strict() {
    let cascaded = Cascaded::start_with(LoadWhen::Off, |_| {}).await;
    let answer = cascaded.rerank(&body("careful", 6)).await;
    assert_eq!(stages(&answer), [1; 6]);
    assert_eq!(reports(&answer), [(1, 6, None), (2, 0, Some("not_loaded".to_owned()))]);
    let problem = "model: `large` is not loaded until an administrator loads it; try again in 60 s";
    assert_eq!(warnings(&answer), [format!("stage 2 (`large`) did not rank: {problem}; the order before it stands")]);
    let line =
        r#"podium_cascade_stages_skipped_total{cascade="careful",stage="2",model="large",reason="not_loaded"} 1"#;
    cascaded.server.until_metrics_say(line).await;

    let strict = cascaded.rerank(&with(body("careful", 6), &json!({"strict": true}))).await;
    strict.assert_failure(503, "model_unavailable", Some("model"), problem);
    // A list that the last stage alone would rank falls back to the first one.
    let two = cascaded.rerank(&body("careful", 2)).await;
    assert_eq!((stages(&two), reports(&two).len()), (vec![1, 1], 2), "{}", two.text);
    let pairs = json!({"model": "careful", "queries": ["q", "r"], "documents": ["a", "b"]});
    assert_eq!(cascaded.server.post("/score", &pairs).await.status, 503, "a score is strict");

    let loaded = cascaded.administrate(Method::POST, "/admin/models/careful/load").await;
    assert_eq!((loaded.status, loaded.json()["state"].as_str()), (200, Some("loaded")), "{}", loaded.text);
    assert_eq!(stages(&cascaded.rerank(&body("careful", 6)).await), [2, 2, 1, 1, 1, 1]);
    assert_eq!(cascaded.server.post("/score", &pairs).await.status, 200);
}

#[tokio::test]
async fn a_stage_that_loads_on_demand_starts_to_load() {
    let cascaded = Cascaded::start_with(LoadWhen::OnDemand, |_| {}).await;
    let first = cascaded.rerank(&body("careful", 6)).await;
    assert!(warnings(&first)[0].contains("`large` is being loaded; try again in 5 s"), "{}", first.text);
    cascaded.server.until_metrics_say(r#"podium_queue_requests{model="large"} 0"#).await;
    assert_eq!(stages(&cascaded.rerank(&body("careful", 6)).await), [2, 2, 1, 1, 1, 1]);
}

#[tokio::test]
async fn a_stage_that_fails_leaves_the_order_before_it_or_is_500_if_strict() {
    let cascaded = Cascaded::start().await;
    cascaded.large().fail_next(RuntimeError::Device("no kernel".to_owned()));
    let answer = cascaded.rerank(&body("careful", 6)).await;
    assert_eq!(stages(&answer), [1; 6]);
    assert_eq!(warnings(&answer), ["stage 2 (`large`) did not rank: internal error; the order before it stands"]);
    cascaded.large().fail_next(RuntimeError::Device("no kernel".to_owned()));
    let strict = cascaded.rerank(&with(body("careful", 6), &json!({"strict": true}))).await;
    strict.assert_failure(500, "internal_error", None, "internal error");
    cascaded.server.controls.fail_next(RuntimeError::Device("no kernel".to_owned()));
    let first = cascaded.rerank(&body("careful", 6)).await;
    first.assert_failure(500, "internal_error", None, "internal error");
    // With scores of the caller, the models after it still rank.
    cascaded.server.controls.fail_next(RuntimeError::Device("no kernel".to_owned()));
    let scores = json!({"scores": [6, 5, 4, 3, 2, 1]});
    assert_eq!(stages(&cascaded.rerank(&with(body("scored", 6), &scores)).await), [2, 2, 0, 0, 0, 0]);
    cascaded.until_idle().await;
}

#[tokio::test]
async fn a_deadline_in_a_later_stage_is_504_and_frees_everything() {
    let cascaded = Cascaded::start().await;
    cascaded.large().hold();
    let body = with(body("careful", 6), &json!({"timeout_ms": 300}));
    let answer = cascaded.rerank(&body).await;
    let message = "the request took longer than 300 ms: 1 of 2 passes had run, and 6 of 6 documents were read";
    answer.assert_failure(504, "deadline_exceeded", None, message);
    cascaded.large().release();
    cascaded.until_idle().await;
    assert_eq!(cascaded.rerank(&body).await.status, 200);
}

#[tokio::test]
async fn a_client_that_disconnects_in_a_later_stage_frees_everything() {
    let cascaded = Cascaded::start().await;
    cascaded.large().hold();
    let request = cascaded.server.rerank_later(&body("careful", 6));
    cascaded.large().held(1).await;
    hang_up(&request).await;
    cascaded.server.until_metrics_say(r#"podium_requests_total{kind="rank",route="/v1/rerank",status="499"} 1"#).await;
    cascaded.large().release();
    cascaded.until_idle().await;
    assert_eq!(cascaded.rerank(&body("careful", 6)).await.status, 200);
}

#[tokio::test]
async fn a_budget_decides_how_many_documents_a_later_stage_ranks() {
    let cascaded = Cascaded::start().await;
    let body = with(body("careful", 40), &json!({"cascade": {"keep": [20]}}));
    let whole = cascaded.rerank(&body).await;
    let used = whole.json()["meta"]["cascade"]["stages"].clone();
    let tokens = |stage: usize| used[stage]["tokens"].as_u64().unwrap();
    assert_eq!(stages(&whole).iter().filter(|stage| **stage == 2).count(), 20);

    let half = tokens(0) + tokens(1) / 2;
    let answer = cascaded.rerank(&with(body.clone(), &json!({"max_total_tokens": half}))).await;
    let reached = stages(&answer).iter().filter(|stage| **stage == 2).count();
    assert!((5..=12).contains(&reached), "{reached} of 20");
    assert!(answer.json()["usage"]["prompt_tokens"].as_u64().unwrap() <= half, "{}", answer.text);
    assert_eq!(answer.json()["meta"]["budget"]["documents_read"], 40);
    let warning = format!("budget: stage 2 (`large`) ranked {reached} of 20 documents");
    assert_eq!(warnings(&answer), [warning]);

    let answer = cascaded.rerank(&with(body.clone(), &json!({"max_total_tokens": tokens(0) + 3}))).await;
    assert_eq!(reports(&answer)[1], (2, 0, Some("budget".to_owned())));
    assert_eq!(warnings(&answer), ["budget: nothing was left for stage 2"]);
    let strict = with(body.clone(), &json!({"max_total_tokens": half, "strict": true}));
    let refused = cascaded.rerank(&strict).await;
    assert_eq!(
        (refused.status, refused.json()["error"]["code"].as_str()),
        (422, Some("over_budget")),
        "{}",
        refused.text
    );
    // A latency is planned with the throughput of each model; a minute is enough for everything.
    let answer = cascaded.rerank(&with(body, &json!({"max_latency_ms": 60_000}))).await;
    assert_eq!(stages(&answer).iter().filter(|stage| **stage == 2).count(), 20, "{}", answer.text);
    cascaded.until_idle().await;
}

#[tokio::test]
async fn admission_counts_the_tokens_of_all_stages_once() {
    let long = |count: usize| {
        let documents: Vec<String> = (0..count).map(|index| format!("{index} {}", "word ".repeat(60))).collect();
        json!({"model": "careful", "query": "q", "documents": documents, "cascade": {"keep": [1.0], "stop_when_sure": 1.0}})
    };
    let tokens = {
        let cascaded = Cascaded::start().await;
        usize::try_from(cascaded.rerank(&long(4)).await.json()["usage"]["prompt_tokens"].as_u64().unwrap()).unwrap()
    };
    // Room for the whole request, and not for half of it more.
    let cascaded = Cascaded::start_with(LoadWhen::Start, |settings| {
        settings.schedule.max_queued_tokens = tokens + tokens / 3;
    })
    .await;
    cascaded.server.controls.hold();
    let accepted = cascaded.server.rerank_later(&long(4));
    cascaded.server.controls.held(1).await;
    let refused = cascaded.rerank(&long(2)).await;
    assert_eq!(
        (refused.status, refused.json()["error"]["code"].as_str()),
        (429, Some("overloaded")),
        "{}",
        refused.text
    );
    assert_ne!(refused.header("retry-after"), "");
    cascaded.large().hold();
    cascaded.server.controls.release();
    cascaded.large().held(1).await;
    // The second stage's tokens are left.
    assert_eq!(cascaded.rerank(&long(4)).await.status, 429);
    cascaded.large().release();
    assert_eq!(stages(&accepted.await.unwrap()), [2; 4]);
    cascaded.until_idle().await;
    assert_eq!(cascaded.rerank(&long(4)).await.status, 200);
}

#[tokio::test]
async fn unloading_a_model_waits_for_cascades_that_will_need_it() {
    let cascaded = Cascaded::start().await;
    cascaded.server.controls.hold();
    let accepted = cascaded.server.rerank_later(&body("careful", 6));
    cascaded.server.controls.held(1).await;
    let unload = cascaded.server.request(Method::POST, "/admin/models/large/unload").bearer_auth(ADMIN);
    let unloading = tokio::spawn(Answer::of(unload));
    cascaded.server.until_metrics_say(r#"podium_queue_requests{model="large"} 1"#).await;
    loop {
        let listed = cascaded.administrate(Method::GET, "/admin/models").await.json();
        if listed["data"][1]["state"] == "unloading" {
            break;
        }
    }
    assert!(!unloading.is_finished());
    cascaded.server.controls.release();
    assert_eq!(stages(&accepted.await.unwrap()), [2, 2, 1, 1, 1, 1]);
    assert_eq!(unloading.await.unwrap().json()["state"], "unloaded");
}

#[tokio::test]
async fn a_shutdown_finishes_all_stages_of_accepted_requests() {
    let mut cascaded = Cascaded::start().await;
    cascaded.server.controls.hold();
    let accepted = cascaded.server.rerank_later(&body("careful", 6));
    cascaded.server.controls.held(1).await;
    cascaded.server.stop();
    cascaded.server.until_metrics_say("podium_ready 0").await;
    cascaded.rerank(&body("careful", 6)).await.assert_failure(
        503,
        "shutting_down",
        None,
        "the server is shutting down and takes no new requests",
    );
    cascaded.server.controls.release();
    assert_eq!(stages(&accepted.await.unwrap()), [2, 2, 1, 1, 1, 1]);
    assert_eq!(cascaded.server.outcome().await, podium::app::ShutdownOutcome::Clean);
}
