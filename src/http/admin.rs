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
use crate::models::{ModelStatus, ShadowReport};
use crate::rerank::agreement::RankingCost;
use crate::telemetry::mask_url_secrets;

#[derive(Serialize, ToSchema)]
#[schema(as = AdminModelList)]
pub struct Models {
    #[schema(inline)]
    object: ListObject,
    data: Vec<Model>,
    /// Bytes of all loaded models: their weights, the limits of their prefix caches, and their
    /// largest batches.
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
    /// The names of its models, if it is a cascade.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    stages: Option<Vec<String>>,
    /// Its comparison so far, if it is the shadow of another model.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    shadow: Option<ShadowReply>,
}

/// A shadow's rankings beside those that were sent.
#[derive(Serialize, ToSchema)]
#[schema(as = ShadowReport)]
pub struct ShadowReply {
    /// The model whose requests it ranks.
    of: String,
    /// The share of requests that it ranks.
    share: f64,
    /// Requests that both have ranked.
    compared: u64,
    /// Requests that were drawn and not ranked: the shadow was busy or not loaded, or failed.
    skipped: u64,
    /// Rankings of which another document is first.
    top_changed: u64,
    /// The mean of Kendall's tau over the documents that were sent: 1 is the same order, -1 the
    /// reverse.
    #[schema(required = true)]
    kendall_tau: Option<f64>,
    /// Tokens that the model read for the compared requests.
    tokens: usize,
    /// Tokens that the shadow read for them.
    shadow_tokens: usize,
    /// Device time of the model for them.
    forward_ms: u64,
    /// Device time of the shadow for them.
    shadow_forward_ms: u64,
}

impl From<ShadowReport> for ShadowReply {
    fn from(report: ShadowReport) -> Self {
        let milliseconds = |cost: &RankingCost| u64::try_from(cost.forward.as_millis()).unwrap_or(u64::MAX);
        Self {
            kendall_tau: report.kendall_tau(),
            tokens: report.sent.tokens,
            shadow_tokens: report.shadow.tokens,
            forward_ms: milliseconds(&report.sent),
            shadow_forward_ms: milliseconds(&report.shadow),
            of: report.of,
            share: report.share,
            compared: report.compared,
            skipped: report.skipped,
            top_changed: report.top_changed,
        }
    }
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
            stages: status.stages,
            shadow: status.shadow.map(ShadowReply::from),
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
