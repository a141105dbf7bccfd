//! The outermost middleware: makes the request's context, writes the body of an error, and records
//! every request once, also when its client disconnects before the response.
//!
//! The request's id stands in its `x-request-id` header by then: [`remove_unsafe_request_id`] runs
//! before, and tower-http's layer adds an id where none is left.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Span;

use super::error::ApiError;
use super::error_body::ErrorShape;
use super::route_table::known_route;
use super::service::Service;
use crate::context::{ContextSlot, RequestContext, RequestId, RequestTimeline};
use crate::telemetry::{FailureFacts, RequestRecord, Route, request_span};

/// The header that carries the request's id, in requests and in responses.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id that is taken from a client.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// The status that is recorded for a client that disconnected (nginx's; it is never sent).
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Removes an id that should stand in no header, log line or trace, so that the request gets a new
/// one.
pub async fn remove_unsafe_request_id(mut request: Request) -> Request {
    let is_safe = |value: &HeaderValue| value.to_str().is_ok_and(is_safe_id);
    if !request.headers().get(REQUEST_ID).is_none_or(is_safe) {
        request.headers_mut().remove(REQUEST_ID);
    }
    request
}

fn is_safe_id(id: &str) -> bool {
    let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&byte);
    !id.is_empty() && id.len() <= MAX_REQUEST_ID_BYTES && id.bytes().all(is_safe)
}

/// Gives the request its context, writes the body of an error, and records the request.
pub async fn access_log(State(service): State<Service>, mut request: Request, next: Next) -> Response {
    let id = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let id = RequestId::new(id);
    let matched = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let (route, usual_shape) = known_route(request.method(), matched);
    let method = request.method().to_string();
    let span = request_span(id.as_str(), &method, route, request.headers());
    let context = RequestContext::new(id.clone(), span.clone());
    let mut record = PendingRecord {
        route,
        span,
        method,
        id,
        timeline: context.timeline.clone(),
        started: Instant::now(),
        service,
        recorded: false,
    };
    request.extensions_mut().insert(ContextSlot::new(context));

    let mut response = tokio::select! {
        biased;
        response = next.run(request) => response,
        () = record.service.until_cut_off() => ApiError::CutOff.into_response(),
    };

    let error = response.extensions_mut().remove::<Arc<ApiError>>();
    if let Some(error) = &error {
        let shape = response.extensions_mut().remove::<ErrorShape>().unwrap_or(usual_shape);
        write_error(&mut response, shape.body(error, record.id.as_str()));
    }
    if record.service.is_leaving() {
        // A client that kept the connection would send its next request to a closed one.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    record.finish(response.status().as_u16(), error.as_deref());
    response
}

fn write_error(response: &mut Response, body: Vec<u8>) {
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().remove(header::CONTENT_LENGTH);
    *response.body_mut() = Body::from(body);
}

/// Turns a panic into an error. Its message may hold a client's text and is not repeated; the hook
/// that `telemetry` installs logs the place.
pub fn respond_to_panic(_panic: Box<dyn Any + Send + 'static>) -> Response {
    ApiError::Panicked.into_response()
}

/// A request that has not been recorded yet. Dropping it records a client that disconnected.
struct PendingRecord {
    service: Service,
    id: RequestId,
    timeline: RequestTimeline,
    method: String,
    route: Route,
    span: Span,
    started: Instant,
    recorded: bool,
}

impl PendingRecord {
    fn finish(&mut self, status: u16, error: Option<&ApiError>) {
        self.recorded = true;
        let failure = error.map(|error| {
            let spec = error.spec();
            FailureFacts { code: error.telemetry_code(), param: spec.param, level: spec.level, cause: error.cause() }
        });
        let (client, ranking) = (self.timeline.client(), self.timeline.ranking());
        self.service.telemetry().record(&RequestRecord {
            id: self.id.as_str(),
            key: client.name(),
            method: &self.method,
            route: self.route,
            status,
            elapsed: self.started.elapsed(),
            ranking: ranking.as_ref(),
            failure: failure.as_ref(),
            timeline: &self.timeline,
            span: &self.span,
        });
    }
}

impl Drop for PendingRecord {
    fn drop(&mut self) {
        if !self.recorded {
            self.finish(CLIENT_CLOSED_REQUEST, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn kept_id(value: &[u8]) -> Option<String> {
        let request = Request::get("/").header(REQUEST_ID, HeaderValue::from_bytes(value).unwrap());
        let request = remove_unsafe_request_id(request.body(Body::empty()).unwrap()).await;
        request.headers().get(REQUEST_ID).map(|value| value.to_str().unwrap().to_owned())
    }

    #[tokio::test]
    async fn a_safe_id_is_kept() {
        for id in ["a", "req-1_2.3:4/5+6=7@8", "0190a8c4-7d1e-7aaa-bbbb-cccccccccccc"] {
            assert_eq!(kept_id(id.as_bytes()).await.as_deref(), Some(id));
        }
    }

    #[tokio::test]
    async fn an_id_that_is_empty_long_or_strange_is_removed() {
        let long = "a".repeat(MAX_REQUEST_ID_BYTES + 1);
        for id in ["", "a b", "a\"b", "ä", "<script>", &long] {
            assert_eq!(kept_id(id.as_bytes()).await, None, "{id}");
        }
    }
}
