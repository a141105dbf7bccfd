//! Documents from a file or standard input: plain lines, JSON or JSONL.

use std::fs;
use std::io::{self, IsTerminal, Read};
use std::path::Path;

use anyhow::Context;
use clap::ValueEnum;
use serde_json::Value;

use super::UsageError;
use crate::http::dialects::documents::Documents;
use crate::http::dialects::podium;
use crate::rerank::RerankRequest;

/// The message about an input without documents.
pub(super) const NO_DOCUMENTS: &str = "no documents; give them with -d TEXT, as a FILE, or on standard input";

/// Format of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Detect it: { [ or " as the first character is JSON or JSONL, anything else lines
    Auto,
    /// One document per line; blank lines are skipped
    Lines,
    /// An array of documents, or a request as for POST /v1/rerank
    Json,
    /// One document per line: a JSON string, or an object with a "text"
    Jsonl,
}

/// Content of an input.
#[derive(Debug, PartialEq)]
pub(super) enum Input {
    /// Documents.
    Documents(Vec<String>),
    /// A complete request, and warnings about its fields.
    Request(Box<RerankRequest>, Vec<String>),
}

/// Reads a file, or standard input for `-` or no file.
pub(super) fn read(file: Option<&Path>) -> anyhow::Result<String> {
    match file {
        Some(path) if path != Path::new("-") => {
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
        }
        given => {
            if given.is_none() && io::stdin().is_terminal() {
                return Err(UsageError(NO_DOCUMENTS.to_owned()).into());
            }
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
            Ok(text)
        }
    }
}

/// Parses an input.
pub(super) fn parse(text: &str, format: Format) -> Result<Input, UsageError> {
    let text = text.trim_start_matches('\u{feff}');
    match format {
        Format::Lines => {
            Ok(Input::Documents(text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect()))
        }
        Format::Json => parse_json(text),
        Format::Jsonl => parse_lines_of_json(text),
        Format::Auto => match text.trim_start().chars().next() {
            // A single value is JSON, several are JSONL.
            Some('{' | '[' | '"') => {
                let one_value = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
                if one_value { parse_json(text) } else { parse_lines_of_json(text) }
                    .map_err(|UsageError(problem)| UsageError(format!("{problem} (use --format lines for plain text)")))
            }
            _ => parse(text, Format::Lines),
        },
    }
}

fn parse_json(text: &str) -> Result<Input, UsageError> {
    let refuse = |problem: &dyn std::fmt::Display| UsageError(format!("the input: {problem}"));
    let items = match serde_json::from_str(text).map_err(|error| refuse(&error))? {
        Value::Object(fields) if fields.contains_key("documents") => {
            let (request, warnings) = podium::parse(text.as_bytes()).map_err(|error| refuse(&error))?;
            return Ok(Input::Request(Box::new(request), warnings));
        }
        Value::Array(items) => items,
        one @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => vec![one],
    };
    Documents(items).into_texts().map(Input::Documents).map_err(|error| refuse(&error))
}

fn parse_lines_of_json(text: &str) -> Result<Input, UsageError> {
    let mut items = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let item = serde_json::from_str(line).map_err(|error: serde_json::Error| json_error(number + 1, &error))?;
        items.push(item);
    }
    Documents(items).into_texts().map(Input::Documents).map_err(|error| UsageError(format!("the input: {error}")))
}

/// The error of one line: serde's message says `line 1` of each.
fn json_error(line: usize, error: &serde_json::Error) -> UsageError {
    UsageError(format!("line {line} of the input: {}", error.to_string().replace(" at line 1 column", " at column")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<String> {
        match parse(text, Format::Auto) {
            Ok(Input::Documents(documents)) => documents,
            other => panic!("documents were expected, not {other:?}"),
        }
    }

    #[test]
    fn plain_lines_are_documents() {
        assert_eq!(parsed("one\n\n  two \r\nthree"), ["one", "  two ", "three"]);
    }

    #[test]
    fn an_array_of_strings_and_objects_is_documents() {
        assert_eq!(parsed("[\"one\",\n {\"text\": \"two\", \"id\": 7}]"), ["one", "two"]);
    }

    #[test]
    fn lines_of_json_are_documents() {
        assert_eq!(parsed("{\"text\": \"one\"}\n\n\"two\"\n"), ["one", "two"]);
        assert_eq!(parsed("{\"text\": \"only\"}"), ["only"]);
        assert_eq!(parsed("\"one\"\n\"two\""), ["one", "two"]);
    }

    #[test]
    fn an_object_with_documents_is_a_request() {
        let text = r#"{"query":"q","documents":["a"],"top_n":1,"topN":2}"#;
        let Ok(Input::Request(request, warnings)) = parse(text, Format::Auto) else {
            panic!("a request was expected");
        };
        assert_eq!(warnings, [r#""topN" is not known and was ignored; did you mean "top_n"?"#]);
        assert_eq!(request.query, "q");
        assert_eq!(request.top_n, Some(1));
    }

    #[test]
    fn invalid_json_is_not_read_as_lines() {
        let UsageError(problem) = parse("{\"text\": \"one\"}\n{oops}", Format::Auto).unwrap_err();
        assert!(problem.starts_with("line 2 of the input: key must be a string at column 2"), "{problem}");
        assert!(problem.ends_with("(use --format lines for plain text)"), "{problem}");
        assert_eq!(parse("[not json", Format::Lines).unwrap(), Input::Documents(vec!["[not json".to_owned()]));
    }

    #[test]
    fn a_document_of_the_wrong_type_is_named() {
        let UsageError(problem) = parse("[\"a\", 3]", Format::Json).unwrap_err();
        assert!(problem.starts_with("the input: documents[1]: expected a string"), "{problem}");
    }
}
