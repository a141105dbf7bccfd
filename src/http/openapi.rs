//! The description of the interface: `/openapi.json`, and Swagger UI over it at `/docs`.
//!
//! Schemas and examples are data, in `openapi.json`; which path has which of them follows from the routes, so that no
//! route can be missing. What a server was configured with (models, profiles, limits) is filled in.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, Uri, header};
use axum::response::{Html, IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::Service;
use super::admin;
use super::dialects;
use super::error::ApiError;

const PARTS: &str = include_str!("openapi.json");

/// The page: Swagger UI, from this server's own files.
const PAGE: &str = r##"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Podium: the API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="/docs/swagger-ui.css"></head>
<body><div id="ui"></div><script src="/docs/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "/openapi.json", dom_id: "#ui", deepLinking: true, validatorUrl: null});</script></body></html>
"##;

/// Nothing from elsewhere; Swagger UI writes styles into the page and has its pictures in it.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; \
                           img-src 'self' data:; connect-src 'self'";

const FILES: [(&str, &str, &[u8]); 2] = [
    ("swagger-ui.css", "text/css", include_bytes!(concat!(env!("OUT_DIR"), "/swagger-ui.css.gz"))),
    ("swagger-ui-bundle.js", "text/javascript", include_bytes!(concat!(env!("OUT_DIR"), "/swagger-ui-bundle.js.gz"))),
];

/// `GET /openapi.json`
pub async fn document(State(service): State<Service>) -> Result<Json<Value>, ApiError> {
    describe(&service).map(Json)
}

/// `GET /docs`
pub async fn page() -> impl IntoResponse {
    ([(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY))], Html(PAGE))
}

/// `GET /docs/{file}`
pub async fn file(uri: Uri) -> Result<Response, ApiError> {
    let found = FILES.iter().find(|(file, _, _)| uri.path().strip_prefix("/docs/") == Some(*file));
    let (_, kind, packed) = found.ok_or_else(|| ApiError::no_such_route(uri.path()))?;
    let headers: [(HeaderName, &str); 3] = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_ENCODING, "gzip"),
        (header::CACHE_CONTROL, "public, max-age=86400"),
    ];
    Ok((headers, *packed).into_response())
}

/// The whole description, for this server.
fn describe(service: &Service) -> Result<Value, ApiError> {
    let mut document: Value = serde_json::from_str(PARTS).unwrap_or_default();
    let operations = document["x-operations"].take();
    let other = document["x-paths"].take();
    if let Some(root) = document.as_object_mut() {
        root.retain(|name, _| !name.starts_with("x-"));
    }
    document["info"]["version"] = json!(env!("CARGO_PKG_VERSION"));
    let mut paths: Map<String, Value> = other.as_object().cloned().unwrap_or_default();
    for route in &dialects::ROUTES {
        let mut operation = operations[route.dialect.name].clone();
        operation["operationId"] = json!(format!("{}{}", route.dialect.name, route.path.replace(['/', '.'], "_")));
        let responses = &operations["responses"][route.dialect.failure.as_str()];
        for (status, response) in responses.as_object().into_iter().flatten() {
            operation["responses"][status] = response.clone();
        }
        paths.entry(route.path).or_insert_with(|| json!({}))["post"] = operation;
    }
    if !service.authenticator().has_administrators() {
        paths.retain(|path, _| !admin::ROUTES.contains(&path.as_str()));
    }
    document["paths"] = Value::Object(paths);

    let reranker = service.reranker()?;
    let policy = reranker.policy();
    let schemas = &mut document["components"]["schemas"];
    let profiles: Vec<&str> = policy.instructions.profiles().map(|(name, _)| name).collect();
    schemas["Profile"]["enum"] = profiles.into_iter().map(Value::from).chain([Value::Null]).collect();
    let names: Vec<String> = service.models()?.statuses().into_iter().flat_map(|status| status.names).collect();
    schemas["Model"]["examples"] = json!(names);
    let most = policy.limits.max_documents;
    for list in ["Documents", "Texts", "Passages"] {
        schemas[list]["maxItems"] = json!(most);
    }
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_json_and_every_route_has_its_operation() {
        let parts: Value = serde_json::from_str(PARTS).unwrap();
        for route in &dialects::ROUTES {
            assert!(parts["x-operations"][route.dialect.name]["responses"]["200"].is_object(), "{}", route.path);
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let parts: Value = serde_json::from_str(PARTS).unwrap();
        let mut seen = 0;
        let mut left = vec![&parts];
        while let Some(value) = left.pop() {
            if let Some(target) = value.get("$ref").and_then(Value::as_str) {
                assert!(parts.pointer(&target[1..]).is_some(), "{target}");
                seen += 1;
            }
            left.extend(value.as_object().into_iter().flat_map(Map::values));
            left.extend(value.as_array().into_iter().flatten());
        }
        assert!(seen > 20);
    }
}
