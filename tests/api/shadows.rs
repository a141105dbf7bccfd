//! Shadows: models that rank a share of another one's requests, and change none of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use podium::config::{Configuration, Settings, Sources};
use podium::models::{LoadWhen, ModelLoader, ModelSet, ModelsSettings, NamedModel, ShadowSettings};
use podium::pipeline::{Policy, Reranker};
use podium::runtime::fake::FakeControls;
use podium::schedule::AdmissionControl;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::support::{Answer, Server, fake_reranker_in};

const ADMIN: &str = "the-administrators-key";

type Controls = Arc<Mutex<BTreeMap<String, FakeControls>>>;

struct Loader {
    settings: Settings,
    admission: AdmissionControl,
    controls: Controls,
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

/// A server whose default model, `podium-nano`, has the shadow `candidate`.
async fn start(load: LoadWhen, change: impl FnOnce(&mut Settings)) -> (Server, Controls, NamedTempFile) {
    let keys = NamedTempFile::new().unwrap();
    std::fs::write(keys.path(), ADMIN).unwrap();
    let mut settings = Configuration::load(&Sources::default()).unwrap().settings;
    settings.auth.admin_keys_file = keys.path().display().to_string();
    let model = settings.model.clone();
    let shadow = ShadowSettings { of: "podium-nano".to_owned(), share: 1.0 };
    settings.models = ModelsSettings {
        named: [("candidate".to_owned(), NamedModel { load, model })].into(),
        shadows: [("candidate".to_owned(), shadow)].into(),
        ..ModelsSettings::default()
    };
    change(&mut settings);
    let admission = AdmissionControl::new(&settings.schedule);
    let (default, default_controls) = fake_reranker_in(&["podium-nano"], &settings, &admission);
    let controls = Controls::default();
    let loader = Loader { settings: settings.clone(), admission, controls: Arc::clone(&controls) };
    let models = ModelSet::new(default, settings.models.clone(), loader);
    models.load_start_models().await.unwrap();
    (Server::over(models, default_controls, &settings).await, controls, keys)
}

fn body() -> Value {
    json!({"query": "q", "documents": ["one", "two", "three"], "top_n": 2})
}

fn count(outcome: &str, count: u64) -> String {
    format!(r#"podium_shadow_rankings_total{{model="podium-nano",shadow="candidate",outcome="{outcome}"}} {count}"#)
}

async fn report(server: &Server) -> Value {
    let listed = Answer::of(server.request(Method::GET, "/admin/models").bearer_auth(ADMIN)).await.json();
    listed["data"][1]["shadow"].clone()
}

#[tokio::test]
async fn a_shadow_ranks_the_same_requests_and_reports_how_it_differs() {
    let (server, _controls, _keys) = start(LoadWhen::Start, |_| {}).await;
    let answer = server.rerank(&body()).await;
    assert_eq!((answer.status, answer.json()["results"].as_array().unwrap().len()), (200, 2));
    server.until_metrics_say(&count("compared", 1)).await;
    let tokens = &answer.json()["usage"]["prompt_tokens"];
    let found = report(&server).await;
    // Both are the same fake model.
    let expected = json!({
        "of": "podium-nano", "share": 1.0, "compared": 1, "skipped": 0, "top_changed": 0, "kendall_tau": 1.0,
        "tokens": tokens, "shadow_tokens": tokens, "forward_ms": found["forward_ms"],
        "shadow_forward_ms": found["shadow_forward_ms"],
    });
    assert_eq!(found, expected);
    let line = r#"podium_shadow_order_agreement_count{model="podium-nano",shadow="candidate"} 1"#;
    server.until_metrics_say(line).await;
    // Requests of the shadow itself, pairs, and requests that fail are not drawn.
    server.rerank(&json!({"model": "candidate", "query": "q", "documents": ["one", "two"]})).await;
    server.post("/score", &json!({"queries": ["q", "r"], "documents": ["one", "two"]})).await;
    server.rerank(&json!({"query": " ", "documents": ["one"]})).await;
    assert_eq!(report(&server).await["compared"], 1);
}

#[tokio::test]
async fn a_shadow_delays_no_request_and_is_counted_by_no_limit() {
    let (server, controls, _keys) = start(LoadWhen::Start, |settings| {
        settings.schedule.max_queued_requests = 1;
    })
    .await;
    let candidate = controls.lock().unwrap()["candidate"].clone();
    let calls = candidate.calls();
    // The first reply starts a shadow ranking, and the next request is already in flight.
    server.controls.hold();
    let first = server.rerank_later(&body());
    server.controls.held(1).await;
    assert_eq!(candidate.calls(), calls, "the device has other work");
    server.controls.release();
    assert_eq!(first.await.unwrap().status, 200);
    server.until_metrics_say(&count("compared", 1)).await;

    candidate.hold();
    assert_eq!(server.rerank(&body()).await.status, 200);
    candidate.held(1).await;
    // One request may be in flight, and the shadow is none. The fake devices share a lease, so this
    // request waits for the one pass that has begun.
    let waiting = server.rerank_later(&body());
    server.until_metrics_say(r#"podium_queue_requests{model="podium-nano"} 1"#).await;
    candidate.release();
    assert_eq!(waiting.await.unwrap().status, 200);
    server.until_metrics_say(&count("busy", 1)).await;
    server.until_metrics_say(&count("compared", 2)).await;
    assert_eq!(report(&server).await["skipped"], 1);
}

#[tokio::test]
async fn a_shadow_that_is_not_loaded_or_fails_changes_no_reply() {
    let (server, controls, _keys) = start(LoadWhen::OnDemand, |_| {}).await;
    assert_eq!(server.rerank(&body()).await.status, 200);
    server.until_metrics_say(&count("not_loaded", 1)).await;
    assert!(controls.lock().unwrap().is_empty(), "a shadow loads no model");
    let load = server.request(Method::POST, "/admin/models/candidate/load").bearer_auth(ADMIN);
    assert_eq!(Answer::of(load).await.status, 200);
    let candidate = controls.lock().unwrap()["candidate"].clone();
    candidate.fail_next(podium::runtime::RuntimeError::Device("no kernel".to_owned()));
    assert_eq!(server.rerank(&body()).await.status, 200);
    server.until_metrics_say(&count("failed", 1)).await;
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_a_shadow() {
    let (mut server, controls, _keys) = start(LoadWhen::Start, |_| {}).await;
    let candidate = controls.lock().unwrap()["candidate"].clone();
    candidate.hold();
    assert_eq!(server.rerank(&body()).await.status, 200);
    candidate.held(1).await;
    server.stop();
    assert_eq!(server.outcome().await, podium::app::ShutdownOutcome::Clean);
    candidate.release();
}
