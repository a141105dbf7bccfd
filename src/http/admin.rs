//! Routes for administrators: which models there are, and loading and unloading them.
//!
//! They exist only where there are keys for them; `auth` asks for those.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;

use super::Service;
use super::error::Failure;
use crate::models::ModelStatus;
use crate::telemetry::mask_url_secrets;

/// Their paths.
pub const ROUTES: [&str; 3] = ["/admin/models", "/admin/models/{model}/load", "/admin/models/{model}/unload"];

#[derive(Serialize)]
pub struct Models {
    object: &'static str,
    data: Vec<Model>,
    /// Bytes of all loaded models: their weights, and the most that their prefix caches may hold.
    memory_bytes: u64,
    /// What they may take together; 0 is no limit.
    max_memory_bytes: u64,
}

#[derive(Serialize)]
pub struct Model {
    id: String,
    object: &'static str,
    names: Vec<String>,
    state: &'static str,
    load: &'static str,
    memory_bytes: u64,
    dtype: Option<String>,
    error: Option<String>,
}

impl From<ModelStatus> for Model {
    fn from(status: ModelStatus) -> Self {
        Self {
            id: status.names.first().cloned().unwrap_or_default(),
            object: "model",
            names: status.names,
            state: status.state,
            load: status.load.as_str(),
            memory_bytes: status.memory_bytes,
            dtype: status.dtype,
            error: status.error.map(|error| mask_url_secrets(&error).into_owned()),
        }
    }
}

/// Adds the routes.
pub fn add(router: Router<Service>) -> Router<Service> {
    let [list, in_, out] = ROUTES;
    router.route(list, get(models)).route(in_, post(load)).route(out, post(unload))
}

/// `GET /admin/models`
async fn models(State(service): State<Service>) -> Json<Models> {
    let (memory_bytes, max_memory_bytes) = service.models().memory();
    let data = service.models().statuses().into_iter().map(Model::from).collect();
    Json(Models { object: "list", data, memory_bytes, max_memory_bytes })
}

type Name = Result<Path<String>, PathRejection>;

/// `POST /admin/models/{model}/load`: answers when the model is loaded.
async fn load(State(service): State<Service>, uri: Uri, name: Name) -> Result<Json<Model>, Failure> {
    let Path(name) = name.map_err(|_| Failure::no_such_route(uri.path()))?;
    Ok(Json(service.models().load(&name).await?.into()))
}

/// `POST /admin/models/{model}/unload`: answers when the requests that the model had accepted are answered.
async fn unload(State(service): State<Service>, uri: Uri, name: Name) -> Result<Json<Model>, Failure> {
    let Path(name) = name.map_err(|_| Failure::no_such_route(uri.path()))?;
    Ok(Json(service.models().unload(&name).await?.into()))
}
