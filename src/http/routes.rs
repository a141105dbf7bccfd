//! The routes that do not rank: index, health, readiness, models, instructions, metrics.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{MatchedPath, Path, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::dialects;
use super::error::ApiError;
use super::route_table::{ADMIN_ROUTES, allowed_methods, no_such_route_error, other_paths};
use super::schemas::{ListObject, ModelObject, model_state};
use super::service::Service;
use crate::models::{ModelSet, ModelStatus};
use crate::pipeline::{CanaryReport, Reranker};
use crate::rerank::RerankError;
use crate::telemetry::ModelReport;

/// The playground: one self-contained page.
const PLAYGROUND: &str = include_str!("playground.html");

const PLAYGROUND_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                                 connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                                 frame-ancestors 'none'";

#[derive(Serialize, ToSchema)]
pub struct Index<'a> {
    #[schema(pattern = "^podium$")]
    name: &'static str,
    version: &'static str,
    model: String,
    family: String,
    routes: Vec<&'a str>,
}

#[derive(Serialize, ToSchema)]
pub struct Status {
    status: &'static str,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ModelList)]
pub struct Models {
    #[schema(inline)]
    object: ListObject,
    data: Vec<Model>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ModelInfo)]
pub struct Model {
    id: String,
    #[schema(inline)]
    object: ModelObject,
    created: u64,
    owned_by: &'static str,
    /// Xinference's clients look for it.
    #[serde(rename = "model_type")]
    #[schema(pattern = "^rerank$")]
    kind: &'static str,
    /// Whether the model takes requests now.
    #[schema(schema_with = model_state)]
    state: &'static str,
    /// The bytes that it takes now: its weights, the limit of its prefix cache, and its largest
    /// batch.
    memory_bytes: u64,
    /// The tokens that are read of a document by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    max_tokens_per_doc: Option<usize>,
    /// The names of its models, if it is a cascade.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    stages: Option<Vec<String>>,
    /// How it answered a few simple questions when it was loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    canary: Option<Canary>,
}

#[derive(Clone, Serialize, ToSchema)]
pub struct Canary {
    /// Questions whose answer the model ranked first.
    right: usize,
    /// All questions.
    questions: usize,
    /// The problem, where not all are right.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    warning: Option<String>,
}

impl From<&CanaryReport> for Canary {
    fn from(report: &CanaryReport) -> Self {
        Self { right: report.right, questions: report.questions, warning: report.warning.clone() }
    }
}

impl Model {
    fn new(service: &Service, name: &str, status: &ModelStatus) -> Self {
        Self {
            id: name.to_owned(),
            object: ModelObject::Model,
            created: service.started(),
            owned_by: "podium",
            kind: "rerank",
            state: status.state,
            memory_bytes: status.memory_bytes,
            max_tokens_per_doc: status.document_tokens,
            stages: status.stages.clone(),
            canary: status.canary.as_ref().map(Canary::from),
        }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = ProfileList)]
pub struct Profiles {
    #[schema(inline)]
    object: ListObject,
    data: Vec<Profile>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ProfileInfo)]
struct Profile {
    id: String,
    text: String,
    default: bool,
}

#[derive(Serialize, ToSchema)]
pub struct Version {
    version: &'static str,
}

#[derive(Serialize, ToSchema)]
pub struct NeedsKey {
    auth: bool,
}

/// `GET /`: the playground for browsers, JSON for all other clients.
pub async fn index(State(service): State<Service>, headers: HeaderMap) -> Response {
    let accepts_html = |value: &HeaderValue| value.as_bytes().windows(9).any(|part| part == b"text/html");
    let vary = (header::VARY, HeaderValue::from_static("accept"));
    if headers.get(header::ACCEPT).is_some_and(accepts_html) {
        let policy = (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(PLAYGROUND_POLICY));
        return ([vary, policy], Html(PLAYGROUND)).into_response();
    }
    let reranker = match service.reranker() {
        Ok(reranker) => reranker,
        Err(loading) => return loading.into_response(),
    };
    let has_administrators = service.authenticator().has_administrators();
    let administration = ADMIN_ROUTES.into_iter().filter(|_| has_administrators);
    let index = Index {
        name: "podium",
        version: env!("CARGO_PKG_VERSION"),
        model: reranker.names().first().cloned().unwrap_or_default(),
        family: reranker.family().to_owned(),
        routes: dialects::ROUTES.iter().map(|route| route.path).chain(other_paths()).chain(administration).collect(),
    };
    ([vary], Json(index)).into_response()
}

/// `GET /health`: the process is alive.
pub async fn health() -> Json<Status> {
    Json(Status { status: "ok" })
}

/// `GET /ready`: the server takes requests, or why it does not.
pub async fn ready(State(service): State<Service>) -> Result<Json<Status>, ApiError> {
    service.ready()?;
    Ok(Json(Status { status: "ready" }))
}

/// `GET /v1/models`, in `OpenAI`'s shape: every name that a request may give.
pub async fn models(State(service): State<Service>) -> Result<Json<Models>, ApiError> {
    Ok(Json(Models { object: ListObject::List, data: all_models(&service)? }))
}

fn all_models(service: &Service) -> Result<Vec<Model>, ApiError> {
    let under_every_name = |status: ModelStatus| {
        let names = status.names.iter();
        names.map(|name| Model::new(service, name, &status)).collect::<Vec<_>>()
    };
    Ok(service.models()?.statuses().into_iter().flat_map(under_every_name).collect())
}

/// `GET /v1/models/{model}`; a hub id contains a slash.
pub async fn model(
    State(service): State<Service>,
    uri: Uri,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Model>, ApiError> {
    let Path(name) = name.map_err(|_| no_such_route_error(&uri))?;
    let mut models = all_models(&service)?;
    if let Some(place) = models.iter().position(|model| model.id == name) {
        return Ok(Json(models.swap_remove(place)));
    }
    let names: Vec<String> = models.into_iter().map(|model| model.id).collect();
    Err(RerankError::unknown_model(&name, &names).into())
}

/// `GET /v1/instructions`: the stored instructions.
pub async fn instructions(State(service): State<Service>) -> Result<Json<Profiles>, ApiError> {
    let policy = service.reranker()?.policy();
    let instructions = &policy.instructions;
    let profile = |(name, text): (&str, &str)| Profile {
        id: name.to_owned(),
        text: text.to_owned(),
        default: instructions.default() == Some(name),
    };
    Ok(Json(Profiles { object: ListObject::List, data: instructions.profiles().map(profile).collect() }))
}

/// `GET /version`
pub async fn version() -> Json<Version> {
    Json(Version { version: env!("CARGO_PKG_VERSION") })
}

/// `GET /v1/cluster/auth`: Xinference's clients send their key only to a server that requires one.
pub async fn needs_key(State(service): State<Service>) -> Json<NeedsKey> {
    Json(NeedsKey { auth: service.authenticator().has_keys() })
}

/// `GET /info`, in text-embeddings-inference's shape.
pub async fn info(State(service): State<Service>) -> Result<Json<Value>, ApiError> {
    let reranker = service.reranker()?;
    let (facts, policy) = (reranker.facts(), reranker.policy());
    let limits = &policy.limits;
    let name = reranker.names().first();
    Ok(Json(json!({
        "model_id": name,
        "model_sha": null,
        "model_dtype": facts.dtype,
        "served_model_name": name,
        "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
        "max_concurrent_requests": reranker.queue().max_requests,
        "max_input_length": reranker.document_tokens(),
        "max_batch_tokens": reranker.schedule().max_batch_tokens,
        "max_batch_requests": null,
        "max_client_batch_size": limits.max_documents,
        "auto_truncate": true,
        "tokenization_workers": std::thread::available_parallelism().map_or(1, usize::from),
        "version": env!("CARGO_PKG_VERSION"),
        "sha": null,
        "docker_label": null,
    })))
}

/// `GET /metrics`, in Prometheus's text format.
pub async fn metrics(State(service): State<Service>) -> impl IntoResponse {
    let models = service.models().ok();
    for status in models.into_iter().flat_map(ModelSet::statuses) {
        let name = status.names.first().map_or("", String::as_str);
        service.telemetry().set_model_memory(name, status.memory_bytes);
    }
    let in_memory = models.map(ModelSet::in_memory).unwrap_or_default();
    let reports: Vec<ModelReport<'_>> = in_memory.iter().map(|reranker| report(reranker)).collect();
    let text = service.telemetry().render(&reports, service.ready().is_ok());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

fn report(reranker: &Reranker) -> ModelReport<'_> {
    ModelReport {
        name: reranker.name(),
        family: reranker.family(),
        facts: reranker.facts(),
        queue: reranker.queue(),
        batches: reranker.batches(),
        canary: reranker.canary().map(|report| report.right as f64 / report.questions.max(1) as f64),
    }
}

pub async fn no_such_route(uri: Uri) -> ApiError {
    no_such_route_error(&uri)
}

/// A method that the path does not have. `OPTIONS` asks which it has: the router lists them in
/// `Allow`.
pub async fn method_not_allowed(method: Method, matched: Option<MatchedPath>, uri: Uri) -> Response {
    if method == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    let allowed = allowed_methods(matched.as_ref().map_or(uri.path(), MatchedPath::as_str));
    ApiError::MethodNotAllowed { method: method.to_string(), path: uri.path().to_owned(), allowed }.into_response()
}
