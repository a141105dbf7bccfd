//! Every path of the server, once: for the router, authentication, the API description, the index,
//! the metrics and the traces. The paths that rank are [`dialects::ROUTES`].

use axum::http::{Method, Uri};
use strsim::levenshtein;

use super::dialects;
use super::error::ApiError;
use super::error_body::ErrorShape;
use super::fields::quoted;
use crate::telemetry::{Outcomes, Route, RouteKind};

/// The routes for administrators: list, load and unload models.
pub const ADMIN_ROUTES: [&str; 3] = ["/admin/models", "/admin/models/{model}/load", "/admin/models/{model}/unload"];

/// The process is alive. The paths after the first are those of other servers and of Kubernetes.
pub const HEALTH: [&str; 6] =
    ["/health", "/ping", "/healthz", "/livez", "/v1/health/live", "/weaviate/.well-known/live"];
/// The server takes requests.
pub const READY: [&str; 4] = ["/ready", "/readyz", "/v1/health/ready", "/weaviate/.well-known/ready"];
/// The server's version.
pub const VERSION: [&str; 2] = ["/version", "/weaviate/meta"];
/// Whether requests need a key.
pub const NEEDS_KEY: &str = "/v1/cluster/auth";
/// Every name that a request may give a model.
pub const MODELS: [&str; 3] = ["/v1/models", "/models", "/infinity/models"];
/// One model. A hub id has a slash in it.
pub const MODEL: &str = "/v1/models/{*model}";
/// The stored instructions.
pub const INSTRUCTIONS: &str = "/v1/instructions";
/// The default model, as text-embeddings-inference describes it.
pub const INFO: &str = "/info";
/// Metrics in Prometheus's format.
pub const METRICS: &str = "/metrics";
/// The API description.
pub const OPENAPI: &str = "/openapi.json";
/// The API description as a page.
pub const DOCS: &str = "/docs";
/// A file of that page.
pub const DOCS_FILE: &str = "/docs/{file}";

/// `GET /`: the path of a dialect too, but this one ranks nothing.
const INDEX: Route = Route::other("/");

/// Every path that is no route.
const NO_ROUTE: Route = Route::other("other");

/// The ends of paths for other tasks than ranking, in the APIs of other servers.
const OTHER_TASKS: [&str; 6] =
    ["/embeddings", "/embed", "/chat/completions", "/completions", "/responses", "/generate"];

/// Every status of a request that ranks; 499 is a client that disconnected.
const RANKING_STATUSES: [u16; 15] = [200, 204, 400, 401, 404, 405, 408, 413, 415, 422, 429, 499, 500, 503, 504];

/// Statuses of every other request.
const OTHER_STATUSES: [u16; 5] = [200, 204, 405, 499, 500];

/// All paths but `/`, the administrators' and those that rank.
pub fn other_paths() -> impl Iterator<Item = &'static str> {
    let single = [INSTRUCTIONS, MODEL, NEEDS_KEY, INFO, METRICS, OPENAPI, DOCS, DOCS_FILE];
    MODELS.into_iter().chain(single).chain(HEALTH).chain(READY).chain(VERSION)
}

/// Whether requests to this path need no key although the server has keys.
pub fn is_open(path: &str) -> bool {
    let single = [NEEDS_KEY, OPENAPI, DOCS, DOCS_FILE];
    HEALTH.into_iter().chain(READY).chain(VERSION).chain(single).any(|open| open == path)
}

/// The statuses of each route, so that their metrics start at 0.
pub fn outcomes() -> Vec<Outcomes> {
    let ranking = dialects::ROUTES.iter().map(|route| (telemetry_route(route), RANKING_STATUSES.to_vec()));
    let other = other_paths().map(|path| {
        let more: &[u16] = match path {
            OPENAPI => &[503],
            DOCS_FILE => &[404],
            MODEL => &[401, 404, 429, 503],
            METRICS => &[401, 429],
            INSTRUCTIONS | INFO => &[401, 429, 503],
            _ if MODELS.contains(&path) => &[401, 429, 503],
            _ if READY.contains(&path) => &[503],
            _ => &[],
        };
        (other_route(path), [&OTHER_STATUSES, more].concat())
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
    let other = other_paths().map(other_route).chain([INDEX]);
    let known = other.chain(ADMIN_ROUTES.map(admin_route)).find(|route| route.path == path);
    (known.unwrap_or(NO_ROUTE), ErrorShape::Podium)
}

/// The error for a path that is no route.
pub fn no_such_route_error(uri: &Uri) -> ApiError {
    let path = uri.path();
    let hint = if let Some(meant) = probable_route(path) {
        format!("did you mean {meant}?")
    } else if path == ADMIN_ROUTES[0] || (path.starts_with(ADMIN_ROUTES[0]) && path.ends_with("load")) {
        "administrators' routes need auth.admin_keys_file".to_owned()
    } else if OTHER_TASKS.iter().any(|task| path.trim_end_matches('/').ends_with(task)) {
        "this server only ranks documents, with POST /v1/rerank".to_owned()
    } else {
        "GET / lists the routes".to_owned()
    };
    ApiError::NoSuchRoute { path: quoted(path), hint }
}

/// The methods of a route, by its path with placeholders.
pub fn allowed_methods(matched: &str) -> &'static str {
    let path = matched.trim_end_matches('/');
    if path.is_empty() {
        "GET or POST"
    } else if path != ADMIN_ROUTES[0]
        && dialects::ROUTES.iter().map(|route| route.path).chain(ADMIN_ROUTES).any(|route| route == path)
    {
        "POST"
    } else {
        "GET"
    }
}

/// The route that was probably meant by a path that is none: the longest one that the path ends
/// with, or one that is spelt almost like it.
pub fn probable_route(path: &str) -> Option<&'static str> {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let path = format!("/{}", segments.join("/")).to_ascii_lowercase();
    let all = || dialects::ROUTES.iter().map(|route| route.path).chain(other_paths()).filter(|route| *route != "/");
    let suffix = all().filter(|route| path.ends_with(route)).max_by_key(|route| route.len());
    let near = || all().map(|route| (levenshtein(&path, route), route)).min();
    suffix.or_else(|| near().filter(|(distance, _)| *distance <= 2).map(|(_, route)| route))
}

/// A route that neither ranks nor administers. Probes and scrapers request some of them all day
/// long.
fn other_route(path: &'static str) -> Route {
    let is_quiet = path == METRICS || HEALTH.contains(&path) || READY.contains(&path);
    if is_quiet { Route::quiet(path) } else { Route::other(path) }
}

const fn admin_route(path: &'static str) -> Route {
    Route::new(path, RouteKind::Admin)
}

fn telemetry_route(route: &dialects::Route) -> Route {
    Route::new(route.path, route.kind())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_quiet_under_every_name_and_other_routes_are_not() {
        let is_quiet = |path| known_route(&Method::GET, Some(path)).0.is_quiet();
        for path in HEALTH.into_iter().chain(READY).chain([METRICS]) {
            assert!(is_quiet(path), "{path}");
        }
        for path in MODELS.into_iter().chain([INFO, "/", "/v1/rerank"]) {
            assert!(!is_quiet(path), "{path}");
        }
    }

    #[test]
    fn every_path_is_listed_once() {
        let mut paths: Vec<&str> = other_paths().collect();
        paths.sort_unstable();
        let count = paths.len();
        paths.dedup();
        assert_eq!(paths.len(), count);
    }
}
