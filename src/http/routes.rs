//! The small routes: what is here, whether it lives, whether it takes work, how it does.

use axum::Json;
use axum::extract::State;
use axum::http::{Method, Uri, header};
use axum::response::IntoResponse;
use serde::Serialize;

use super::error::Failure;
use super::{ROUTES, Service};
use crate::rerank::RerankError;

#[derive(Serialize)]
pub struct Index<'a> {
    name: &'static str,
    version: &'static str,
    model: String,
    family: String,
    routes: &'a [&'a str],
}

#[derive(Serialize)]
pub struct Status {
    status: &'static str,
}

#[derive(Serialize)]
pub struct Models {
    object: &'static str,
    data: Vec<Model>,
}

#[derive(Serialize)]
struct Model {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

/// `GET /`
pub async fn index(State(service): State<Service>) -> Json<Index<'static>> {
    let reranker = service.reranker();
    Json(Index {
        name: "podium",
        version: env!("CARGO_PKG_VERSION"),
        model: reranker.names().first().cloned().unwrap_or_default(),
        family: reranker.family().to_owned(),
        routes: &ROUTES,
    })
}

/// `GET /health`: the process lives and answers.
pub async fn health() -> Json<Status> {
    Json(Status { status: "ok" })
}

/// `GET /ready`: new requests are welcome.
pub async fn ready(State(service): State<Service>) -> Result<Json<Status>, Failure> {
    if service.is_ready() { Ok(Json(Status { status: "ready" })) } else { Err(RerankError::Draining.into()) }
}

/// `GET /v1/models`, as `OpenAI` has it.
pub async fn models(State(service): State<Service>) -> Json<Models> {
    let data = service.reranker().names().iter().map(|name| Model {
        id: name.clone(),
        object: "model",
        created: service.started(),
        owned_by: "podium",
    });
    Json(Models { object: "list", data: data.collect() })
}

/// `GET /metrics`, in Prometheus's text format.
pub async fn metrics(State(service): State<Service>) -> impl IntoResponse {
    let text = service.telemetry().render(service.reranker().queue(), service.is_ready());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

pub async fn no_such_route(uri: Uri) -> Failure {
    Failure::NoSuchRoute { path: super::fields::quoted(uri.path()) }
}

pub async fn method_not_allowed(method: Method, uri: Uri) -> Failure {
    Failure::MethodNotAllowed { method: method.to_string(), path: uri.path().to_owned() }
}
