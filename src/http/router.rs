//! The routes, and the middleware around them.

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware;
use axum::routing::{MethodRouter, get, post};
use tower::Layer;
use tower::util::{MapRequestLayer, option_layer};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http_7::CompressionLevel;
use tower_http_7::compression::CompressionLayer;
use tower_http_7::compression::predicate::SizeAbove;

use super::cors::cors_layer;
use super::path_prefix::remove_prefix;
use super::service::Service;
use super::{access_log, admin, auth, dialects, openapi, rank, route_table, routes};

/// Shorter responses are not compressed.
const MIN_COMPRESSED_BYTES: u64 = 1024;

/// All routes of a service, with the middleware around them.
pub fn router(service: Service) -> Router {
    let mut router = Router::new();
    for route in &dialects::ROUTES {
        let handler = move |State(service): State<Service>, request: Request| rank::rank(route, service, request);
        router = router.route(route.path, post(handler));
        if route.path != "/" {
            // Some clients join addresses with a slash at the end.
            router = router.route(&format!("{}/", route.path), post(handler));
        }
    }
    let groups: [(&[&str], MethodRouter<Service>); 4] = [
        (&route_table::HEALTH, get(routes::health)),
        (&route_table::READY, get(routes::ready)),
        (&route_table::VERSION, get(routes::version)),
        (&route_table::MODELS, get(routes::models)),
    ];
    for (paths, handler) in groups {
        router = paths.iter().fold(router, |router, path| router.route(path, handler.clone()));
    }
    router = router
        .route("/", get(routes::index))
        .route(route_table::MODEL, get(routes::model))
        .route(route_table::INSTRUCTIONS, get(routes::instructions))
        .route(route_table::INFO, get(routes::info))
        .route(route_table::NEEDS_KEY, get(routes::needs_key))
        .route(route_table::METRICS, get(routes::metrics))
        .route(route_table::OPENAPI, get(openapi::document))
        .route(route_table::DOCS, get(openapi::page))
        .route(route_table::DOCS_FILE, get(openapi::file))
        .fallback(routes::no_such_route)
        .method_not_allowed_fallback(routes::method_not_allowed);
    if service.authenticator().has_administrators() {
        router = admin::add(router);
    }
    with_middleware(router, service)
}

/// The middleware around every route, the innermost first.
fn with_middleware(router: Router<Service>, service: Service) -> Router {
    let prefix = service.settings().path_prefix.clone();
    // The origins were checked when the settings were read.
    let cors = cors_layer(&service.settings().cors_origins).unwrap_or_default();
    let router = router
        .layer(middleware::from_fn_with_state(service.clone(), auth::authenticate))
        .layer(option_layer(cors))
        .layer(CatchPanicLayer::custom(access_log::respond_to_panic))
        .layer(middleware::from_fn_with_state(service.clone(), access_log::access_log))
        .layer(PropagateRequestIdLayer::new(access_log::REQUEST_ID))
        .layer(SetRequestIdLayer::new(access_log::REQUEST_ID, MakeRequestUuid))
        .layer(middleware::map_request(access_log::remove_unsafe_request_id))
        .layer(
            CompressionLayer::new()
                .quality(CompressionLevel::Fastest)
                .compress_when(SizeAbove::new(MIN_COMPRESSED_BYTES)),
        )
        .with_state(service);
    // Before the routes are chosen.
    let without_prefix = MapRequestLayer::new(move |request| remove_prefix(&prefix, request));
    Router::new().fallback_service(without_prefix.layer(router))
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::StatusCode;
    use tower::ServiceExt;

    use std::sync::Arc;

    use super::super::auth::Authenticator;
    use super::*;
    use crate::config::{Configuration, Sources};
    use crate::pipeline::{Policy, Reranker, load_instructions};
    use crate::runtime::fake::FakeRuntime;
    use crate::runtime::{Checkpoint, Runtime};
    use crate::schedule::AdmissionControl;
    use crate::telemetry::Telemetry;

    fn service() -> Service {
        let settings = Configuration::load(&Sources::default()).unwrap().settings;
        let runtime = FakeRuntime::new();
        let prompter = crate::app::prompter(&Checkpoint::podium_nano(), runtime.facts(), "auto").unwrap();
        let instructions = load_instructions(&settings.instructions, None).unwrap();
        let telemetry = Arc::<Telemetry>::default();
        let policy = Policy { limits: settings.limits, passages: settings.passages, instructions };
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
