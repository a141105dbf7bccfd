//! A server on a free port over a fake runtime, and a client for it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use podium::app::{self, ShutdownOutcome};
use podium::config::{Configuration, Settings, Sources};
use podium::http::Authenticator;
use podium::models::ModelSet;
use podium::pipeline::Reranker;
use podium::runtime::fake::{FakeControls, FakeRuntime};
use podium::runtime::{Checkpoint, Runtime};
use podium::schedule::AdmissionControl;
use podium::telemetry::{TelemetryPlan, Traces};
use reqwest::header::HeaderMap;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Something that should happen at once, and does not, fails its test after this.
const PATIENCE: Duration = Duration::from_secs(20);

/// The way of a request over a fake runtime.
pub fn fake_reranker(names: &[&str], settings: &Settings) -> (Reranker, FakeControls) {
    fake_reranker_in(names, settings, &AdmissionControl::new(&settings.schedule))
}

/// As [`fake_reranker`], with the limits and the device that other models share.
pub fn fake_reranker_in(names: &[&str], settings: &Settings, admission: &AdmissionControl) -> (Reranker, FakeControls) {
    fake_reranker_of("podium-nano", names, settings, admission)
}

/// As [`fake_reranker_in`], with the prompts and the read-out of another family.
pub fn fake_reranker_of(
    family: &str,
    names: &[&str],
    settings: &Settings,
    admission: &AdmissionControl,
) -> (Reranker, FakeControls) {
    let runtime = FakeRuntime::new();
    let controls = runtime.controls();
    let checkpoint = Checkpoint::embedded(family).unwrap_or_else(|| {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/fixtures");
        Checkpoint::folder(&fixtures.join(family)).unwrap()
    });
    let prompter = app::prompter(&checkpoint, runtime.facts(), family).unwrap();
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    let policy = app::policy(settings).unwrap();
    (Reranker::new(names, prompter, runtime, policy, admission), controls)
}

/// Closes the connection of a request that has been sent. A client that closes it at once could be
/// one that only has nothing more to send.
pub async fn hang_up(request: &JoinHandle<Answer>) {
    tokio::time::sleep(Duration::from_millis(50)).await;
    request.abort();
}

/// A running server.
pub struct Server {
    pub address: String,
    pub controls: FakeControls,
    pub authenticator: Arc<Authenticator>,
    client: Client,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<ShutdownOutcome>,
    /// Hands the spans of this thread, on which the server's tasks run, to the server's traces.
    _spans: Option<DefaultGuard>,
}

impl Server {
    /// A server with default settings.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A server with settings of its own.
    pub async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Configuration::load(&Sources::default()).unwrap().settings;
        change(&mut settings);
        let (reranker, controls) = fake_reranker(&["podium-nano", "vendor/rerank"], &settings);
        Self::over(reranker, controls, &settings).await
    }

    /// A server whose model is of this family.
    pub async fn of_family(family: &str, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Configuration::load(&Sources::default()).unwrap().settings;
        change(&mut settings);
        let admission = AdmissionControl::new(&settings.schedule);
        let (reranker, controls) = fake_reranker_of(family, &[family], &settings, &admission);
        Self::over(reranker, controls, &settings).await
    }

    /// A server of these models.
    pub async fn over(models: impl Into<ModelSet>, controls: FakeControls, settings: &Settings) -> Self {
        let models = models.into();
        Self::start_loading(async { Ok(models) }, controls, settings).await
    }

    /// A server whose models are there when `loading` has ended.
    pub async fn start_loading(
        loading: impl Future<Output = anyhow::Result<ModelSet>> + Send + 'static,
        controls: FakeControls,
        settings: &Settings,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let authenticator = Arc::new(Authenticator::new(&settings.auth, Vec::new()).unwrap());
        let door = Arc::clone(&authenticator);
        let plan = TelemetryPlan::new(&settings.telemetry, |_| None).unwrap();
        let layer = plan.traces.as_ref().map(Traces::layer);
        let spans = layer.map(|layer| tracing_subscriber::registry().with(layer).set_default());
        let (stop, stopped) = oneshot::channel();
        let settings = settings.server.clone();
        let task = tokio::spawn(async move {
            let stopped = async { stopped.await.unwrap() };
            app::serve(&settings, plan, door, loading, listener, stopped).await.unwrap()
        });
        let client = Client::builder().no_proxy().build().unwrap();
        Self { address, controls, authenticator, client, stop: Some(stop), task, _spans: spans }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.address)).timeout(PATIENCE)
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    /// Posts JSON to `/v1/rerank`.
    pub async fn rerank(&self, body: &Value) -> Answer {
        self.post("/v1/rerank", body).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        Answer::of(self.request(Method::POST, path).json(body)).await
    }

    /// Posts a body as it is, as JSON.
    pub async fn post_text(&self, body: impl Into<reqwest::Body>) -> Answer {
        let request = self.request(Method::POST, "/v1/rerank").header("content-type", "application/json");
        Answer::of(request.body(body)).await
    }

    /// Starts a rerank whose answer is collected later.
    pub fn rerank_later(&self, body: &Value) -> JoinHandle<Answer> {
        tokio::spawn(Answer::of(self.request(Method::POST, "/v1/rerank").json(body)))
    }

    /// Tells the server to stop.
    pub fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Waits until the server has stopped.
    pub async fn outcome(self) -> ShutdownOutcome {
        tokio::time::timeout(PATIENCE, self.task).await.expect("the server does not stop").unwrap()
    }

    /// Asks for the metrics until they say this: what happens in the server after an answer, or without one, is seen
    /// there first.
    pub async fn until_metrics_say(&self, line: &str) {
        let mut last = String::new();
        for _ in 0..400 {
            last = self.get("/metrics").await.text;
            if last.lines().any(|found| found == line) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the metrics never said {line:?}:\n{last}");
    }
}

/// The response.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub async fn of(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Self { status, headers, text: response.text().await.unwrap() }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Asserts that this is a failure: status, headers, and the whole body.
    pub fn assert_failure(&self, status: u16, code: &str, param: Option<&str>, message: &str) {
        let kind = match status {
            401 => "authentication_error",
            429 => "rate_limit_error",
            500 => "server_error",
            503 => "service_unavailable_error",
            504 => "timeout_error",
            _ => "invalid_request_error",
        };
        let expected = serde_json::json!({
            "error": {"message": message, "type": kind, "param": param, "code": code},
            "message": message,
            "detail": message,
            "id": self.header("x-request-id"),
        });
        assert_eq!(self.json(), expected);
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.header("content-type"), "application/json");
        assert!(!self.header("x-request-id").is_empty());
        assert_eq!(self.header("www-authenticate"), if status == 401 { "Bearer" } else { "" });
        assert_eq!(self.headers.contains_key("retry-after"), matches!(status, 429 | 503), "{:?}", self.headers);
    }
}
