//! Every route, as the index, the metrics and the traces name it.

use axum::http::{Method, Uri};
use strsim::levenshtein;

use super::dialects;
use super::error::ApiError;
use super::error_body::ErrorShape;
use crate::telemetry::{Outcomes, Route, RouteKind};

/// The routes for administrators: list, load and unload models.
pub const ADMIN_ROUTES: [&str; 3] = ["/admin/models", "/admin/models/{model}/load", "/admin/models/{model}/unload"];

/// All routes but the administrators' and the ranking ones, which are [`dialects::ROUTES`].
pub const OTHER_ROUTES: [&str; 23] = [
    "/v1/instructions",
    "/v1/models",
    "/v1/models/{*model}",
    "/models",
    "/v1/cluster/auth",
    "/infinity/models",
    "/info",
    "/health",
    "/ping",
    "/healthz",
    "/livez",
    "/v1/health/live",
    "/ready",
    "/readyz",
    "/v1/health/ready",
    "/weaviate/.well-known/live",
    "/weaviate/.well-known/ready",
    "/weaviate/meta",
    "/version",
    "/metrics",
    "/openapi.json",
    "/docs",
    "/docs/{file}",
];

/// Every status of a request that ranks; 499 is a client that disconnected.
const RANKING_STATUSES: [u16; 15] = [200, 204, 400, 401, 404, 405, 408, 413, 415, 422, 429, 499, 500, 503, 504];

/// Statuses of every other request.
const OTHER_STATUSES: [u16; 5] = [200, 204, 405, 499, 500];

/// The statuses of each route, so that their metrics start at 0.
pub fn outcomes() -> Vec<Outcomes> {
    let ranking = dialects::ROUTES.iter().map(|route| (telemetry_route(route), RANKING_STATUSES.to_vec()));
    let other = OTHER_ROUTES.iter().map(|route| {
        let more: &[u16] = match *route {
            "/ready" | "/readyz" | "/v1/health/ready" | "/weaviate/.well-known/ready" | "/openapi.json" => &[503],
            "/docs/{file}" => &[404],
            "/v1/models/{*model}" => &[401, 404, 429, 503],
            "/metrics" => &[401, 429],
            "/v1/instructions" | "/v1/models" | "/models" | "/infinity/models" | "/info" => &[401, 429, 503],
            _ => &[],
        };
        (Route::other(route), [&OTHER_STATUSES, more].concat())
    });
    let index = [(INDEX, [&OTHER_STATUSES[..], &[503]].concat())];
    let admin = ADMIN_ROUTES
        .iter()
        .map(|route| (admin_route(route), [&OTHER_STATUSES[..], &[401, 404, 409, 429, 503]].concat()));
    let no_route = [(NO_ROUTE, vec![404, 499, 500])];
    let all = ranking.chain(other).chain(index).chain(admin).chain(no_route);
    all.map(|(route, statuses)| Outcomes { route, statuses }).collect()
}

/// The route of a request as telemetry names it, and the shape of its errors before the body is
/// read.
pub fn known_route(method: &Method, matched: Option<&str>) -> (Route, ErrorShape) {
    let Some(path) = matched else { return (NO_ROUTE, ErrorShape::Podium) };
    let path = if path == INDEX.path { path } else { path.trim_end_matches('/') };
    let is_ranking = |route: &&dialects::Route| route.path == path && (path != INDEX.path || method == Method::POST);
    if let Some(route) = dialects::ROUTES.iter().find(is_ranking) {
        return (telemetry_route(route), route.dialect.errors);
    }
    let other = OTHER_ROUTES.into_iter().map(Route::other).chain([INDEX]);
    let known = other.chain(ADMIN_ROUTES.map(admin_route)).find(|route| route.path == path);
    (known.unwrap_or(NO_ROUTE), ErrorShape::Podium)
}

/// The error for a path that is no route.
pub fn no_such_route_error(uri: &Uri) -> ApiError {
    ApiError::no_such_route(uri.path(), probable_route(uri.path()))
}

/// The route that was probably meant by a path that is none: the longest one that the path ends
/// with, or one that is spelt almost like it.
pub fn probable_route(path: &str) -> Option<&'static str> {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let path = format!("/{}", segments.join("/")).to_ascii_lowercase();
    let all = || dialects::ROUTES.iter().map(|route| route.path).chain(OTHER_ROUTES).filter(|route| *route != "/");
    let suffix = all().filter(|route| path.ends_with(route)).max_by_key(|route| route.len());
    let near = || all().map(|route| (levenshtein(&path, route), route)).min();
    suffix.or_else(|| near().filter(|(distance, _)| *distance <= 2).map(|(_, route)| route))
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
