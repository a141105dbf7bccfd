//! Routes for administrators: list, load and unload models.
//!
//! They exist only if there are administrators' keys, which `auth` requires.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use utoipa::ToSchema;

use super::error::ApiError;
use super::route_table::{ADMIN_ROUTES, no_such_route_error};
use super::schemas::{ListObject, ModelObject, model_state};
use super::service::Service;
use crate::models::ModelStatus;
use crate::telemetry::mask_url_secrets;

#[derive(Serialize, ToSchema)]
#[schema(as = AdminModelList)]
pub struct Models {
    #[schema(inline)]
    object: ListObject,
    data: Vec<Model>,
    /// Bytes of all loaded models: their weights and the limits of their prefix caches.
    memory_bytes: u64,
    /// `models.max_memory_bytes`; 0 is no limit.
    max_memory_bytes: u64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = AdminModel)]
pub struct Model {
    id: String,
    #[schema(inline)]
    object: ModelObject,
    /// The names that requests may give it.
    names: Vec<String>,
    #[schema(schema_with = model_state)]
    state: &'static str,
    /// When it is loaded.
    #[schema(pattern = "^(start|on_demand|off)$")]
    load: &'static str,
    memory_bytes: u64,
    #[schema(required = true)]
    dtype: Option<String>,
    /// Why it could not be loaded.
    #[schema(required = true)]
    error: Option<String>,
}

impl From<ModelStatus> for Model {
    fn from(status: ModelStatus) -> Self {
        Self {
            id: status.names.first().cloned().unwrap_or_default(),
            object: ModelObject::Model,
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
    let [list_path, load_path, unload_path] = ADMIN_ROUTES;
    router.route(list_path, get(models)).route(load_path, post(load)).route(unload_path, post(unload))
}

/// `GET /admin/models`
async fn models(State(service): State<Service>) -> Result<Json<Models>, ApiError> {
    let models = service.models()?;
    let (memory_bytes, max_memory_bytes) = models.memory();
    let data = models.statuses().into_iter().map(Model::from).collect();
    Ok(Json(Models { object: ListObject::List, data, memory_bytes, max_memory_bytes }))
}

type Name = Result<Path<String>, PathRejection>;

/// `POST /admin/models/{model}/load`: answers when the model is loaded.
async fn load(State(service): State<Service>, uri: Uri, name: Name) -> Result<Json<Model>, ApiError> {
    let Path(name) = name.map_err(|_| no_such_route_error(&uri))?;
    Ok(Json(service.models()?.load(&name).await?.into()))
}

/// `POST /admin/models/{model}/unload`: answers when the requests that the model had accepted are
/// answered.
async fn unload(State(service): State<Service>, uri: Uri, name: Name) -> Result<Json<Model>, ApiError> {
    let Path(name) = name.map_err(|_| no_such_route_error(&uri))?;
    Ok(Json(service.models()?.unload(&name).await?.into()))
}
