//! Cascades: several models in turn, as one request.

use podium::models::LoadWhen;
use reqwest::Method;
use serde_json::{Value, json};

use crate::cascaded::{Cascaded, body, reports, rows, stages, warnings, with};

#[tokio::test]
async fn documents_that_reach_a_later_stage_stand_before_the_others() {
    let cascaded = Cascaded::start().await;
    let answer = cascaded.rerank(&body("careful", 6)).await;
    let rows = rows(&answer);
    assert_eq!(stages(&answer), [2, 2, 1, 1, 1, 1]);
    assert!(rows.is_sorted_by(|left, right| left.2 >= right.2), "{rows:?}");
    assert!(rows.iter().all(|row| (0.0..=1.0).contains(&row.2)), "{rows:?}");
    assert!(rows[2..].is_sorted_by(|left, right| left.3 >= right.3), "raw scores of stage 1 are its own: {rows:?}");

    // The same documents as on the models themselves.
    let alone = cascaded.rerank(&body("podium-nano", 6)).await.json();
    let order: Vec<u64> =
        alone["results"].as_array().unwrap().iter().map(|row| row["index"].as_u64().unwrap()).collect();
    let mut kept = [rows[0].0, rows[1].0];
    kept.sort_unstable();
    let mut best = [order[0], order[1]];
    best.sort_unstable();
    assert_eq!(kept, best);
    assert_eq!(rows[2..].iter().map(|row| row.0).collect::<Vec<_>>(), order[2..]);

    let reply = answer.json();
    assert_eq!((&reply["model"], &reply["meta"]["mode"]), (&json!("careful"), &json!("listwise")));
    let used = &reply["meta"]["cascade"]["stages"];
    let tokens: Vec<u64> = used.as_array().unwrap().iter().map(|stage| stage["tokens"].as_u64().unwrap()).collect();
    assert_eq!(reply["usage"]["prompt_tokens"].as_u64().unwrap(), tokens.iter().sum::<u64>());
    let times: Vec<f64> = used.as_array().unwrap().iter().map(|stage| stage["time_ms"].as_f64().unwrap()).collect();
    let expected = json!([
        {"stage": 1, "model": "podium-nano", "documents": 6, "tokens": tokens[0], "time_ms": times[0]},
        {"stage": 2, "model": "large", "documents": 2, "tokens": tokens[1], "time_ms": times[1]},
    ]);
    assert_eq!(used, &expected);
    let total = reply["meta"]["timing_ms"]["total"].as_f64().unwrap();
    assert!(times.iter().all(|time| *time > 0.0) && times.iter().sum::<f64>() <= total, "{times:?} of {total}");
    assert_eq!(reply["meta"]["warnings"], json!([]));
    for line in [
        r#"podium_cascade_documents_total{cascade="careful",stage="1",model="podium-nano"} 6"#.to_owned(),
        r#"podium_cascade_documents_total{cascade="careful",stage="2",model="large"} 2"#.to_owned(),
        format!(r#"podium_cascade_tokens_total{{cascade="careful",stage="2",model="large"}} {}"#, tokens[1]),
        "podium_documents_total 12".to_owned(),
    ] {
        cascaded.server.until_metrics_say(&line).await;
    }
    cascaded.until_idle().await;
}

#[tokio::test]
async fn top_n_cuts_the_whole_list_and_other_models_have_no_stages() {
    let cascaded = Cascaded::start().await;
    let answer = cascaded.rerank(&with(body("vendor/careful", 6), &json!({"top_n": 3}))).await;
    assert_eq!(stages(&answer), [2, 2, 1]);
    assert_eq!(answer.json()["model"], "vendor/careful");
    let plain = cascaded.rerank(&body("large", 3)).await.json();
    assert!(plain["results"][0].get("stage").is_none() && plain["meta"].get("cascade").is_none(), "{plain}");
}

#[tokio::test]
async fn a_stage_that_would_keep_every_document_is_skipped() {
    let cascaded = Cascaded::start().await;
    for documents in [1, 2] {
        let before = cascaded.server.controls.calls();
        let answer = cascaded.rerank(&body("careful", documents)).await;
        assert_eq!(stages(&answer), vec![2; documents]);
        let skipped = (1, 0, Some("keeps_all".to_owned()));
        assert_eq!(reports(&answer), [skipped, (2, documents as u64, None)]);
        assert_eq!(cascaded.server.controls.calls(), before, "the first model read nothing");
    }
}

#[tokio::test]
async fn a_thousand_documents_are_ranked_in_stages() {
    let cascaded = Cascaded::start().await;
    let answer = cascaded.rerank(&with(body("careful", 1000), &json!({"cascade": {"keep": [0.1]}}))).await;
    let stages = stages(&answer);
    assert_eq!((stages.len(), stages.iter().filter(|stage| **stage == 2).count()), (1000, 100));
    assert!(rows(&answer).is_sorted_by(|left, right| left.2 >= right.2));
    assert!(answer.json()["meta"]["cascade"]["tokens_saved"].as_u64().is_some());
}

#[tokio::test]
async fn a_request_chooses_what_is_kept() {
    let cascaded = Cascaded::start().await;
    for (keep, reached) in [(json!([4]), 4), (json!([0.5]), 3), (json!([1.0]), 6), (json!([1]), 1)] {
        let answer = cascaded.rerank(&with(body("careful", 6), &json!({"cascade": {"keep": keep}}))).await;
        assert_eq!(stages(&answer).iter().filter(|stage| **stage == 2).count(), reached, "{keep}");
    }
    for (more, param, message) in [
        (
            json!({"cascade": {"keep": [1, 2, 3]}}),
            "cascade.keep",
            "cascade.keep: has 3 entries; `careful` has 2 models and takes 1, or 2 if the caller's scores come first",
        ),
        (
            json!({"cascade": {"keep": [3, 2]}}),
            "scores",
            "scores: are missing; the first of 2 entries of cascade.keep is for them",
        ),
        (json!({"scores": [1, 2]}), "scores", "scores: has 2 entries for 6 documents; give one for each"),
        (
            json!({"cascade": {"keep": [0]}}),
            "cascade.keep[0]",
            "cascade.keep[0]: is 0; give a whole number of at least 1, or a share such as 0.25, at most 1.0",
        ),
    ] {
        let answer = cascaded.rerank(&with(body("careful", 6), &more)).await;
        answer.assert_failure(422, "invalid_value", Some(param), message);
    }
}

#[tokio::test]
async fn the_callers_scores_are_stage_zero() {
    let cascaded = Cascaded::start().await;
    let scores = json!({"scores": [0.5, 9, -3, 7, 8, 1]});
    let answer = cascaded.rerank(&with(body("scored", 6), &scores)).await;
    assert_eq!(stages(&answer), [2, 2, 1, 0, 0, 0]);
    let mut read: Vec<u64> = rows(&answer)[..3].iter().map(|row| row.0).collect();
    read.sort_unstable();
    assert_eq!(read, [1, 3, 4], "the three with the highest scores");
    let unread: Vec<_> = rows(&answer)[3..].to_vec();
    assert_eq!(unread, [(5, 0, 0.0, 1.0), (0, 0, 0.0, 0.5), (2, 0, 0.0, -3.0)]);
    assert_eq!(reports(&answer), [(0, 6, None), (1, 3, None), (2, 2, None)]);

    // Scores in the documents, a cascade without a stage for them, and a single model.
    let documents: Vec<Value> =
        [0.5, 9.0, -3.0, 7.0, 8.0, 1.0].iter().map(|score| json!({"text": "a document", "score": score})).collect();
    let in_documents = json!({"model": "scored", "query": "q", "documents": documents});
    assert_eq!(stages(&cascaded.rerank(&in_documents).await), [2, 2, 1, 0, 0, 0]);
    let more = with(scores.clone(), &json!({"cascade": {"keep": [4, 1]}}));
    assert_eq!(stages(&cascaded.rerank(&with(body("careful", 6), &more)).await), [2, 1, 1, 1, 0, 0]);
    let more = with(scores, &json!({"cascade": {"keep": [2]}}));
    assert_eq!(stages(&cascaded.rerank(&with(body("large", 6), &more)).await), [1, 1, 0, 0, 0, 0]);

    let without = cascaded.rerank(&body("scored", 6)).await;
    assert_eq!(warnings(&without), ["no scores were given: the first stage took the documents in the request's order"]);
}

#[tokio::test]
async fn later_stages_are_skipped_once_the_order_is_sure() {
    let cascaded = Cascaded::start().await;
    let calls = cascaded.large().calls();
    let body = with(body("careful", 6), &json!({"top_n": 1, "cascade": {"stop_when_sure": 0.001}}));
    let answer = cascaded.rerank(&body).await;
    assert_eq!(reports(&answer), [(1, 6, None), (2, 0, Some("sure".to_owned()))]);
    assert_eq!((stages(&answer), cascaded.large().calls()), (vec![1], calls));
    let body = with(body, &json!({"cascade": {"stop_when_sure": 1.0}}));
    assert_eq!(stages(&cascaded.rerank(&body).await), [2]);
}

#[tokio::test]
async fn a_cascade_is_listed_with_its_models_and_the_state_of_the_least_ready() {
    let cascaded = Cascaded::start_with(LoadWhen::Off, |_| {}).await;
    let one = cascaded.server.get("/v1/models/careful").await.json();
    assert_eq!((&one["state"], &one["stages"]), (&json!("unloaded"), &json!(["podium-nano", "large"])));
    assert_eq!(cascaded.server.get("/v1/models/vendor/careful").await.status, 200);
    let listed = cascaded.administrate(Method::GET, "/admin/models").await.json();
    let expected = json!({
        "id": "careful", "object": "model", "names": ["careful", "vendor/careful"], "state": "unloaded", "load": "off",
        "memory_bytes": 0, "dtype": null, "error": null, "stages": ["podium-nano", "large"]
    });
    assert_eq!(listed["data"][2], expected);
    assert_eq!(cascaded.server.get("/ready").await.status, 200);
    let message = "model: `careful` is a cascade; unload its models: podium-nano, large";
    let refused = cascaded.administrate(Method::POST, "/admin/models/careful/unload").await;
    refused.assert_failure(409, "is_cascade", None, message);
}
