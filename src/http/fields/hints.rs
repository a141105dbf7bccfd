//! Which field a client meant by one that is not known, where a required field is missing.

use serde_json::Value;

use super::{Fields, quoted};
use crate::rerank::RerankError;
use crate::spelling::nearest;

/// Other servers' and libraries' names for the query.
const QUERY_NAMES: [&str; 7] = ["q", "question", "search_query", "query_text", "search", "prompt", "queries"];
/// Other servers' and libraries' names for the documents.
const DOCUMENT_NAMES: [&str; 15] = [
    "documents",
    "passages",
    "candidates",
    "docs",
    "inputs",
    "input",
    "texts",
    "items",
    "sentences",
    "chunks",
    "contexts",
    "sources",
    "results",
    "records",
    "data",
];
const DOCUMENT_FIELDS: [&str; 6] = ["documents", "texts", "input", "passages", "records", "sources"];

/// Other servers' and libraries' names for optional fields, and the names here, the first known one
/// of which is meant.
const OPTIONAL_NAMES: [(&[&str], &[&str]); 3] = [
    (&["k", "n", "limit", "max_results", "num_results"], &["top_n", "top_k"]),
    (&["threshold", "min_relevance", "score_cutoff"], &["min_score"]),
    (&["max_length", "max_doc_length"], &["max_tokens_per_doc"]),
];

/// The error with more text at the end of its problem.
pub(super) fn with_more(error: RerankError, more: Option<&str>) -> RerankError {
    match (error, more) {
        (RerankError::InvalidField { field, problem }, Some(more)) => {
            RerankError::InvalidField { field, problem: format!("{problem}; {more}") }
        }
        (error, _) => error,
    }
}

impl Fields {
    /// The error of the missing field `name`, with the field that was probably meant, if one was
    /// sent.
    pub(super) fn with_hint(&self, error: RerankError, name: &str) -> RerankError {
        with_more(error, self.probably_meant(name).as_deref())
    }

    /// The known field that is most similar to an unknown one, as the end of a sentence; empty if
    /// none is similar.
    #[must_use]
    pub fn suggestion(&self, name: &str) -> String {
        if let Some(meant) = self.nearest_known(name) {
            return format!("; did you mean {meant:?}?");
        }
        let inner = self.values.get(name).and_then(Value::as_object).into_iter().flat_map(|record| record.keys());
        match inner.into_iter().find(|inner| self.is_known(inner)) {
            Some(inner) => format!("; {inner:?} is read only at the top level of the body"),
            None => String::new(),
        }
    }

    /// The field that was probably meant by `name`, among those that a reader has asked for.
    fn nearest_known(&self, name: &str) -> Option<&str> {
        let name = snake_case(name);
        let synonym = OPTIONAL_NAMES.iter().find(|(names, _)| names.contains(&name.as_str()));
        let meant = synonym.and_then(|(_, meant)| meant.iter().copied().find(|meant| self.is_known(meant)));
        meant.or_else(|| nearest(&name, self.known.iter().chain(&self.known_in_parts).map(String::as_str)))
    }

    fn probably_meant(&self, name: &str) -> Option<String> {
        let others: &[&str] = match name {
            "query" => &QUERY_NAMES,
            _ if DOCUMENT_FIELDS.contains(&name) => &DOCUMENT_NAMES,
            _ => &[],
        };
        let is_nested =
            |sent: &&str| self.values.get(*sent).and_then(Value::as_object).is_some_and(|o| o.contains_key(name));
        if let Some(outer) = self.unread().find(is_nested) {
            let outer = quoted(outer);
            return Some(format!("it is inside {outer}, and is read only at the top level of the body"));
        }
        let is_synonym = |sent: &&str| others.contains(&sent.to_lowercase().as_str());
        let is_misspelt = |sent: &&str| nearest(&sent.to_lowercase(), [name]).is_some();
        let sent = self.unread().find(is_synonym).or_else(|| self.unread().find(is_misspelt))?;
        Some(format!("{} is not known here; did you mean `{name}`?", quoted(sent)))
    }
}

/// `topN`, `top-n` and `TOP_N` as `top_n`.
fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 2);
    let mut was_lower = false;
    for letter in name.chars() {
        if letter.is_uppercase() && was_lower {
            snake.push('_');
        }
        was_lower = letter.is_lowercase() || letter.is_ascii_digit();
        snake.extend(if letter == '-' { '_' } else { letter }.to_lowercase());
    }
    snake
}
