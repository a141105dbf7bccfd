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

impl Fields {
    /// The error of the missing field `name`, with the field that was probably meant, if one was
    /// sent.
    pub(super) fn with_hint(&self, error: RerankError, name: &str) -> RerankError {
        match (error, self.probably_meant(name)) {
            (RerankError::InvalidField { field, problem }, Some(hint)) => {
                RerankError::InvalidField { field, problem: format!("{problem}; {hint}") }
            }
            (error, _) => error,
        }
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
