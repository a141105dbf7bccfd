//! How clients talk: routes, bodies, failures. The only room that names axum.
//!
//! A dialect turns its wire JSON into a [`RerankRequest`](crate::rerank::RerankRequest) and the ranking back, in one
//! file of [`dialects`] each; what is the same for all of them is here. What a ranking is lies in `pipeline`.

pub mod auth;
mod body;
mod connections;
mod cors;
pub mod dialects;
mod error;
pub mod fields;
mod observe;
mod openapi;
mod patience;
mod routes;
mod settings;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{Request, State};
use axum::middleware;
use axum::routing::{get, post};
use axum::{Extension, Router};
use tower::util::option_layer;
use tower_http::catch_panic::CatchPanicLayer;

pub use auth::{AuthSettings, Authenticator};
pub use connections::serve_connections;
pub use cors::cors_layer;
pub use error::{ErrorBody, Failure, FailureShape, Row};
pub use settings::ServerSettings;

use observe::RequestId;

use crate::pipeline::Reranker;
use crate::rerank::Stages;
use crate::telemetry::{Outcomes, Telemetry};

/// The routes that do not rank; those that do are [`dialects::ROUTES`].
const OTHER_ROUTES: [&str; 15] = [
    "/v1/instructions",
    "/v1/models",
    "/v1/models/{*model}",
    "/models",
    "/v1/cluster/auth",
    "/infinity/models",
    "/info",
    "/health",
    "/ping",
    "/ready",
    "/version",
    "/metrics",
    "/openapi.json",
    "/docs",
    "/docs/{file}",
];

/// What a ranking may end in, 499 (the client left) included.
const RANKING_STATUSES: [u16; 14] = [200, 400, 401, 404, 405, 408, 413, 415, 422, 429, 499, 500, 503, 504];

/// What every other request may end in.
const OTHER_STATUSES: [u16; 4] = [200, 405, 499, 500];

/// What requests may end in, for each path that metrics are labelled with.
fn outcomes() -> Vec<Outcomes> {
    let ranking = dialects::ROUTES.iter().map(|route| (route.path, RANKING_STATUSES.to_vec()));
    let other = OTHER_ROUTES.iter().map(|route| {
        let more: &[u16] = match *route {
            "/ready" => &[503],
            "/docs/{file}" => &[404],
            "/v1/models/{*model}" => &[401, 404, 429],
            "/metrics" | "/v1/instructions" | "/v1/models" | "/models" | "/infinity/models" | "/info" => &[401, 429],
            _ => &[],
        };
        (*route, [&OTHER_STATUSES, more].concat())
    });
    let nowhere = [("other", vec![404, 499, 500])];
    let all = ranking.chain(other).chain(nowhere);
    all.map(|(route, statuses)| Outcomes { route, statuses }).collect()
}

/// A path that is served, as metrics are labelled with it, and what its failures look like before the body is read.
fn known_route(matched: Option<&str>) -> (&'static str, FailureShape) {
    let ranking = dialects::ROUTES.iter().find(|route| Some(route.path) == matched);
    ranking.map_or_else(
        || {
            let other = OTHER_ROUTES.iter().copied().find(|path| Some(*path) == matched);
            (other.unwrap_or("other"), FailureShape::Podium)
        },
        |route| (route.path, route.dialect.failure),
    )
}

/// What the handlers share.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

struct Inner {
    reranker: Arc<Reranker>,
    telemetry: Arc<Telemetry>,
    authenticator: Arc<Authenticator>,
    settings: ServerSettings,
    leaving: AtomicBool,
    started: u64,
}

impl Service {
    /// A service that is ready.
    #[must_use]
    pub fn new(
        reranker: Arc<Reranker>,
        telemetry: Arc<Telemetry>,
        authenticator: Arc<Authenticator>,
        settings: ServerSettings,
    ) -> Self {
        telemetry.expect(&outcomes(), &error::CODES);
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
        let leaving = AtomicBool::new(false);
        Self { inner: Arc::new(Inner { reranker, telemetry, authenticator, settings, leaving, started }) }
    }

    /// Makes `/ready` fail from now on. Requests are still taken.
    pub fn leave(&self) {
        self.inner.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether new requests are welcome here.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.inner.leaving.load(Ordering::Relaxed) && !self.inner.reranker.queue().draining
    }

    fn reranker(&self) -> &Reranker {
        &self.inner.reranker
    }

    fn telemetry(&self) -> &Telemetry {
        &self.inner.telemetry
    }

    fn authenticator(&self) -> &Authenticator {
        &self.inner.authenticator
    }

    fn settings(&self) -> &ServerSettings {
        &self.inner.settings
    }

    /// When the service started, in seconds since 1970.
    fn started(&self) -> u64 {
        self.inner.started
    }
}

/// All routes over a service.
pub fn router(service: Service) -> Router {
    let mut router = Router::new();
    for route in &dialects::ROUTES {
        let handler =
            move |State(service): State<Service>,
                  Extension(id): Extension<RequestId>,
                  Extension(stages): Extension<Stages>,
                  request: Request| { dialects::answer(route, service, id, stages, request) };
        router = router.route(route.path, post(handler));
    }
    // Whether the origins are origins was asked when the settings were read.
    let cors = cors_layer(&service.settings().cors_origins).unwrap_or_default();
    router
        .route("/", get(routes::index))
        .route("/v1/instructions", get(routes::instructions))
        .route("/v1/models", get(routes::models))
        .route("/v1/models/{*model}", get(routes::model))
        .route("/models", get(routes::models))
        .route("/v1/cluster/auth", get(routes::needs_key))
        .route("/infinity/models", get(routes::models))
        .route("/info", get(routes::info))
        .route("/health", get(routes::health))
        .route("/ping", get(routes::health))
        .route("/version", get(routes::version))
        .route("/ready", get(routes::ready))
        .route("/metrics", get(routes::metrics))
        .route("/openapi.json", get(openapi::document))
        .route("/docs", get(openapi::page))
        .route("/docs/{file}", get(openapi::file))
        .fallback(routes::no_such_route)
        .method_not_allowed_fallback(routes::method_not_allowed)
        .layer(CatchPanicLayer::custom(observe::panicked))
        .layer(middleware::from_fn_with_state(service.clone(), auth::authenticate))
        .layer(option_layer(cors))
        .layer(middleware::from_fn_with_state(service.clone(), observe::observe))
        .with_state(service)
}
