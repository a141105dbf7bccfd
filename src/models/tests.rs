//! Loading and unloading models, over fake runtimes and a loader that a test can hold.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::*;
use crate::config::{Configuration, Settings, Sources};
use crate::context::RequestContext;
use crate::pipeline::{Policy, Reranker};
use crate::rerank::{Ranking, RerankError, RerankRequest};
use crate::runtime::fake::{FakeControls, FakeRuntime};
use crate::runtime::{Checkpoint, ModelFacts, Runtime, RuntimeError};
use crate::schedule::AdmissionControl;

/// Parameters of every fake model, and the bytes that they take.
const PARAMETERS: usize = 100;
const BYTES: u64 = 400;

fn settings() -> Settings {
    Configuration::load(&Sources::default()).unwrap().settings
}

fn reranker(name: &str) -> (Reranker, FakeControls) {
    let settings = settings();
    let facts = ModelFacts {
        parameters: PARAMETERS,
        weight_bytes: 4 * PARAMETERS as u64,
        ..FakeRuntime::new().facts().clone()
    };
    let runtime = FakeRuntime::with_facts(facts);
    let controls = runtime.controls();
    let prompter = crate::app::prompter(&Checkpoint::podium_nano(), runtime.facts(), "podium-nano").unwrap();
    let policy = crate::app::policy(&settings).unwrap();
    let admission = AdmissionControl::new(&settings.schedule);
    (Reranker::new(vec![name.to_owned()], prompter, runtime, policy, &admission), controls)
}

/// State that the loader and its test share.
#[derive(Default)]
struct LoadGate {
    closed: Mutex<bool>,
    moved: Condvar,
    /// The error of the next loads.
    broken: Mutex<Option<&'static str>>,
    /// The error of the first pass of the next models.
    first_pass_error: Mutex<Option<RuntimeError>>,
    loaded: Mutex<BTreeMap<String, FakeControls>>,
}

impl LoadGate {
    fn close(&self) {
        *self.closed.lock().unwrap() = true;
    }

    fn open(&self) {
        *self.closed.lock().unwrap() = false;
        self.moved.notify_all();
    }

    fn controls(&self, name: &str) -> FakeControls {
        self.loaded.lock().unwrap()[name].clone()
    }
}

struct Loader(Arc<LoadGate>);

impl ModelLoader for Loader {
    fn memory_bytes(&self, _: &NamedModel) -> anyhow::Result<u64> {
        Ok(BYTES)
    }

    fn load(&self, name: &str, _: &NamedModel, _: Policy) -> anyhow::Result<Reranker> {
        let closed = self.0.closed.lock().unwrap();
        drop(self.0.moved.wait_while(closed, |closed| *closed).unwrap());
        if let Some(problem) = *self.0.broken.lock().unwrap() {
            anyhow::bail!(problem);
        }
        let (reranker, controls) = reranker(name);
        if let Some(error) = self.0.first_pass_error.lock().unwrap().clone() {
            controls.fail_next(error);
        }
        self.0.loaded.lock().unwrap().insert(name.to_owned(), controls);
        Ok(reranker)
    }
}

/// A default model and these others.
fn model_set(others: &[(&str, LoadWhen)], max_memory_bytes: u64) -> (ModelSet, Arc<LoadGate>) {
    let model = settings().model;
    let named =
        others.iter().map(|(name, load)| ((*name).to_owned(), NamedModel { load: *load, model: model.clone() }));
    let settings = ModelsSettings { max_memory_bytes, named: named.collect(), ..ModelsSettings::default() };
    let gate = Arc::new(LoadGate::default());
    (ModelSet::new(reranker("main").0, settings, Loader(Arc::clone(&gate))), gate)
}

async fn ask(set: &ModelSet, model: Option<&str>) -> Result<String, RerankError> {
    let mut request = RerankRequest::new("q", vec!["one".to_owned(), "two".to_owned()]);
    request.model = model.map(Into::into);
    let ranked = set.rerank_all(vec![request], RequestContext::internal()).await;
    ranked.map(|(_, mut rankings)| rankings.swap_remove(0).model)
}

fn state(set: &ModelSet, name: &str) -> &'static str {
    set.status(name).unwrap().state
}

#[track_caller]
fn assert_unavailable(result: &Result<String, RerankError>, because: &str) {
    assert!(matches!(result, Err(RerankError::ModelUnavailable { problem, .. }) if *problem == because), "{result:?}");
}

#[tokio::test]
async fn a_request_gets_the_model_that_it_names_and_the_default_one_otherwise() {
    let (set, _) = model_set(&[("legal", LoadWhen::Start), ("other", LoadWhen::Off)], 0);
    set.load_start_models().await.unwrap();
    assert_eq!(ask(&set, None).await.unwrap(), "main");
    assert_eq!(ask(&set, Some("main")).await.unwrap(), "main");
    assert_eq!(ask(&set, Some("legal")).await.unwrap(), "legal");
    assert_eq!(ask(&set, Some("legal@brief")).await.unwrap(), "legal");
    assert_unavailable(&ask(&set, Some("other")).await, "is not loaded until an administrator loads it");
    let unknown = ask(&set, Some("nobody")).await.unwrap_err();
    let expected = "model: `nobody` is not served here; available: main, legal, other; `podium serve --served-model-name` adds a name";
    assert_eq!(unknown.to_string(), expected);
}

#[tokio::test]
async fn the_first_request_loads_a_model_on_demand_and_is_told_to_come_back() {
    let (set, gate) = model_set(&[("legal", LoadWhen::OnDemand)], 0);
    gate.close();
    for _ in 0..3 {
        assert_unavailable(&ask(&set, Some("legal")).await, "is being loaded");
    }
    assert_eq!(ask(&set, None).await.unwrap(), "main", "other models are not delayed");
    gate.open();
    set.load("legal").await.unwrap();
    assert_eq!(ask(&set, Some("legal")).await.unwrap(), "legal");
}

#[tokio::test]
async fn a_model_that_loads_but_cannot_rank_is_not_served() {
    let (set, gate) = model_set(&[("legal", LoadWhen::Off)], 0);
    *gate.first_pass_error.lock().unwrap() = Some(RuntimeError::Device("no kernel for this device".to_owned()));
    let failed = set.load("legal").await.unwrap_err().to_string();
    let expected = "cannot be loaded: its first ranking failed: internal error: device: no kernel for this device";
    assert_eq!(failed, format!("model: `legal` {expected}"));
    assert_eq!(state(&set, "legal"), "failed");
    *gate.first_pass_error.lock().unwrap() = None;
    set.load("legal").await.unwrap();
    assert_eq!(ask(&set, Some("legal")).await.unwrap(), "legal");

    let (main, controls) = reranker("main");
    controls.fail_next(RuntimeError::Device("no kernel for this device".to_owned()));
    let set = ModelSet::new(main, ModelsSettings::default(), Loader(gate));
    let failed = set.load_start_models().await.unwrap_err().to_string();
    assert_eq!(failed, format!("model: `main` {expected}"));
}

#[tokio::test]
async fn the_canary_does_not_count_as_a_measurement_of_throughput() {
    let (main, controls) = reranker("main");
    main.run_canary().await.unwrap();
    assert_eq!((controls.passes(), main.queue().requests), (4, 0), "one slate for each question");
    let mut request = RerankRequest::new("q", vec!["one".to_owned()]);
    request.constraints.budget.max_latency = Some(Duration::from_millis(1));
    let warnings = |ranking: &Ranking| ranking.warnings.concat();
    let first = main.rerank(request.clone()).await.unwrap();
    assert!(warnings(&first).contains("max_latency_ms"), "no rate is known: {:?}", first.warnings);
}

#[tokio::test]
async fn the_timeline_names_the_model_also_if_it_is_not_loaded() {
    let (set, _) = model_set(&[("legal", LoadWhen::Start), ("other", LoadWhen::Off)], 0);
    set.load_start_models().await.unwrap();
    for (asked, model) in [
        (None, Some("main")),
        (Some("legal@brief"), Some("legal")),
        (Some("other"), Some("other")),
        (Some("nobody"), None),
    ] {
        let context = RequestContext::internal();
        let timeline = context.timeline.clone();
        let request = RerankRequest { model: asked.map(Into::into), ..RerankRequest::new("q", vec!["one".to_owned()]) };
        let ranked = set.rerank_all(vec![request], context).await;
        assert_eq!((timeline.model().as_deref(), ranked.is_ok()), (model, matches!(asked, None | Some("legal@brief"))));
    }
}

#[tokio::test]
async fn unloading_waits_for_accepted_requests_and_refuses_new_ones() {
    let (set, gate) = model_set(&[("legal", LoadWhen::Off)], 0);
    set.load("legal").await.unwrap();
    assert_eq!(set.memory(), (2 * BYTES, 0));
    let controls = gate.controls("legal");
    controls.hold();
    let accepted = tokio::spawn({
        let set = set.clone();
        async move { ask(&set, Some("legal")).await }
    });
    controls.held(1).await;
    let unloading = tokio::spawn({
        let set = set.clone();
        async move { set.unload("legal").await }
    });
    while state(&set, "legal") != "unloading" {
        tokio::task::yield_now().await;
    }
    assert_unavailable(&ask(&set, Some("legal")).await, "is being unloaded");
    assert!(matches!(set.load("legal").await, Err(ModelError::Busy { .. })));
    assert!(!unloading.is_finished());
    controls.release();
    assert_eq!(accepted.await.unwrap().unwrap(), "legal");
    assert_eq!(unloading.await.unwrap().unwrap().state, "unloaded");
    assert_eq!(set.memory(), (BYTES, 0));
    assert_eq!(set.load("legal").await.unwrap().state, "loaded", "it can come back");
}

#[tokio::test]
async fn a_model_over_the_memory_limit_is_refused_until_another_is_unloaded() {
    let (set, gate) = model_set(&[("one", LoadWhen::Off), ("two", LoadWhen::Off)], 2 * BYTES + 100);
    // Memory is reserved before the load begins: two at once are not both accepted.
    gate.close();
    let first = tokio::spawn({
        let set = set.clone();
        async move { set.load("one").await }
    });
    while set.memory().0 < 2 * BYTES {
        tokio::task::yield_now().await;
    }
    let refused = set.load("two").await.unwrap_err();
    let expected = "model: `two` takes 400 bytes; 800 of models.max_memory_bytes = 900 are taken; unload another first";
    assert_eq!(refused.to_string(), expected);
    gate.open();
    first.await.unwrap().unwrap();
    set.unload("one").await.unwrap();
    assert_eq!(set.load("two").await.unwrap().state, "loaded");
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_reports_its_error_and_others_are_served() {
    let (set, gate) = model_set(&[("legal", LoadWhen::OnDemand)], 0);
    *gate.broken.lock().unwrap() = Some("the weights are broken");
    let failed = set.load("legal").await.unwrap_err();
    assert_eq!(failed.to_string(), "model: `legal` cannot be loaded: the weights are broken");
    assert_eq!(state(&set, "legal"), "failed");
    assert_unavailable(&ask(&set, Some("legal")).await, "could not be loaded");
    assert_eq!(ask(&set, None).await.unwrap(), "main");
    assert!(set.ready().is_ok());
    *gate.broken.lock().unwrap() = None;
    assert_eq!(set.load("legal").await.unwrap().state, "loaded", "an administrator may try again");
}

#[tokio::test]
async fn the_default_model_cannot_be_unloaded_and_unknown_names_are_refused() {
    let (set, _) = model_set(&[("legal", LoadWhen::Off)], 0);
    assert!(matches!(set.unload("main").await, Err(ModelError::Default { .. })));
    assert!(matches!(set.load("main").await, Err(ModelError::Default { .. })));
    let unknown = set.unload("nobody").await.unwrap_err();
    assert_eq!(unknown.to_string(), "model: `nobody` is not configured; there are: legal");
    assert_eq!(set.unload("legal").await.unwrap().state, "unloaded", "it is not there, as was asked");
}

#[tokio::test]
async fn a_device_that_one_model_loses_is_lost_for_all_and_unloading_loses_none() {
    let (set, gate) = model_set(&[("legal", LoadWhen::Off), ("brief", LoadWhen::Off)], 0);
    set.load("brief").await.unwrap();
    set.unload("brief").await.unwrap();
    assert!(set.ready().is_ok());
    set.load("legal").await.unwrap();
    gate.controls("legal").fail_next(RuntimeError::DeviceLost("gone".to_owned()));
    assert!(matches!(ask(&set, Some("legal")).await, Err(RerankError::DeviceLost(_))));
    assert_eq!(set.lost().await, "gone");
    assert!(matches!(set.ready(), Err(RerankError::DeviceLost(_))));
}

#[tokio::test]
async fn draining_waits_for_every_model() {
    let (set, gate) = model_set(&[("legal", LoadWhen::Start)], 0);
    set.load_start_models().await.unwrap();
    let controls = gate.controls("legal");
    controls.hold();
    let accepted = tokio::spawn({
        let set = set.clone();
        async move { ask(&set, Some("legal")).await }
    });
    controls.held(1).await;
    let requests = |set: &ModelSet| set.in_memory().iter().map(|model| model.queue().requests).collect::<Vec<_>>();
    assert_eq!(requests(&set), [0, 1]);
    let leaving = tokio::spawn({
        let set = set.clone();
        async move { set.drain().await }
    });
    while set.ready().is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(matches!(ask(&set, None).await, Err(RerankError::Draining)));
    assert!(!leaving.is_finished());
    controls.release();
    leaving.await.unwrap();
    assert_eq!(accepted.await.unwrap().unwrap(), "legal");
}

#[tokio::test]
async fn a_model_that_loads_while_the_server_drains_is_not_served() {
    let (set, gate) = model_set(&[("legal", LoadWhen::OnDemand), ("other", LoadWhen::OnDemand)], 0);
    gate.close();
    assert_unavailable(&ask(&set, Some("legal")).await, "is being loaded");
    set.drain().await;
    assert!(matches!(ask(&set, Some("other")).await, Err(RerankError::Draining)), "nothing more is loaded");
    gate.open();
    assert_eq!(set.load("legal").await.unwrap().state, "unloaded");
    assert!(ask(&set, Some("legal")).await.is_err());
}

#[tokio::test]
async fn models_that_are_loaded_after_a_reload_use_the_policy_in_force() {
    let (set, _) = model_set(&[("legal", LoadWhen::Off)], 0);
    let mut policy = (*set.default_model().policy()).clone();
    policy.limits.max_documents = 1;
    set.reconfigure(&policy, &set.default_model().schedule());
    set.load("legal").await.unwrap();
    assert!(matches!(ask(&set, Some("legal")).await, Err(RerankError::TooManyDocuments { limit: 1, .. })));
}
