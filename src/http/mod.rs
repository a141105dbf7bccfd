//! How clients talk: routes, bodies, failures. The only room that names axum.
//!
//! A dialect turns its wire JSON into a [`RerankRequest`](crate::rerank::RerankRequest) and the ranking back, in one
//! file of [`dialects`] each; what is the same for all of them is here. What a ranking is lies in `pipeline`.

mod access_log;
mod admin;
pub mod auth;
mod body;
mod body_memory;
mod connections;
mod cors;
pub mod dialects;
mod error;
mod error_body;
pub mod fields;
mod off_thread;
mod openapi;
mod rank;
mod routes;
mod schemas;
mod settings;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware;
use axum::routing::{get, post};
use tower::util::option_layer;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};

pub use auth::{AuthSettings, Authenticator};
pub use connections::serve_connections;
pub use cors::cors_layer;
pub use error::{ApiError, ErrorCode, ErrorSpec};
pub use error_body::ErrorShape;
pub use settings::ServerSettings;

use body_memory::BodyMemoryLimit;

use crate::models::ModelSet;
use crate::pipeline::Reranker;
use crate::rerank::RerankError;
use crate::telemetry::{Outcomes, Route, RouteKind, Telemetry};

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
    let ranking = dialects::ROUTES.iter().map(|route| (telemetry_route(route), RANKING_STATUSES.to_vec()));
    let other = OTHER_ROUTES.iter().map(|route| {
        let more: &[u16] = match *route {
            "/ready" => &[503],
            "/docs/{file}" => &[404],
            "/v1/models/{*model}" => &[401, 404, 429],
            "/metrics" | "/v1/instructions" | "/v1/models" | "/models" | "/infinity/models" | "/info" => &[401, 429],
            _ => &[],
        };
        (Route::other(route), [&OTHER_STATUSES, more].concat())
    });
    let index = [(INDEX, OTHER_STATUSES.to_vec())];
    let admin =
        admin::ROUTES.iter().map(|route| (admin_route(route), [&OTHER_STATUSES[..], &[401, 404, 409, 429]].concat()));
    let no_route = [(NO_ROUTE, vec![404, 499, 500])];
    let all = ranking.chain(other).chain(index).chain(admin).chain(no_route);
    all.map(|(route, statuses)| Outcomes { route, statuses }).collect()
}

/// The route of a request as telemetry names it, and the shape of its errors before the body is read.
fn known_route(method: &Method, matched: Option<&str>) -> (Route, ErrorShape) {
    let Some(path) = matched else { return (NO_ROUTE, ErrorShape::Podium) };
    let is_ranking = |route: &&dialects::Route| route.path == path && (path != INDEX.path || method == Method::POST);
    if let Some(route) = dialects::ROUTES.iter().find(is_ranking) {
        return (telemetry_route(route), route.dialect.errors);
    }
    let other = OTHER_ROUTES.into_iter().map(Route::other).chain([INDEX]);
    let known = other.chain(admin::ROUTES.map(admin_route)).find(|route| route.path == path);
    (known.unwrap_or(NO_ROUTE), ErrorShape::Podium)
}

/// `GET /`: the path of a dialect too, but this one ranks nothing.
const INDEX: Route = Route::other("/");

/// Every path that is no route.
const NO_ROUTE: Route = Route::other("other");

const fn admin_route(path: &'static str) -> Route {
    Route { path, kind: RouteKind::Admin }
}

fn telemetry_route(route: &dialects::Route) -> Route {
    Route { path: route.path, kind: route.kind() }
}

/// What the handlers share.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

struct Inner {
    /// Empty while they load.
    models: OnceLock<ModelSet>,
    telemetry: Arc<Telemetry>,
    authenticator: Arc<Authenticator>,
    settings: ServerSettings,
    body_memory: BodyMemoryLimit,
    leaving: AtomicBool,
    started: u64,
}

impl Service {
    /// A service without models: it answers `/health`, and every request that needs one gets 503.
    #[must_use]
    pub fn new(telemetry: Arc<Telemetry>, authenticator: Arc<Authenticator>, settings: ServerSettings) -> Self {
        let codes: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.as_str()).chain([error::OWN_DEADLINE]).collect();
        telemetry.expect(&outcomes(), &codes);
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
        let body_memory = BodyMemoryLimit::new(settings.max_parsing_bytes);
        let (models, leaving) = (OnceLock::new(), AtomicBool::new(false));
        Self { inner: Arc::new(Inner { models, telemetry, authenticator, settings, body_memory, leaving, started }) }
    }

    /// Serves these models from now on. Only the first call counts.
    pub fn set_models(&self, models: impl Into<ModelSet>) {
        let _first = self.inner.models.set(models.into());
    }

    /// Makes `/ready` fail from now on. Requests are still accepted.
    pub fn start_leaving(&self) {
        self.inner.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether the server takes new requests.
    ///
    /// # Errors
    /// Why it does not.
    pub fn ready(&self) -> Result<(), ApiError> {
        // A device failure comes first: it may be why the server leaves.
        self.models()?.ready()?;
        if self.is_leaving() { Err(RerankError::Draining.into()) } else { Ok(()) }
    }

    /// Whether the server was told to stop.
    fn is_leaving(&self) -> bool {
        self.inner.leaving.load(Ordering::Relaxed)
    }

    /// The models.
    ///
    /// # Errors
    /// [`ApiError::ModelsLoading`].
    fn models(&self) -> Result<&ModelSet, ApiError> {
        self.inner.models.get().ok_or(ApiError::ModelsLoading)
    }

    /// The default model.
    ///
    /// # Errors
    /// [`ApiError::ModelsLoading`].
    fn reranker(&self) -> Result<&Reranker, ApiError> {
        Ok(self.models()?.default_model())
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

    fn body_memory(&self) -> &BodyMemoryLimit {
        &self.inner.body_memory
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
        let handler = move |State(service): State<Service>, request: Request| rank::rank(route, service, request);
        router = router.route(route.path, post(handler));
    }
    router = router
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
        .method_not_allowed_fallback(routes::method_not_allowed);
    if service.authenticator().has_administrators() {
        router = admin::add(router);
    }
    with_middleware(router, service)
}

/// The middleware around every route, the innermost first.
fn with_middleware(router: Router<Service>, service: Service) -> Router {
    // Whether the origins are origins was asked when the settings were read.
    let cors = cors_layer(&service.settings().cors_origins).unwrap_or_default();
    router
        .layer(middleware::from_fn_with_state(service.clone(), auth::authenticate))
        .layer(option_layer(cors))
        .layer(CatchPanicLayer::custom(access_log::respond_to_panic))
        .layer(middleware::from_fn_with_state(service.clone(), access_log::access_log))
        .layer(PropagateRequestIdLayer::new(access_log::REQUEST_ID))
        .layer(SetRequestIdLayer::new(access_log::REQUEST_ID, MakeRequestUuid))
        .layer(middleware::map_request(access_log::remove_unsafe_request_id))
        .with_state(service)
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::StatusCode;
    use tower::ServiceExt;

    use super::*;
    use crate::config::{Configuration, Sources};
    use crate::pipeline::{Policy, load_instructions};
    use crate::runtime::fake::FakeRuntime;
    use crate::runtime::{Checkpoint, Runtime};
    use crate::schedule::AdmissionControl;

    fn service() -> Service {
        let settings = Configuration::load(&Sources::default()).unwrap().settings;
        let runtime = FakeRuntime::new();
        let prompter = crate::app::prompter(&Checkpoint::embedded(), runtime.facts(), "auto").unwrap();
        let instructions = load_instructions(&settings.instructions, None).unwrap();
        let telemetry = Arc::<Telemetry>::default();
        let policy = Policy { limits: settings.limits, instructions };
        let reranker = Reranker::new(
            vec!["a-model".to_owned()],
            prompter,
            runtime,
            policy,
            &AdmissionControl::new(&settings.schedule),
        );
        let authenticator = Arc::new(Authenticator::new(&settings.auth, Vec::new()).unwrap());
        let service = Service::new(telemetry, authenticator, settings.server);
        service.set_models(reranker);
        service
    }

    #[tokio::test]
    async fn a_handler_that_panics_is_one_500_with_an_id_and_the_next_request_is_served() {
        async fn broken() -> StatusCode {
            std::panic::panic_any("a bug")
        }
        let router =
            with_middleware(Router::new().route("/health", get(broken)).route("/ping", get(routes::health)), service());
        let ask = |path: &str| router.clone().oneshot(Request::get(path).body(Body::empty()).unwrap());
        let failed = ask("/health").await.unwrap();
        assert_eq!(failed.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(failed.headers().contains_key("x-request-id"));
        let body = to_bytes(failed.into_body(), usize::MAX).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&body["error"]["code"], &body["message"]), (&"internal_error".into(), &"internal error".into()));
        assert_eq!(ask("/ping").await.unwrap().status(), StatusCode::OK);
    }
}
