//! Passages, cascades, several orders and minimum scores together: what the replies say.

use podium::models::LoadWhen;
use serde_json::{Value, json};

use crate::cascaded::{Cascaded, body, reports, rows, stages, warnings, with};
use crate::support::{Answer, Server};

/// A document of ten paragraphs, each of which is a passage of 66 tokens at most.
pub fn long_document(number: usize) -> String {
    let sentence = |nth: usize| format!("Sentence {nth} of document {number} says nothing that anyone wants to know.");
    let paragraph = |nth: usize| (3 * nth..3 * nth + 3).map(sentence).collect::<Vec<_>>().join(" ");
    (0..10).map(paragraph).collect::<Vec<_>>().join("\n\n")
}

/// A request with this many long documents in passages.
pub fn chunked(model: &str, documents: usize) -> Value {
    let documents: Vec<String> = (0..documents).map(long_document).collect();
    json!({"model": model, "query": "q", "documents": documents, "chunk_tokens": 66})
}

/// The reply, without what differs from call to call: its id and its times.
fn body_of(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text);
    let mut reply = answer.json();
    reply["id"] = Value::Null;
    reply["meta"]["timing_ms"] = Value::Null;
    for stage in reply["meta"]["cascade"]["stages"].as_array_mut().into_iter().flatten() {
        assert_eq!(stage["time_ms"].is_number(), stage["model"].is_string() && stage["skipped"].is_null(), "{stage}");
        stage.as_object_mut().unwrap().remove("time_ms");
    }
    reply
}

fn results(answer: &Answer) -> Vec<Value> {
    body_of(answer)["results"].as_array().unwrap().clone()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

/// The results by the documents' indices.
fn by_index(answer: &Answer) -> Vec<Value> {
    let mut rows = results(answer);
    rows.sort_by_key(|row| row["index"].as_u64());
    rows
}

#[tokio::test]
async fn every_stage_ranks_passages_and_the_last_one_says_which_won() {
    let cascaded = Cascaded::start().await;
    let answer = cascaded.rerank(&chunked("careful", 4)).await;
    assert_eq!(stages(&answer), [2, 2, 1, 1]);
    let alone = by_index(&cascaded.rerank(&chunked("podium-nano", 4)).await);
    let mut best = results(&answer);
    // Both models are the same fake, so that documents keep their scores from stage to stage.
    for row in &best {
        let own = &alone[usize::try_from(row["index"].as_u64().unwrap()).unwrap()];
        assert_eq!((&row["raw_score"], &row["truncated"]), (&own["raw_score"], &json!(false)));
        let place = |row: &Value| (row["passage"]["start"].clone(), row["passage"]["end"].clone());
        assert_eq!((place(row), &row["passage"]["count"]), (place(own), &json!(10)));
        assert_eq!(row["passage"]["relevance_score"], row["relevance_score"], "both are on the same scale");
    }
    let used = body_of(&answer)["meta"]["cascade"]["stages"].clone();
    let tokens = |stage: usize| used[stage]["tokens"].as_u64().unwrap();
    let expected = json!({
        "id": null, "object": "rerank", "model": "careful", "results": best, "data": best,
        "usage": {
            "prompt_tokens": tokens(0) + tokens(1), "completion_tokens": 0, "total_tokens": tokens(0) + tokens(1),
            "truncated_documents": 0
        },
        "meta": {
            "api_version": {"version": "2"}, "billed_units": {"search_units": 1}, "mode": "listwise", "slates": 2,
            "warnings": [],
            "cascade": {
                "stages": [
                    {"stage": 1, "model": "podium-nano", "documents": 4, "tokens": tokens(0)},
                    {"stage": 2, "model": "large", "documents": 2, "tokens": tokens(1)},
                ],
                "tokens_saved": tokens(1),
            },
            "timing_ms": null,
        },
    });
    assert_eq!(body_of(&answer), expected);
    cascaded.server.until_metrics_say("podium_passages_total 100").await;
    // Without passages, the results have none.
    best = results(&cascaded.rerank(&body("careful", 4)).await);
    assert!(best.iter().all(|row| row.get("passage").is_none()));
}

#[tokio::test]
async fn a_budget_of_a_cascade_leaves_passages_out_only_in_the_first_stage() {
    let cascaded = Cascaded::start().await;
    let request = with(chunked("careful", 4), &json!({"cascade": {"keep": [3]}}));
    let used = body_of(&cascaded.rerank(&request).await)["meta"]["cascade"]["stages"].clone();
    let tokens = |stage: usize| used[stage]["tokens"].as_u64().unwrap();

    // Two of the three documents fit into the second stage.
    let budget = tokens(0) + 3 * tokens(1) / 4;
    let answer = cascaded.rerank(&with(request.clone(), &json!({"max_total_tokens": budget}))).await;
    assert_eq!(stages(&answer), [2, 2, 1, 1]);
    assert!(results(&answer).iter().all(|row| row["passage"]["count"] == 10), "{}", answer.text);
    assert!(answer.json()["usage"]["prompt_tokens"].as_u64().unwrap() <= budget);
    assert_eq!(warnings(&answer), ["budget: stage 2 (`large`) ranked 2 of 3 documents"]);
    assert_eq!(answer.json()["meta"]["budget"]["documents_read"], 4);

    // The first stage reads the beginnings of all documents, and nothing is left for the second.
    let answer = cascaded.rerank(&with(request.clone(), &json!({"max_total_tokens": tokens(0) / 2}))).await;
    assert_eq!(reports(&answer), [(1, 4, None), (2, 0, Some("budget".to_owned()))], "{}", answer.text);
    for row in results(&answer) {
        let count = row["passage"]["count"].as_u64().unwrap();
        assert!((3..=6).contains(&count) && row["truncated"] == true, "{row}");
    }
    let strict = json!({"max_total_tokens": budget, "strict": true});
    let refused = cascaded.rerank(&with(request, &strict)).await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (422, &json!("over_budget")), "{}", refused.text);
    cascaded.until_idle().await;
}

#[tokio::test]
async fn stability_applies_to_the_stage_whose_family_depends_on_the_order() {
    let cascaded = Cascaded::start_in_order(|_| {}).await;
    let once = cascaded.rerank(&body("careful", 6)).await;
    let answer = cascaded.rerank(&with(body("careful", 6), &json!({"stability": 4}))).await;
    assert_eq!(stages(&answer), [2, 2, 1, 1, 1, 1]);
    for row in results(&answer) {
        let spread = row["spread"].as_f64();
        assert_eq!(spread.is_some(), row["stage"] == 2, "{row}");
        assert!(spread.is_none_or(|spread| (0.0..=0.5).contains(&spread)), "{row}");
    }
    assert!(results(&answer).iter().any(|row| row["spread"].as_f64().is_some_and(|spread| spread > 0.0)));
    let tokens = |answer: &Answer, stage: usize| number(&body_of(answer)["meta"]["cascade"]["stages"][stage]["tokens"]);
    assert!((tokens(&answer, 0) - tokens(&once, 0)).abs() < 0.5, "the first stage ranks once");
    assert!((tokens(&answer, 1) - 4.0 * tokens(&once, 1)).abs() < 0.5, "the second ranks in four orders");
    let warning = "stage 1 (`podium-nano`): stability had no effect: family `podium-nano` was not read in an order";
    assert_eq!(warnings(&answer), [warning]);

    // Documents that reach no stage in order: the spread belongs to the score that is shown.
    let all = with(body("careful", 6), &json!({"stability": 4, "cascade": {"keep": [1.0]}}));
    let answer = cascaded.rerank(&all).await;
    assert_eq!(reports(&answer), [(1, 0, Some("keeps_all".to_owned())), (2, 6, None)]);
    let alone = results(&cascaded.rerank(&with(body("large", 6), &json!({"stability": 4}))).await);
    let plain = |mut row: Value| {
        row.as_object_mut().unwrap().remove("stage");
        row
    };
    assert_eq!(results(&answer).into_iter().map(plain).collect::<Vec<_>>(), alone);
}

#[tokio::test]
async fn passages_are_ranked_in_several_orders_of_their_documents() {
    let server = Server::of_family("jina-v3", |_| {}).await;
    let request = with(chunked("jina-v3", 3), &json!({"chunk_tokens": 100}));
    let once = server.rerank(&request).await;
    let answer = server.rerank(&with(request.clone(), &json!({"stability": 3}))).await;
    for (row, alone) in by_index(&answer).iter().zip(by_index(&once)) {
        assert!(row["spread"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(
            (&row["passage"]["count"], &row["tokens_read"]),
            (&alone["passage"]["count"], &alone["tokens_read"])
        );
    }
    let tokens = |answer: &Answer| answer.json()["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(tokens(&answer), 3 * tokens(&once));
    assert_eq!(answer.json()["meta"]["slates"], 3 * once.json()["meta"]["slates"].as_u64().unwrap());
    assert_eq!(warnings(&answer), [""; 0]);
    assert!(
        results(&answer)
            .is_sorted_by(|left, right| number(&left["relevance_score"]) >= number(&right["relevance_score"]))
    );

    // A budget for less than one order drops passages, as without stability.
    let budget = tokens(&once) * 2 / 3;
    let answer = server.rerank(&with(request, &json!({"stability": 3, "max_total_tokens": budget}))).await;
    assert!(tokens(&answer) <= budget, "{}", answer.text);
    assert!(results(&answer).iter().all(|row| row["truncated"] == true && row["passage"]["count"] != 0));
    assert!(warnings(&answer).contains(&"stability: the budget allows 1 of 3 orders".to_owned()), "{}", answer.text);
}

#[tokio::test]
async fn a_minimum_score_applies_to_the_merged_score_of_passages() {
    let server = Server::start().await;
    for merge in ["max", "mean_top_2"] {
        let request = with(chunked("podium-nano", 5), &json!({"chunk_merge": merge}));
        let all = results(&server.rerank(&request).await);
        let least = f64::midpoint(number(&all[1]["relevance_score"]), number(&all[2]["relevance_score"]));
        let answer = server.rerank(&with(request, &json!({"min_score": least}))).await;
        assert_eq!(results(&answer), all[..2], "{merge}");
        assert_eq!(answer.json()["meta"]["min_score"]["left_out"], 3);
    }
}

#[tokio::test]
async fn a_minimum_score_applies_to_the_mean_of_all_orders() {
    let server = Server::of_family("jina-v3", |_| {}).await;
    let request = with(body("jina-v3", 6), &json!({"stability": 3}));
    let all = results(&server.rerank(&request).await);
    let least = f64::midpoint(number(&all[2]["relevance_score"]), number(&all[3]["relevance_score"]));
    let answer = server.rerank(&with(request.clone(), &json!({"min_score": least, "top_n": 2}))).await;
    assert_eq!(results(&answer), all[..2]);
    assert_eq!(answer.json()["meta"]["min_score"]["left_out"], 3, "counted before top_n");
    let auto = server.rerank(&with(request, &json!({"min_score": "auto"}))).await;
    let warning = "min_score: the scores of family `jina-v3` do not tell whether anything is relevant; auto cuts at their \
                   largest gap";
    assert_eq!(warnings(&auto), [warning]);
    assert!(!results(&auto).is_empty());
}

#[tokio::test]
async fn a_minimum_score_applies_to_the_scores_of_the_whole_cascade() {
    let cascaded = Cascaded::start().await;
    let all = results(&cascaded.rerank(&body("careful", 6)).await);
    let least = f64::midpoint(number(&all[3]["relevance_score"]), number(&all[4]["relevance_score"]));
    let answer = cascaded.rerank(&with(body("careful", 6), &json!({"min_score": least}))).await;
    assert_eq!(results(&answer), all[..4]);
    assert_eq!(stages(&answer), [2, 2, 1, 1]);
    assert_eq!(answer.json()["meta"]["min_score"]["left_out"], 2);
    assert_eq!(answer.header("podium-left-out-documents"), "2");
    // It does not decide which documents reach a stage.
    assert_eq!(reports(&answer), [(1, 6, None), (2, 2, None)]);
    // A document that no model has read has the score 0.
    let scores = json!({"scores": [6, 5, 4, 3, 2, 1], "min_score": 0.000_000_1});
    let answer = cascaded.rerank(&with(body("scored", 6), &scores)).await;
    assert_eq!((stages(&answer), &answer.json()["meta"]["min_score"]["left_out"]), (vec![2, 2, 1], &json!(3)));
    let none = cascaded.rerank(&with(body("careful", 6), &json!({"min_score": 1}))).await;
    assert_eq!((results(&none).len(), &none.json()["meta"]["min_score"]["left_out"]), (0, &json!(6)));
    let auto = with(body("careful", 6), &json!({"min_score": "auto"}));
    assert_eq!(warnings(&cascaded.rerank(&auto).await), [""; 0]);
}

#[tokio::test]
async fn auto_warns_where_the_last_stage_does_not_tell_what_is_relevant() {
    let cascaded = Cascaded::start_in_order(|_| {}).await;
    let answer = cascaded.rerank(&with(body("careful", 6), &json!({"min_score": "auto"}))).await;
    let warning = "min_score: the scores of family `jina-v3` do not tell whether anything is relevant; auto cuts at their \
                   largest gap";
    assert_eq!(warnings(&answer), [warning]);
    assert!(!results(&answer).is_empty());
}

#[tokio::test]
async fn all_of_them_together_rank_one_document_and_a_thousand() {
    let cascaded = Cascaded::start_in_order(|_| {}).await;
    let wishes = json!({
        "chunk_tokens": 100, "stability": 2, "min_score": 0.000_001, "cascade": {"keep": [0.05]}, "top_n": 60
    });
    let one = cascaded.rerank(&with(chunked("careful", 1), &wishes)).await;
    assert_eq!(stages(&one), [2]);
    assert!(results(&one)[0]["passage"]["count"].as_u64().unwrap() > 1, "{}", one.text);
    assert_eq!(warnings(&one), [""; 0]);
    assert_eq!(results(&one)[0].get("spread"), None, "one document has one order");
    let many = cascaded.rerank(&with(chunked("careful", 1000), &wishes)).await;
    let stages = stages(&many);
    assert_eq!((stages.len(), stages.iter().filter(|stage| **stage == 2).count()), (60, 50));
    assert!(rows(&many).is_sorted_by(|left, right| left.2 >= right.2));
    for row in results(&many) {
        assert_eq!(row["spread"].is_number(), row["stage"] == 2, "{row}");
        assert!(row["passage"]["count"].as_u64().unwrap() > 1, "{row}");
    }
    assert_eq!(reports(&many), [(1, 1000, None), (2, 50, None)]);
    cascaded.until_idle().await;
}

#[tokio::test]
async fn a_stage_that_is_not_loaded_leaves_the_passages_and_scores_of_the_one_before() {
    let cascaded = Cascaded::start_with(LoadWhen::Off, |_| {}).await;
    let wishes = json!({"stability": 3, "min_score": 0.000_001});
    let answer = cascaded.rerank(&with(chunked("careful", 4), &wishes)).await;
    assert_eq!((stages(&answer), reports(&answer)[1].2.as_deref()), (vec![1; 4], Some("not_loaded")));
    assert!(results(&answer).iter().all(|row| row["passage"]["count"] == 10), "{}", answer.text);
    let problem = "model: `large` is not loaded until an administrator loads it; try again in 60 s";
    let expected = [
        "stage 1 (`podium-nano`): stability had no effect: family `podium-nano` was not read in an order".to_owned(),
        format!("stage 2 (`large`) did not rank: {problem}; the order before it stands"),
    ];
    assert_eq!(warnings(&answer), expected);
    for model in ["careful", "large"] {
        let strict = with(with(chunked(model, 4), &wishes), &json!({"strict": true}));
        cascaded.rerank(&strict).await.assert_failure(503, "model_unavailable", Some("model"), problem);
    }
}
