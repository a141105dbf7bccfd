//! Several models in one server, and the routes for those who run it.

use podium::config::{Configuration, Settings, Sources};
use podium::models::{LoadWhen, ModelLoader, ModelSet, ModelsSettings, NamedModel};
use podium::pipeline::{Policy, Reranker};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::support::{Answer, Server, fake_reranker};

const ADMIN: &str = "the-administrators-key";

struct Loader(Settings);

impl ModelLoader for Loader {
    fn memory_bytes(&self, _: &NamedModel) -> anyhow::Result<u64> {
        Ok(1000)
    }

    fn load(&self, name: &str, model: &NamedModel, _: Policy) -> anyhow::Result<Reranker> {
        if model.model.source == "broken" {
            anyhow::bail!("broken/model.safetensors: not a complete safetensors file");
        }
        Ok(fake_reranker(&[name, "vendor/legal"], &self.0).0)
    }
}

/// A server with the models `legal` and `broken` beside its own, and a key for its administrator.
async fn start(change: impl FnOnce(&mut Settings)) -> (Server, NamedTempFile) {
    let keys = NamedTempFile::new().unwrap();
    std::fs::write(keys.path(), ADMIN).unwrap();
    let mut settings = Configuration::load(&Sources::default()).unwrap().settings;
    settings.auth.admin_keys_file = keys.path().display().to_string();
    let named = |load, source: &str| {
        let mut model = settings.model.clone();
        source.clone_into(&mut model.source);
        NamedModel { load, model }
    };
    let mut legal = named(LoadWhen::Off, "legal");
    "vendor/legal".clone_into(&mut legal.model.served_names);
    let broken = named(LoadWhen::Off, "broken");
    let named = [("legal".to_owned(), legal), ("broken".to_owned(), broken)].into();
    settings.models = ModelsSettings { named, ..ModelsSettings::default() };
    change(&mut settings);
    let (default, controls) = fake_reranker(&["podium-nano"], &settings);
    let models = ModelSet::new(default, settings.models.clone(), Loader(settings.clone()));
    (Server::over(models, controls, &settings).await, keys)
}

async fn administrate(server: &Server, method: Method, path: &str) -> Answer {
    Answer::of(server.request(method, path).bearer_auth(ADMIN)).await
}

fn body(model: &str) -> Value {
    json!({"model": model, "query": "q", "documents": ["one", "two"]})
}

#[tokio::test]
async fn an_administrator_loads_a_model_and_unloads_it() {
    let (server, _keys) = start(|_| {}).await;
    let refused = server.rerank(&body("legal")).await;
    let message = "model: `legal` is not loaded until an administrator loads it; try again in 60 s";
    refused.assert_failure(503, "model_unavailable", Some("model"), message);
    assert_eq!(refused.header("retry-after"), "60");

    let loaded = administrate(&server, Method::POST, "/admin/models/legal/load").await;
    let mut expected = json!({
        "id": "legal", "object": "model", "names": ["legal", "vendor/legal"], "state": "loaded", "load": "off",
        "memory_bytes": 0, "dtype": "f32", "error": null
    });
    assert_eq!((loaded.status, loaded.json()), (200, expected.clone()));
    for name in ["legal", "vendor/legal"] {
        let answer = server.rerank(&body(name)).await;
        assert_eq!((answer.status, &answer.json()["model"]), (200, &json!(name)), "{}", answer.text);
    }
    let listed = administrate(&server, Method::GET, "/admin/models").await.json();
    assert_eq!(listed["data"][2], expected);
    let metrics = server.get("/metrics").await.text;
    assert!(metrics.contains(r#"podium_model_memory_bytes{model="legal"} 0"#), "{metrics}");
    // Both names of it are one series, its canary's four questions are four more batches, and the default model has its own.
    for (model, batches) in [("podium-nano", 0), ("legal", 6)] {
        for line in [
            format!(r#"podium_queue_requests{{model="{model}"}} 0"#),
            format!(r#"podium_batch_passes_count{{model="{model}"}} {batches}"#),
            format!(r#"podium_batch_tokens_bucket{{model="{model}",le="+Inf"}} {batches}"#),
        ] {
            assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
        }
    }
    for absent in ["vendor/legal", r#"podium_queue_requests{model="broken"}"#] {
        assert!(!metrics.contains(absent), "{metrics}");
    }
    let infos = metrics.lines().filter(|line| line.starts_with("podium_model_info{")).count();
    assert_eq!(infos, 2, "{metrics}");

    let unloaded = administrate(&server, Method::POST, "/admin/models/legal/unload").await;
    expected["state"] = "unloaded".into();
    expected["dtype"] = Value::Null;
    assert_eq!((unloaded.status, unloaded.json()), (200, expected));
    assert_eq!(server.rerank(&body("legal")).await.status, 503);
    assert_eq!(server.rerank(&body("podium-nano")).await.status, 200);
    let metrics = server.get("/metrics").await.text;
    // Its rankings stay counted, also where the sample of rankings has some of them.
    let left: Vec<&str> =
        metrics.lines().filter(|line| line.contains("legal") && !line.starts_with("podium_drift_")).collect();
    assert_eq!(left, [r#"podium_model_memory_bytes{model="legal"} 0"#], "its queue and its batches went with it");
}

#[tokio::test]
async fn every_name_is_listed_with_its_state() {
    let (server, _keys) = start(|_| {}).await;
    let rows = server.get("/v1/models").await.json();
    let rows: Vec<(&str, &str)> = rows["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["id"].as_str().unwrap(), row["state"].as_str().unwrap()))
        .collect();
    let expected =
        [("podium-nano", "loaded"), ("broken", "unloaded"), ("legal", "unloaded"), ("vendor/legal", "unloaded")];
    assert_eq!(rows, expected);
    let one = server.get("/v1/models/legal").await.json();
    assert_eq!((&one["memory_bytes"], one.get("max_tokens_per_doc")), (&json!(0), None));
}

#[tokio::test]
async fn what_cannot_be_done_says_why() {
    let (server, _keys) = start(|_| {}).await;
    for (path, status, code, message) in [
        (
            "broken/load",
            500,
            "model_not_loaded",
            "model: `broken` cannot be loaded: broken/model.safetensors: not a complete safetensors file",
        ),
        ("nobody/load", 404, "model_not_found", "model: `nobody` is not configured; there are: broken, legal"),
        (
            "podium-nano/unload",
            409,
            "default_model",
            "model: `podium-nano` is the default model, which is loaded as long as the server runs",
        ),
    ] {
        let answer = administrate(&server, Method::POST, &format!("/admin/models/{path}")).await;
        answer.assert_failure(status, code, None, message);
    }
    let listed = administrate(&server, Method::GET, "/admin/models").await.json();
    assert_eq!(listed["data"][1]["state"], "failed");
    assert!(listed["data"][1]["error"].as_str().unwrap().contains("model.safetensors"));
    assert_eq!(server.get("/ready").await.status, 200);
}

#[tokio::test]
async fn admin_routes_need_an_administrators_key_and_do_not_exist_without_such_keys() {
    let (server, _keys) = start(|_| {}).await;
    assert_eq!(server.get("/admin/models").await.status, 401);
    let wrong = server.request(Method::POST, "/admin/models/legal/load").bearer_auth("another-key-of-a-client");
    Answer::of(wrong).await.assert_failure(401, "invalid_api_key", None, "the API key is not valid");
    assert_eq!(server.rerank(&body("podium-nano")).await.status, 200, "clients need no key");
    let described = server.get("/openapi.json").await.json();
    assert!(described["paths"]["/admin/models"].is_object());
    assert!(server.get("/").await.text.contains("/admin/models"));

    let (server, _keys) = start(|settings| settings.auth.admin_keys_file.clear()).await;
    assert_eq!(administrate(&server, Method::GET, "/admin/models").await.status, 404);
    let described = server.get("/openapi.json").await.json();
    assert!(described["paths"].get("/admin/models").is_none());
    assert!(!server.get("/").await.text.contains("/admin/models"));
}
