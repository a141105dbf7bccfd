//! What surrounds every request: its id, the body of its failure, and one record of how it went.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Span;

use super::auth::KeyName;
use super::error::{Failure, FailureShape};
use super::{Service, known_route};
use crate::rerank::Stages;
use crate::telemetry::{FailureFacts, RankingFacts, RequestRecord, Route, request_span};

/// The header that carries the request's id, both ways.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id that is taken from a client.
const REQUEST_ID_BYTES: usize = 128;

/// What a request that nobody waits for any more is counted as (the word is nginx's; it is never sent).
const CLIENT_LEFT: u16 = 499;

/// The id of a request: the client's own, if it can stand in a header and a log line, or a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(|id| is_sane(id));
        Self(given.map_or_else(|| uuid::Uuid::new_v4().to_string().into(), Into::into))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_sane(id: &str) -> bool {
    let sane = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&byte);
    !id.is_empty() && id.len() <= REQUEST_ID_BYTES && id.bytes().all(sane)
}

/// Gives the request its id, writes the body of a failure, and records the request exactly once, also when its client
/// leaves before the answer.
pub async fn observe(State(service): State<Service>, mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers());
    let matched = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let (route, usual_shape) = known_route(request.method(), matched);
    let span = request_span(id.as_str(), request.method().as_str(), route, request.headers());
    let stages = Stages::under(span.clone());
    let mut observation = Observation {
        route,
        span,
        stages: stages.clone(),
        method: request.method().to_string(),
        id: id.clone(),
        key: KeyName::default(),
        started: Instant::now(),
        service,
        recorded: false,
    };
    request.extensions_mut().insert(id.clone());
    request.extensions_mut().insert(observation.key.clone());
    request.extensions_mut().insert(stages);

    let mut response = next.run(request).await;

    let failure = response.extensions_mut().remove::<Arc<Failure>>();
    if let Some(failure) = &failure {
        let shape = response.extensions_mut().remove::<FailureShape>().unwrap_or(usual_shape);
        write_failure(&mut response, shape.body(failure, id.as_str()));
    }
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    if observation.service.is_leaving() {
        // Whoever keeps the connection would send its next request into the closing of the door.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let ranking = response.extensions_mut().remove::<RankingFacts>();
    observation.record(response.status().as_u16(), ranking.as_ref(), failure.as_deref());
    response
}

fn write_failure(response: &mut Response, body: Vec<u8>) {
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().remove(header::CONTENT_LENGTH);
    *response.body_mut() = Body::from(body);
}

/// Turns a panic into a failure. Its message may hold a caller's text, so it is not repeated anywhere; the place it
/// came from is logged by the hook that `telemetry` installs.
pub fn panicked(_panic: Box<dyn Any + Send + 'static>) -> Response {
    Failure::Panicked.into_response()
}

/// A request that has not been recorded yet.
struct Observation {
    service: Service,
    id: RequestId,
    key: KeyName,
    method: String,
    route: Route,
    span: Span,
    stages: Stages,
    started: Instant,
    recorded: bool,
}

impl Observation {
    fn record(&mut self, status: u16, ranking: Option<&RankingFacts>, failure: Option<&Failure>) {
        self.recorded = true;
        let failure = failure.map(|failure| {
            let row = failure.row();
            FailureFacts { code: failure.telemetry_code(), param: row.param, level: row.level, cause: failure.cause() }
        });
        self.service.telemetry().record(&RequestRecord {
            id: self.id.as_str(),
            key: self.key.get(),
            method: &self.method,
            route: self.route,
            status,
            elapsed: self.started.elapsed(),
            model: self.stages.model().as_deref(),
            ranking,
            failure: failure.as_ref(),
            span: &self.span,
        });
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        if !self.recorded {
            self.record(CLIENT_LEFT, None, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of(value: &[u8]) -> RequestId {
        RequestId::of(&HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_bytes(value).unwrap())]))
    }

    #[test]
    fn a_sane_id_is_kept() {
        for id in ["a", "req-1_2.3:4/5+6=7@8", "0190a8c4-7d1e-7aaa-bbbb-cccccccccccc"] {
            assert_eq!(id_of(id.as_bytes()).as_str(), id);
        }
    }

    #[test]
    fn an_id_that_is_empty_long_or_strange_is_replaced() {
        let long = "a".repeat(REQUEST_ID_BYTES + 1);
        for id in ["", "a b", "a\"b", "ä", "<script>", &long] {
            let made = id_of(id.as_bytes());
            assert_ne!(made.as_str(), id);
            assert_eq!(made.as_str().len(), 36);
        }
    }
}
