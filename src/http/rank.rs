//! The handler of every route that ranks: reads a call in its dialect, ranks, writes the response.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::body::read_json;
use super::dialects::{Answer, Call, Dialect, Reply, Route, check_headers, check_unread, take_headers};
use super::error::ApiError;
use super::error_body::ErrorShape;
use super::fields::Fields;
use super::off_thread::{FreeOffThread, run_blocking};
use super::service::Service;
use crate::context::{ContextSlot, RankingSummary, RequestContext};
use crate::rerank::{Ranking, RerankError};

/// Documents of which the end was cut off.
pub(super) const TRUNCATED_DOCUMENTS: HeaderName = HeaderName::from_static("podium-truncated-documents");
/// Documents below the request's minimum score.
pub(super) const LEFT_OUT_DOCUMENTS: HeaderName = HeaderName::from_static("podium-left-out-documents");
/// The number of warnings; not every dialect has a field for their texts.
pub(super) const WARNINGS: HeaderName = HeaderName::from_static("podium-warnings");
/// The text of a warning, percent-encoded where it is not plain ASCII; one header for each.
pub(super) const WARNING: HeaderName = HeaderName::from_static("podium-warning");
/// How many warnings have a header of their own, so that proxies accept the response.
const MAX_WARNING_HEADERS: usize = 8;
/// The longest part of a warning in a header.
const MAX_WARNING_CHARACTERS: usize = 200;
/// The characters that are percent-encoded in a warning.
const NOT_IN_WARNINGS: &AsciiSet = &CONTROLS.add(b'%');
/// Where the time went.
pub(super) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// A call whose requests are being ranked.
struct PendingCall {
    call: Call,
    /// Warnings about its fields.
    warnings: Vec<String>,
    /// Fields that came under a second name.
    second_names: Vec<(String, String)>,
}

/// Reads a call, ranks, and writes the response, in the dialect of its path or body.
pub(super) async fn rank(route: &'static Route, service: Service, request: Request) -> Response {
    let mut shape = route.dialect.errors;
    let ranked = Box::pin(rank_in_dialect(route, &service, request, &mut shape)).await;
    ranked.unwrap_or_else(|failure| (Extension(shape), failure).into_response())
}

/// As [`rank`]. `shape` becomes the shape of errors in the call's dialect once the body is parsed.
async fn rank_in_dialect(
    route: &'static Route,
    service: &Service,
    request: Request,
    shape: &mut ErrorShape,
) -> Result<Response, ApiError> {
    let models = service.models()?;
    let context = request.extensions().get::<ContextSlot>().and_then(ContextSlot::take);
    let context = context.ok_or_else(|| RerankError::internal("the request has no context"))?;
    let (headers, strict) = (request.headers().clone(), service.settings().refuse_unknown_fields);
    let query = request.uri().query().unwrap_or_default().to_owned();
    let parse = move |fields| parse_call(route, fields, &headers, &query, strict);
    let (mut context, (dialect, parsed)) = read_json(request, service, context, parse).await?;
    *shape = dialect.errors;
    let mut pending = parsed?;
    let returns_documents = pending.call.sent.is_returned();
    if returns_documents {
        context.keep_body_memory();
    }
    let requests = std::mem::take(&mut pending.call.requests);
    let (query, documents) = pending.call.field_names;
    let second_names = std::mem::take(&mut pending.second_names);
    let mut pending = FreeOffThread::new(pending);

    let ranked = models.rerank_all(requests, context).await;
    let (context, rankings) = ranked.map_err(|error| {
        let error = error.in_words_of(query, documents);
        second_names.iter().fold(error, |error, (name, sent)| error.with_field_named(name, sent))
    })?;

    let pending = pending.take().ok_or_else(|| RerankError::internal("the call was taken before"))?;
    if returns_documents {
        return run_blocking(move || write_response(pending, rankings, context)).await?;
    }
    write_response(pending, rankings, context)
}

/// The call of a body, if its fields have the right types.
fn parse_call(
    route: &'static Route,
    mut fields: Fields,
    headers: &HeaderMap,
    query: &str,
    refuse_unknown_fields: bool,
) -> (&'static Dialect, Result<PendingCall, RerankError>) {
    let dialect = route.dialect_of(&fields);
    let parsed = take_headers(headers, &mut fields).and_then(|()| {
        let call = dialect.read_call(&mut fields)?;
        let mut warnings = check_unread(&mut fields, query, refuse_unknown_fields)?;
        warnings.extend(check_headers(headers, refuse_unknown_fields)?);
        Ok(PendingCall { call, warnings, second_names: fields.take_second_names() })
    });
    (dialect, parsed)
}

/// Writes the response. Its bytes hold the context until the last of them is sent.
fn write_response(
    PendingCall { call, mut warnings, second_names: _ }: PendingCall,
    mut rankings: Vec<Ranking>,
    context: RequestContext,
) -> Result<Response, ApiError> {
    name_fields_as_sent(&mut rankings, call.field_names);
    if let Some(ranking) = rankings.first_mut() {
        ranking.warnings.append(&mut warnings);
    }
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    let answer = Answer { id: context.id.as_str(), created, rankings: &rankings, sent: &call.sent };
    let Reply { body, headers: more } = (call.write)(&answer).map_err(RerankError::internal)?;
    let summary = context.timeline.ranking();
    let mut headers = ranking_headers(summary.as_ref());
    if rankings.iter().any(|ranking| ranking.min_score.is_some()) {
        headers.insert(LEFT_OUT_DOCUMENTS, HeaderValue::from(summary.map_or(0, |summary| summary.left_out)));
    }
    add_warnings(&mut headers, &rankings, context.id.as_str());
    headers.extend(more);
    let body = Bytes::from_owner(ResponseBytes { body, _context: context });
    Ok((headers, Body::from(body)).into_response())
}

/// Puts the client's names for the query and the documents into the warnings. Each of several rankings
/// is that of a pair: their warnings name it.
fn name_fields_as_sent(rankings: &mut [Ranking], (query, documents): (&str, &str)) {
    let is_of_pairs = rankings.len() > 1;
    for (index, ranking) in rankings.iter_mut().enumerate() {
        for warning in &mut ranking.warnings {
            *warning = match warning.strip_prefix("query: ") {
                Some(rest) => format!("{query}: {rest}"),
                None => warning.replace("documents[", &format!("{documents}[")),
            };
            if is_of_pairs {
                *warning = format!("pair {index}: {warning}");
            }
        }
    }
}

/// The number of warnings, and their texts: not every dialect has a place for them in its body. The
/// log gets them too.
fn add_warnings(headers: &mut HeaderMap, rankings: &[Ranking], id: &str) {
    let warnings = || rankings.iter().flat_map(|ranking| &ranking.warnings);
    headers.insert(WARNINGS, HeaderValue::from(warnings().count()));
    for warning in warnings().take(MAX_WARNING_HEADERS) {
        tracing::info!(request_id = id, %warning, "the reply has a warning");
        let text: String = warning.chars().take(MAX_WARNING_CHARACTERS).collect();
        let text = utf8_percent_encode(&text, NOT_IN_WARNINGS).to_string();
        headers.extend(HeaderValue::from_str(&text).ok().map(|value| (WARNING, value)));
    }
}

/// A response's body, and the context of its request: the client may read slowly, and the body's
/// memory stays counted until it has read everything.
struct ResponseBytes {
    body: Vec<u8>,
    _context: RequestContext,
}

impl AsRef<[u8]> for ResponseBytes {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

/// The headers of every ranking, whatever its dialect has fields for.
fn ranking_headers(summary: Option<&RankingSummary>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let Some(RankingSummary { usage, timing, .. }) = summary else { return headers };
    headers.insert(TRUNCATED_DOCUMENTS, HeaderValue::from(usage.truncated_documents));
    let stages =
        [("queue", timing.queue), ("tokenize", timing.tokenize), ("forward", timing.forward), ("total", timing.total)];
    let stages = stages.map(|(name, time)| format!("{name};dur={:.3}", time.as_secs_f64() * 1000.0)).join(", ");
    if let Ok(value) = HeaderValue::from_str(&stages) {
        headers.insert(SERVER_TIMING, value);
    }
    headers
}
