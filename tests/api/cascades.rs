//! Cascades: several models in turn, as one request.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use podium::config::{Configuration, Settings, Sources};
use podium::models::{CascadeSettings, LoadWhen, ModelLoader, ModelSet, ModelsSettings, NamedModel, StageSettings};
use podium::pipeline::{Policy, Reranker};
use podium::rerank::Keep;
use podium::runtime::RuntimeError;
use podium::runtime::fake::FakeControls;
use podium::schedule::AdmissionControl;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::support::{Answer, Server, fake_reranker_in};

const ADMIN: &str = "the-administrators-key";

/// Loads fake models that share admission control, and keeps their controls.
struct Loader {
    settings: Settings,
    admission: AdmissionControl,
    controls: Arc<Mutex<BTreeMap<String, FakeControls>>>,
}

impl ModelLoader for Loader {
    fn memory_bytes(&self, _: &NamedModel) -> anyhow::Result<u64> {
        Ok(1000)
    }

    fn load(&self, name: &str, _: &NamedModel, _: Policy) -> anyhow::Result<Reranker> {
        let (reranker, controls) = fake_reranker_in(&[name], &self.settings, &self.admission);
        self.controls.lock().unwrap().insert(name.to_owned(), controls);
        Ok(reranker)
    }
}

/// A server with the cascade `careful`: `podium-nano`, then `large`.
struct Cascaded {
    server: Server,
    controls: Arc<Mutex<BTreeMap<String, FakeControls>>>,
    _keys: NamedTempFile,
}

fn stage(model: Option<&str>, keep: Keep) -> StageSettings {
    StageSettings { model: model.map(str::to_owned), keep }
}

impl Cascaded {
    async fn start() -> Self {
        Self::start_with(LoadWhen::Start, |_| {}).await
    }

    async fn start_with(load: LoadWhen, change: impl FnOnce(&mut Settings)) -> Self {
        let keys = NamedTempFile::new().unwrap();
        std::fs::write(keys.path(), ADMIN).unwrap();
        let mut settings = Configuration::load(&Sources::default()).unwrap().settings;
        settings.auth.admin_keys_file = keys.path().display().to_string();
        let model = settings.model.clone();
        let last = |model| stage(Some(model), Keep::Share(1.0));
        let cascade = |stages: Vec<StageSettings>, stop_when_sure| CascadeSettings {
            stages,
            stop_when_sure,
            served_names: String::new(),
        };
        let nano = stage(Some("podium-nano"), Keep::Count(2));
        let mut careful = cascade(vec![nano.clone(), last("large")], 0.0);
        "vendor/careful".clone_into(&mut careful.served_names);
        let scored = cascade(vec![stage(None, Keep::Count(3)), nano, last("large")], 0.0);
        settings.models = ModelsSettings {
            named: [("large".to_owned(), NamedModel { load, model })].into(),
            cascades: [("careful".to_owned(), careful), ("scored".to_owned(), scored)].into(),
            ..ModelsSettings::default()
        };
        change(&mut settings);
        let admission = AdmissionControl::new(&settings.schedule);
        let (default, default_controls) = fake_reranker_in(&["podium-nano"], &settings, &admission);
        let controls = Arc::new(Mutex::new(BTreeMap::from([("podium-nano".to_owned(), default_controls.clone())])));
        let loader = Loader { settings: settings.clone(), admission, controls: Arc::clone(&controls) };
        let models = ModelSet::new(default, settings.models.clone(), loader);
        models.load_start_models().await.unwrap();
        let server = Server::over(models, default_controls, &settings).await;
        Self { server, controls, _keys: keys }
    }

    fn large(&self) -> FakeControls {
        self.controls.lock().unwrap()["large"].clone()
    }

    async fn rerank(&self, body: &Value) -> Answer {
        self.server.rerank(body).await
    }

    async fn administrate(&self, method: Method, path: &str) -> Answer {
        Answer::of(self.server.request(method, path).bearer_auth(ADMIN)).await
    }

    async fn until_idle(&self) {
        for model in ["podium-nano", "large"] {
            self.server.until_metrics_say(&format!(r#"podium_queue_requests{{model="{model}"}} 0"#)).await;
        }
    }
}

/// A request with this many documents.
fn body(model: &str, documents: usize) -> Value {
    let documents: Vec<String> = (0..documents).map(|index| format!("document number {index} of the list")).collect();
    json!({"model": model, "query": "q", "documents": documents})
}

fn with(mut body: Value, more: &Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// Index, stage and scores of each result.
fn rows(answer: &Answer) -> Vec<(u64, u64, f64, f64)> {
    assert_eq!(answer.status, 200, "{}", answer.text);
    let rows = answer.json()["results"].as_array().unwrap().clone();
    let number = |row: &Value, field: &str| row[field].as_f64().unwrap_or_else(|| panic!("{field} in {row}"));
    rows.iter()
        .map(|row| {
            let count = |field: &str| row[field].as_u64().unwrap_or_else(|| panic!("{field} in {row}"));
            (count("index"), count("stage"), number(row, "relevance_score"), number(row, "raw_score"))
        })
        .collect()
}

fn stages(answer: &Answer) -> Vec<u64> {
    rows(answer).iter().map(|row| row.1).collect()
}

/// Number, documents and reason of each stage in `meta`.
fn reports(answer: &Answer) -> Vec<(u64, u64, Option<String>)> {
    let stages = answer.json()["meta"]["cascade"]["stages"].as_array().unwrap().clone();
    let report = |stage: &Value| {
        let reason = stage["skipped"].as_str().map(str::to_owned);
        (stage["stage"].as_u64().unwrap(), stage["documents"].as_u64().unwrap(), reason)
    };
    stages.iter().map(report).collect()
}

fn warnings(answer: &Answer) -> Vec<String> {
    let warnings = answer.json()["meta"]["warnings"].as_array().unwrap().clone();
    warnings.iter().map(|warning| warning.as_str().unwrap().to_owned()).collect()
}

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
    let expected = json!([
        {"stage": 1, "model": "podium-nano", "documents": 6, "tokens": tokens[0]},
        {"stage": 2, "model": "large", "documents": 2, "tokens": tokens[1]},
    ]);
    assert_eq!(used, &expected);
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
async fn a_stage_that_is_not_loaded_leaves_the_order_before_it_or_is_503_if_strict() {
    let cascaded = Cascaded::start_with(LoadWhen::Off, |_| {}).await;
    let answer = cascaded.rerank(&body("careful", 6)).await;
    assert_eq!(stages(&answer), [1; 6]);
    assert_eq!(reports(&answer), [(1, 6, None), (2, 0, Some("not_loaded".to_owned()))]);
    let problem = "model: `large` is not loaded; try again in 60 s";
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
    request.abort();
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
    assert_eq!(warnings(&answer), [warning.clone()]);

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
