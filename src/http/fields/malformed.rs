//! Hints on what to change in a body that is not a JSON object, for the mistakes that clients make.

use serde_json::Value;
use serde_json::error::Category;

use super::expected;
use super::hints::with_more;
use crate::rerank::RerankError;

/// Other characters that word processors write for quotation marks.
const OTHER_QUOTES: [char; 7] = ['\'', '“', '”', '„', '‘', '’', '`'];

/// The problem of a body that is not JSON, and what to change if the mistake is a known one.
pub(super) fn problem(error: &serde_json::Error, body: &[u8]) -> String {
    let problem = error.to_string();
    match hint(error, &problem, body) {
        Some(hint) => format!("{problem}; {hint}"),
        None => problem,
    }
}

/// A hint on what to change at the position of the error.
fn hint(error: &serde_json::Error, problem: &str, body: &[u8]) -> Option<&'static str> {
    if error.classify() == Category::Eof {
        return Some("the body ends before its JSON does");
    }
    for (start, hint) in [
        ("control character", r"inside a text, a line break is written as \n and a tab as \t"),
        ("invalid escape", r"a backslash is written as \\"),
        ("recursion limit", "values are nested at most 128 deep"),
        ("trailing characters", "a request has one object"),
    ] {
        if problem.starts_with(start) {
            return Some(hint);
        }
    }
    let rest = String::from_utf8_lossy(body.get(position(error, body)..)?);
    let begins_with = |words: &[&str]| words.iter().any(|word| rest.starts_with(word));
    if begins_with(&["NaN", "Infinity", "-Infinity"]) {
        Some("JSON has no NaN and no infinity")
    } else if begins_with(&["True", "False", "None", "undefined"]) {
        Some("JSON writes true, false and null")
    } else if rest.starts_with(OTHER_QUOTES) {
        Some("JSON quotes names and texts with \"")
    } else if begins_with(&["//", "/*", "#"]) {
        Some("JSON has no comments")
    } else if problem.starts_with("key must be a string") {
        Some("names are in quotation marks")
    } else if body.starts_with(b"[object ") {
        Some("it is JavaScript's name of an object; send JSON.stringify(object)")
    } else if rest.len() == body.len() && rest.contains('=') {
        Some("it looks like a form; send a JSON object")
    } else {
        None
    }
}

/// The offset of the byte that the error is about.
fn position(error: &serde_json::Error, body: &[u8]) -> usize {
    let lines_before = error.line().saturating_sub(1);
    let line: usize = body.split_inclusive(|byte| *byte == b'\n').take(lines_before).map(<[u8]>::len).sum();
    (line + error.column()).saturating_sub(1)
}

/// The error for a body that is JSON and not an object.
pub(super) fn not_an_object(found: &Value) -> RerankError {
    let hint = match found {
        Value::String(text) if holds_object(text) => Some("it holds an object that was encoded twice"),
        Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_object) => {
            Some("send each object by itself")
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => None,
    };
    with_more(expected("body", "an object", found), hint)
}

fn holds_object(text: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok_and(|value| value.is_object())
}

/// Whether a text holds a JSON list: a list that was encoded twice.
pub(super) fn holds_list(text: &str) -> bool {
    text.trim_start().starts_with('[') && serde_json::from_str::<Value>(text).is_ok_and(|value| value.is_array())
}
