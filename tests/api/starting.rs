//! The server while its models load.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use podium::app::{self, ShutdownOutcome};
use podium::config::{Configuration, Sources};
use podium::models::{LoadWhen, NamedModel};
use serde_json::json;
use tokio::sync::oneshot;

use crate::support::{Server, fake_reranker};

const LOADING: &str = "the server is loading its models; try again in 5 s";

#[tokio::test]
async fn health_answers_and_everything_else_is_503_until_the_models_are_loaded() {
    let settings = Configuration::load(&Sources::default()).unwrap().settings;
    let (reranker, controls) = fake_reranker(&["podium-nano"], &settings);
    let (loaded, loading) = oneshot::channel();
    let loading = async { Ok(loading.await.unwrap()) };
    let mut server = Server::start_loading(loading, controls, &settings).await;
    let body = json!({"query": "q", "documents": ["one", "two"]});

    assert_eq!(server.get("/health").await.status, 200);
    assert_eq!(server.get("/metrics").await.status, 200);
    server.get("/ready").await.assert_failure(503, "models_loading", None, LOADING);
    server.get("/v1/models").await.assert_failure(503, "models_loading", None, LOADING);
    server.rerank(&body).await.assert_failure(503, "models_loading", None, LOADING);

    loaded.send(reranker.into()).ok().unwrap();
    while server.get("/ready").await.status != 200 {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.rerank(&body).await.status, 200);
    server.stop();
    assert_eq!(server.outcome().await, ShutdownOutcome::Clean);
}

#[tokio::test]
async fn a_server_that_is_stopped_while_its_models_load_stops_at_once() {
    let settings = Configuration::load(&Sources::default()).unwrap().settings;
    let (_, controls) = fake_reranker(&["podium-nano"], &settings);
    let mut server = Server::start_loading(std::future::pending(), controls, &settings).await;
    assert_eq!(server.get("/ready").await.status, 503);
    server.stop();
    assert_eq!(server.outcome().await, ShutdownOutcome::Clean);
}

#[cfg(unix)]
#[test]
fn a_hangup_while_the_models_load_does_not_end_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("podium.toml");
    std::fs::write(&config, "limits.max_documents = 10\n").unwrap();
    let mut process = Command::new(env!("CARGO_BIN_EXE_podium"))
        .args(["serve", "--listen", "127.0.0.1:0", "--device", "cpu", "--config", config.to_str().unwrap()])
        .env_remove("RUST_LOG")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Linux lists the signals that a process catches: bit 0 is SIGHUP, bit 14 SIGTERM, which is caught
    // from the first moment on.
    let caught = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim().to_owned();
        u64::from_str_radix(&mask, 16).unwrap()
    };
    while caught() & (1 << 14) == 0 {
        std::thread::yield_now();
    }
    let hangup = Command::new("kill").args(["-HUP", &process.id().to_string()]).status().unwrap();
    assert!(hangup.success());
    let mut lines = String::new();
    let mut log = BufReader::new(process.stderr.take().unwrap());
    while !lines.contains("the settings were read again") {
        assert!(log.read_line(&mut lines).unwrap() > 0, "the process ended: {lines}");
    }
    process.kill().unwrap();
    process.wait().unwrap();
}

#[tokio::test]
async fn a_model_that_is_loaded_after_a_reload_uses_the_instructions_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first.toml"), folder.path().join("second.toml"));
    std::fs::write(&first, "[first]\ntext = \"Prefer the first.\"\n").unwrap();
    std::fs::write(&second, "[second]\ntext = \"Prefer the second.\"\n").unwrap();
    let mut settings = Configuration::load(&Sources::default()).unwrap().settings;
    settings.instructions.file = first.display().to_string();
    let later = NamedModel { load: LoadWhen::Off, model: settings.model.clone() };
    settings.models.named.insert("later".to_owned(), later);
    let models = app::load_models(&settings).unwrap();

    settings.instructions.file = second.display().to_string();
    models.reconfigure(&app::policy(&settings).unwrap(), &settings.schedule);
    std::fs::remove_file(first).unwrap();
    models.load("later").await.unwrap();
    let loaded = models.in_memory().into_iter().find(|model| model.name() == "later").unwrap();
    let policy = loaded.policy();
    let profiles: Vec<&str> = policy.instructions.profiles().map(|(name, _)| name).collect();
    assert!(profiles.contains(&"second") && !profiles.contains(&"first"), "{profiles:?}");
}
