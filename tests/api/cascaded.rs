//! A server with cascades over fake models, for tests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use podium::config::{Configuration, Settings, Sources};
use podium::models::{CascadeSettings, LoadWhen, ModelLoader, ModelSet, ModelsSettings, NamedModel, StageSettings};
use podium::pipeline::{Policy, Reranker};
use podium::rerank::Keep;
use podium::runtime::fake::FakeControls;
use podium::schedule::AdmissionControl;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::support::{Answer, Server, fake_reranker_in, fake_reranker_of};

pub const ADMIN: &str = "the-administrators-key";

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

    fn load(&self, name: &str, NamedModel { model, .. }: &NamedModel, _: Policy) -> anyhow::Result<Reranker> {
        let family = if model.family == "auto" { "podium-nano" } else { &model.family };
        let (reranker, controls) = fake_reranker_of(family, &[name], &self.settings, &self.admission);
        self.controls.lock().unwrap().insert(name.to_owned(), controls);
        Ok(reranker)
    }
}

/// A server with the cascade `careful`: `podium-nano`, then `large`.
pub struct Cascaded {
    pub server: Server,
    controls: Arc<Mutex<BTreeMap<String, FakeControls>>>,
    _keys: NamedTempFile,
}

fn stage(model: Option<&str>, keep: Keep) -> StageSettings {
    StageSettings { model: model.map(str::to_owned), keep }
}

impl Cascaded {
    pub async fn start() -> Self {
        Self::start_with(LoadWhen::Start, |_| {}).await
    }

    pub async fn start_with(load: LoadWhen, change: impl FnOnce(&mut Settings)) -> Self {
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

    /// As [`Cascaded::start_with`], where `large` is of a family whose scores depend on the order of the
    /// documents.
    pub async fn start_in_order(change: impl FnOnce(&mut Settings)) -> Self {
        Self::start_with(LoadWhen::Start, |settings| {
            let large = settings.models.named.get_mut("large").unwrap();
            "jina-v3".clone_into(&mut large.model.family);
            change(settings);
        })
        .await
    }

    pub fn large(&self) -> FakeControls {
        self.controls.lock().unwrap()["large"].clone()
    }

    pub async fn rerank(&self, body: &Value) -> Answer {
        self.server.rerank(body).await
    }

    pub async fn administrate(&self, method: Method, path: &str) -> Answer {
        Answer::of(self.server.request(method, path).bearer_auth(ADMIN)).await
    }

    pub async fn until_idle(&self) {
        for model in ["podium-nano", "large"] {
            self.server.until_metrics_say(&format!(r#"podium_queue_requests{{model="{model}"}} 0"#)).await;
        }
    }
}

/// A request with this many documents.
pub fn body(model: &str, documents: usize) -> Value {
    let documents: Vec<String> = (0..documents).map(|index| format!("document number {index} of the list")).collect();
    json!({"model": model, "query": "q", "documents": documents})
}

pub fn with(mut body: Value, more: &Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// Index, stage and scores of each result.
pub fn rows(answer: &Answer) -> Vec<(u64, u64, f64, f64)> {
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

pub fn stages(answer: &Answer) -> Vec<u64> {
    rows(answer).iter().map(|row| row.1).collect()
}

/// Number, documents and reason of each stage in `meta`.
pub fn reports(answer: &Answer) -> Vec<(u64, u64, Option<String>)> {
    let stages = answer.json()["meta"]["cascade"]["stages"].as_array().unwrap().clone();
    let report = |stage: &Value| {
        let reason = stage["skipped"].as_str().map(str::to_owned);
        (stage["stage"].as_u64().unwrap(), stage["documents"].as_u64().unwrap(), reason)
    };
    stages.iter().map(report).collect()
}

pub fn warnings(answer: &Answer) -> Vec<String> {
    let warnings = answer.json()["meta"]["warnings"].as_array().unwrap().clone();
    warnings.iter().map(|warning| warning.as_str().unwrap().to_owned()).collect()
}
