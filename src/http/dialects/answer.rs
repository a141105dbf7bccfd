//! From the body of a request to its response, the same way for every dialect.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Extension;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::super::Service;
use super::super::auth::KeyName;
use super::super::body::JsonBody;
use super::super::error::Failure;
use super::super::fields::{Fields, quoted};
use super::super::observe::RequestId;
use super::{Answer, Reply, Route};
use crate::rerank::{Caller, Mode, Ranking, RerankError, Stages, Timing, Usage};
use crate::telemetry::RankingFacts;

/// Headers for clients that cannot add a field to the body, and the fields they set. Their values
/// are UTF-8, percent-encoded where it is not plain ASCII.
const TEXT_HEADERS: [(&str, &str); 3] =
    [("podium-instruction", "instruction"), ("podium-profile", "profile"), ("podium-strict", "strict")];
/// The same, for fields that are numbers.
const NUMBER_HEADERS: [(&str, &str); 4] = [
    ("podium-priority", "priority"),
    ("podium-timeout-ms", "timeout_ms"),
    ("podium-max-latency-ms", "max_latency_ms"),
    ("podium-max-total-tokens", "max_total_tokens"),
];

/// The number of documents whose end was cut off.
pub(in crate::http) const TRUNCATED_DOCUMENTS: HeaderName = HeaderName::from_static("podium-truncated-documents");
/// The number of warnings; not every dialect has a place for their texts.
pub(in crate::http) const WARNINGS: HeaderName = HeaderName::from_static("podium-warnings");
/// The time that each stage took.
pub(in crate::http) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// How many unknown fields are named in warnings.
const MAX_NAMED_FIELDS: usize = 5;

/// Fields of other servers that are known and have no effect here, and why.
const WITHOUT_EFFECT: [(&str, &str); 3] = [
    (
        "max_chunks_per_doc",
        "documents are read as they are, not in chunks; max_tokens_per_doc limits what is read of each",
    ),
    (
        "truncate_prompt_tokens",
        "prompts are not cut as a whole; max_tokens_per_doc limits what is read of each document",
    ),
    ("return_embeddings", "no embeddings come back"),
];

/// Reads a call, ranks, and writes the reply. An error that occurs before the body is parsed has the
/// form of the path's dialect, a later one that of the body's.
pub(in crate::http) async fn answer(
    route: &'static Route,
    service: Service,
    id: RequestId,
    stages: Stages,
    request: Request,
) -> Response {
    let mut dialect = route.dialect;
    let response = async {
        let headers = request.headers().clone();
        let key = request.extensions().get::<KeyName>().and_then(KeyName::shared);
        let JsonBody { mut fields, since, room } = JsonBody::from_request(request, &service).await?;
        dialect = route.dialect_of(&fields);
        take_headers(&headers, &mut fields)?;
        let mut call = (dialect.read)(&mut fields)?;
        let mut warnings = check_unread(&mut fields, service.settings().refuse_unknown_fields)?;
        // The rest of the body is dropped before the memory that it occupied is given back.
        drop((fields, room));
        let caller = Caller { key, since, stages };
        let requests = std::mem::take(&mut call.requests);
        let rankings = service.models().rerank_all(requests, caller).await;
        let (query, documents) = call.field_names;
        let mut rankings = rankings.map_err(|error| error.in_words_of(query, documents))?;
        if let Some(ranking) = rankings.first_mut() {
            ranking.warnings.append(&mut warnings);
        }
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
        let answer = Answer { id: id.as_str(), created, rankings: &rankings };
        let Reply { body, headers: more } = (call.write)(&answer).map_err(RerankError::internal)?;
        let facts = facts(&rankings);
        let mut headers = ranking_headers(&facts);
        let warnings: usize = rankings.iter().map(|ranking| ranking.warnings.len()).sum();
        headers.insert(WARNINGS, HeaderValue::from(warnings));
        headers.extend(more);
        Ok((headers, Extension(facts), body).into_response())
    }
    .await;
    response.unwrap_or_else(|failure: Failure| (Extension(dialect.errors), failure).into_response())
}

/// Adds the fields that came as headers.
///
/// # Errors
/// A header that cannot be decoded, or a field that is in the body too.
fn take_headers(headers: &HeaderMap, fields: &mut Fields) -> Result<(), RerankError> {
    let mut add = |header: &str, field: &str, value: Option<Value>, kind: &str| {
        let value = value.ok_or_else(|| RerankError::invalid(field, format!("the header {header} is not {kind}")))?;
        if fields.add(field, value) {
            return Ok(());
        }
        let problem = format!("given in the body and in the header {header}; give one of them");
        Err(RerankError::invalid(field, problem))
    };
    for (header, field) in TEXT_HEADERS {
        let Some(value) = headers.get(header) else { continue };
        let text = value.to_str().ok().and_then(|text| percent_decode_str(text).decode_utf8().ok());
        add(header, field, text.map(Value::from), "percent-encoded UTF-8")?;
    }
    for (header, field) in NUMBER_HEADERS {
        let Some(value) = headers.get(header) else { continue };
        let number = value.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok());
        add(header, field, number.map(Value::from), "a whole number")?;
    }
    Ok(())
}

/// A warning for each field that the dialect has not read.
///
/// # Errors
/// An unknown field, if `refuse_unknown` is set.
fn check_unread(fields: &mut Fields, refuse_unknown: bool) -> Result<Vec<String>, RerankError> {
    let mut warnings = Vec::new();
    for (name, why) in WITHOUT_EFFECT {
        // false, and vLLM's -1, ask for what happens anyway.
        if fields.take(&[name])?.is_some_and(|value| value != false && value != -1) {
            warnings.push(format!("\"{name}\" has no effect here: {why}"));
        }
    }
    let suggestion = |name| {
        let nearest = fields.nearest_known(name);
        nearest.map_or_else(String::new, |nearest| format!("; did you mean \"{nearest}\"?"))
    };
    let names: Vec<&str> = fields.unread().collect();
    if let Some(first) = names.first().filter(|_| refuse_unknown) {
        let problem = format!("the field {} is not known here{}", quoted(first), suggestion(first));
        return Err(RerankError::invalid("body", problem));
    }
    for name in names.iter().take(MAX_NAMED_FIELDS) {
        warnings.push(format!("{} is not known and was ignored{}", quoted(name), suggestion(name)));
    }
    if names.len() > MAX_NAMED_FIELDS {
        let more = names.len() - MAX_NAMED_FIELDS;
        warnings.push(format!("{more} more fields are not known and were ignored"));
    }
    Ok(warnings)
}

/// What the record of the request needs, over all its rankings.
fn facts(rankings: &[Ranking]) -> RankingFacts {
    let mut facts = RankingFacts {
        mode: rankings.first().map_or(Mode::Auto, |ranking| ranking.mode),
        documents: 0,
        slates: 0,
        usage: Usage::default(),
        timing: rankings.first().map_or(Timing::default(), |ranking| ranking.timing),
    };
    for ranking in rankings {
        facts.documents += ranking.documents;
        facts.slates += ranking.slates;
        facts.usage.prompt_tokens += ranking.usage.prompt_tokens;
        facts.usage.truncated_documents += ranking.usage.truncated_documents;
    }
    facts
}

/// The headers that every ranking has.
fn ranking_headers(facts: &RankingFacts) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(TRUNCATED_DOCUMENTS, HeaderValue::from(facts.usage.truncated_documents));
    let timing = &facts.timing;
    let stages =
        [("queue", timing.queue), ("tokenize", timing.tokenize), ("forward", timing.forward), ("total", timing.total)];
    let stages = stages.map(|(name, time)| format!("{name};dur={:.3}", time.as_secs_f64() * 1000.0)).join(", ");
    if let Ok(value) = HeaderValue::from_str(&stages) {
        headers.insert(SERVER_TIMING, value);
    }
    headers
}
