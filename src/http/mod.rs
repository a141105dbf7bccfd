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
mod routes;
mod settings;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::middleware;
use axum::routing::{get, post};
use tower::util::option_layer;
use tower_http::catch_panic::CatchPanicLayer;

pub use auth::{AuthSettings, Authenticator};
pub use connections::serve_connections;
pub use cors::cors_layer;
pub use error::{ErrorBody, Failure, Row};
pub use settings::ServerSettings;

use crate::pipeline::Reranker;
use crate::telemetry::Telemetry;

/// Every route: what `/` lists and what metrics are labelled with.
pub const ROUTES: [&str; 8] =
    ["/", "/v1/rerank", "/v2/rerank", "/rerank", "/v1/models", "/health", "/ready", "/metrics"];

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
    // Whether the origins are origins was asked when the settings were read.
    let cors = cors_layer(&service.settings().cors_origins).unwrap_or_default();
    Router::new()
        .route("/", get(routes::index))
        .route("/v1/rerank", post(dialects::podium::rerank))
        .route("/v2/rerank", post(dialects::podium::rerank))
        .route("/rerank", post(dialects::podium::rerank))
        .route("/v1/models", get(routes::models))
        .route("/health", get(routes::health))
        .route("/ready", get(routes::ready))
        .route("/metrics", get(routes::metrics))
        .fallback(routes::no_such_route)
        .method_not_allowed_fallback(routes::method_not_allowed)
        .layer(CatchPanicLayer::custom(observe::panicked))
        .layer(middleware::from_fn_with_state(service.clone(), auth::authenticate))
        .layer(option_layer(cors))
        .layer(middleware::from_fn_with_state(service.clone(), observe::observe))
        .with_state(service)
}
