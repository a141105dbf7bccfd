//! The description of the API: `/openapi.json`, and Swagger UI at `/docs`.
//!
//! The description is derived from the Rust types of requests and replies and from the list of
//! routes, once; the models, profiles and limits of this server are filled in for each request.

mod document;
mod parts;
mod server_routes;

use std::sync::LazyLock;

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, Uri, header};
use axum::response::{Html, IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};

use super::error::ApiError;
use super::path_prefix::PathPrefix;
use super::route_table::{ADMIN_ROUTES, no_such_route_error};
use super::service::Service;

/// The page: Swagger UI, from this server's own files. `{prefix}` is the prefix of their paths.
const PAGE: &str = r##"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Podium: the API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="{prefix}/docs/swagger-ui.css"></head>
<body><div id="ui"></div><script src="{prefix}/docs/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "{prefix}/openapi.json", dom_id: "#ui", deepLinking: true, validatorUrl: null});</script></body></html>
"##;

/// Only this server's own files. Swagger UI writes styles into the page and embeds its images.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; \
                           img-src 'self' data:; connect-src 'self'";

const FILES: [(&str, &str, &[u8]); 2] = [
    ("swagger-ui.css", "text/css", include_bytes!(concat!(env!("OUT_DIR"), "/swagger-ui.css.gz"))),
    ("swagger-ui-bundle.js", "text/javascript", include_bytes!(concat!(env!("OUT_DIR"), "/swagger-ui-bundle.js.gz"))),
];

/// The description, as it is the same for every server.
static DOCUMENT: LazyLock<Value> = LazyLock::new(document::build);

/// `GET /openapi.json`
pub async fn document(
    State(service): State<Service>,
    prefix: Option<Extension<PathPrefix>>,
) -> Result<Json<Value>, ApiError> {
    let mut document = describe(&service)?;
    if let Some(Extension(PathPrefix(prefix))) = prefix {
        document["servers"] = json!([{ "url": prefix }]);
    }
    Ok(Json(document))
}

/// `GET /docs`
pub async fn page(prefix: Option<Extension<PathPrefix>>) -> impl IntoResponse {
    let prefix = prefix.map_or_else(String::new, |Extension(PathPrefix(prefix))| prefix);
    let page = PAGE.replace("{prefix}", &prefix);
    ([(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY))], Html(page))
}

/// `GET /docs/{file}`
pub async fn file(uri: Uri) -> Result<Response, ApiError> {
    let found = FILES.iter().find(|(file, _, _)| uri.path().strip_prefix("/docs/") == Some(*file));
    let (_, kind, packed) = found.ok_or_else(|| no_such_route_error(&uri))?;
    let headers: [(HeaderName, &str); 3] = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_ENCODING, "gzip"),
        (header::CACHE_CONTROL, "public, max-age=86400"),
    ];
    Ok((headers, *packed).into_response())
}

/// The description of this server.
fn describe(service: &Service) -> Result<Value, ApiError> {
    let mut document = DOCUMENT.clone();
    if !service.authenticator().has_administrators()
        && let Some(paths) = document["paths"].as_object_mut()
    {
        paths.retain(|path, _| !ADMIN_ROUTES.contains(&path.as_str()));
    }
    let policy = service.reranker()?.policy();
    let profiles: Vec<&str> = policy.instructions.profiles().map(|(name, _)| name).collect();
    let models: Vec<String> = service.models()?.statuses().into_iter().flat_map(|status| status.names).collect();
    let schemas = &mut document["components"]["schemas"];
    schemas["Profile"]["enum"] = json!(profiles);
    schemas["Model"]["examples"] = json!(models);
    schemas["Documents"]["maxItems"] = json!(policy.limits.max_documents);
    Ok(document)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::dialects;
    use super::super::route_table::other_paths;
    use super::*;

    #[test]
    fn every_route_is_described() {
        let described: BTreeSet<&str> = DOCUMENT["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        let ranking = dialects::ROUTES.iter().map(|route| route.path);
        let routes = ranking.chain(other_paths()).chain(ADMIN_ROUTES);
        // The files of the page are not an API; axum has its own way to write a rest of the path.
        let routes = routes.filter(|route| *route != "/docs/{file}").map(|route| route.replace('*', ""));
        let routes: BTreeSet<String> = routes.collect();
        assert_eq!(described, routes.iter().map(String::as_str).collect());
    }

    #[test]
    fn no_type_is_listed_twice_and_no_properties_are_null() {
        let mut rest = vec![&*DOCUMENT];
        while let Some(value) = rest.pop() {
            assert!(!value.get("properties").is_some_and(Value::is_null), "{value}");
            if let Some(types) = value.get("type").and_then(Value::as_array) {
                let once: BTreeSet<_> = types.iter().filter_map(Value::as_str).collect();
                assert_eq!(once.len(), types.len(), "{types:?}");
            }
            rest.extend(value.as_object().into_iter().flat_map(serde_json::Map::values));
            rest.extend(value.as_array().into_iter().flatten());
        }
    }

    #[test]
    fn every_reference_has_a_target_and_every_schema_is_referred_to() {
        let schemas = DOCUMENT["components"]["schemas"].as_object().unwrap();
        let mut unused: BTreeSet<String> = schemas.keys().map(|name| format!("#/components/schemas/{name}")).collect();
        let mut rest = vec![&*DOCUMENT];
        while let Some(value) = rest.pop() {
            if let Some(target) = value.get("$ref").and_then(Value::as_str) {
                assert!(DOCUMENT.pointer(&target[1..]).is_some(), "{target}");
                unused.remove(target);
            }
            rest.extend(value.as_object().into_iter().flat_map(serde_json::Map::values));
            rest.extend(value.as_array().into_iter().flatten());
        }
        assert!(unused.is_empty(), "{unused:?}");
    }
}
