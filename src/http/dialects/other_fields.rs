//! The fields that a body and its headers have beside a dialect's own.

use std::collections::BTreeSet;

use axum::http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;
use serde_json::Value;

use crate::http::fields::{Field, Fields, Flag, quoted};
use crate::rerank::RerankError;
use crate::spelling::nearest;

/// Headers for clients that cannot add a field to the body, and the fields they set. Their values
/// are UTF-8, percent-encoded where it is not plain ASCII.
const TEXT_HEADERS: [(&str, &str); 2] = [("podium-instruction", "instruction"), ("podium-profile", "profile")];
/// The same, for fields that are true or false.
const FLAG_HEADERS: [(&str, &str); 2] = [("podium-return-documents", "return_documents"), ("podium-strict", "strict")];
/// The same, for fields that are numbers.
const NUMBER_HEADERS: [(&str, &str); 4] = [
    ("podium-priority", "priority"),
    ("podium-timeout-ms", "timeout_ms"),
    ("podium-max-latency-ms", "max_latency_ms"),
    ("podium-max-total-tokens", "max_total_tokens"),
];

/// How the headers that set fields begin.
const HEADER_PREFIX: &str = "podium-";

/// How many unknown fields are named in warnings.
const MAX_NAMED_FIELDS: usize = 5;

/// Fields of other servers that are known and have no effect here, and why.
const WITHOUT_EFFECT: [(&str, &str); 4] = [
    (
        "truncate_prompt_tokens",
        "prompts are not cut as a whole; max_tokens_per_doc limits what is read of each document",
    ),
    ("truncation_side", "texts are cut on the right"),
    ("max_tokens_per_query", "the family sets the limit on the query"),
    ("return_embeddings", "no embeddings come back"),
];

/// Adds the fields that came as headers.
///
/// # Errors
/// A header that cannot be decoded, or a field that is in the body too.
pub(in crate::http) fn take_headers(headers: &HeaderMap, fields: &mut Fields) -> Result<(), RerankError> {
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
    for (header, field) in FLAG_HEADERS {
        let Some(value) = headers.get(header) else { continue };
        let word = value.to_str().ok().map(Value::from);
        let flag = word.map(|word| Flag::converted(&word).unwrap_or(word)).map(|word| Flag::from_value(field, word));
        let flag = flag.and_then(Result::ok).map(|Flag(flag)| Value::Bool(flag));
        add(header, field, flag, "true or false")?;
    }
    for (header, field) in NUMBER_HEADERS {
        let Some(value) = headers.get(header) else { continue };
        let number = value.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok());
        add(header, field, number.map(Value::from), "a whole number")?;
    }
    Ok(())
}

/// Warnings about headers that begin with `podium-` and set no field.
///
/// # Errors
/// There is one, and `refuse_unknown` is set.
pub(in crate::http) fn check_headers(headers: &HeaderMap, refuse_unknown: bool) -> Result<Vec<String>, RerankError> {
    let known = || TEXT_HEADERS.iter().chain(&FLAG_HEADERS).chain(&NUMBER_HEADERS).map(|(header, _)| *header);
    let names = headers.keys().map(HeaderName::as_str).filter(|name| name.starts_with(HEADER_PREFIX));
    let mut warnings = Vec::new();
    for name in names.filter(|name| !known().any(|header| header == *name)).take(MAX_NAMED_FIELDS) {
        let meant = nearest(name, known()).map_or_else(String::new, |meant| format!("; did you mean {meant}?"));
        if refuse_unknown {
            return Err(RerankError::invalid("headers", format!("the header {} is not known{meant}", quoted(name))));
        }
        warnings.push(format!("the header {} is not known and was ignored{meant}", quoted(name)));
    }
    Ok(warnings)
}

/// A warning for each field that the dialect has not read, and for each parameter of the address
/// (`query`) that has the name of a field: fields are read from the body only.
///
/// # Errors
/// An unknown field or such a parameter, if `refuse_unknown` is set.
pub(in crate::http) fn check_unread(
    fields: &mut Fields,
    query: &str,
    refuse_unknown: bool,
) -> Result<Vec<String>, RerankError> {
    let mut warnings = fields.take_warnings();
    for (name, why) in WITHOUT_EFFECT {
        // false, vLLM's -1 and 0, and the right side ask for what happens anyway.
        if fields.take(&[name])?.is_some_and(|value| value != false && value != -1 && value != 0 && value != "right") {
            warnings.push(format!("\"{name}\" has no effect here: {why}"));
        }
    }
    let names: Vec<&str> = fields.unread().collect();
    if let Some(first) = names.first().filter(|_| refuse_unknown) {
        let problem = format!("the field {} is not known here{}", quoted(first), fields.suggestion(first));
        return Err(RerankError::invalid("body", problem));
    }
    for name in names.iter().take(MAX_NAMED_FIELDS) {
        warnings.push(format!("{} is not known and was ignored{}", quoted(name), fields.suggestion(name)));
    }
    if names.len() > MAX_NAMED_FIELDS {
        let more = names.len() - MAX_NAMED_FIELDS;
        warnings.push(format!("{more} more fields are not known and were ignored"));
    }
    let parameters: BTreeSet<&str> = query.split('&').filter_map(|pair| pair.split('=').next()).collect();
    for name in parameters.into_iter().filter(|name| fields.is_known(name)).take(MAX_NAMED_FIELDS) {
        let problem = format!("{name:?} in the address has no effect; send it as a field of the body");
        if refuse_unknown {
            return Err(RerankError::invalid(name, problem));
        }
        warnings.push(problem);
    }
    Ok(warnings)
}
