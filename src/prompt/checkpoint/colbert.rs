//! Settings of a `ColBERT` checkpoint's sequences: markers, lengths, the expansion of queries and
//! the tokens that are not compared. Read from `config_sentence_transformers.json` (`PyLate`) or
//! `artifact.metadata` (Stanford's `ColBERT`).

use serde_json::Value;

use crate::prompt::PromptError;

const PYLATE: &str = "config_sentence_transformers.json";
const STANFORD: &str = "artifact.metadata";
/// `PyLate`'s projection.
const DENSE: &str = "1_Dense/config.json";

/// Characters whose tokens are not compared where the checkpoint names none: Python's
/// `string.punctuation`.
const PUNCTUATION: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

/// The longest sequence that a checkpoint may ask for, in tokens.
const MAX_LENGTH: u64 = 1 << 20;

/// How a `ColBERT` checkpoint makes its sequences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColbertSettings {
    /// The token after the first of a query; empty for none.
    pub query_marker: String,
    /// The token after the first of a document; empty for none.
    pub document_marker: String,
    /// Tokens of a query's sequence, all included.
    pub query_length: usize,
    /// Tokens of a document's sequence, all included.
    pub document_length: usize,
    /// Whether queries are filled up to their length with `[MASK]`.
    pub expands_queries: bool,
    /// Whether tokens attend to those.
    pub attends_to_expansion: bool,
    /// Tokens of documents that are read and not compared.
    pub skipped_tokens: Vec<String>,
}

/// Rejects a projection that is more than a matrix.
fn check_projection(dense: &Value) -> Result<(), String> {
    let activation = dense["activation_function"].as_str().unwrap_or("Identity");
    if !activation.ends_with("Identity") {
        return Err(format!("activation_function is {activation}; a projection without one is supported"));
    }
    let value = &dense["use_residual"];
    if value.is_null() || value == &Value::Bool(false) {
        Ok(())
    } else {
        Err(format!("use_residual is {value}, which is not supported"))
    }
}

impl Default for ColbertSettings {
    /// The settings of a checkpoint that has none: those of Stanford's `ColBERT`.
    fn default() -> Self {
        Self {
            query_marker: "[unused0]".to_owned(),
            document_marker: "[unused1]".to_owned(),
            query_length: 32,
            document_length: 180,
            expands_queries: true,
            attends_to_expansion: false,
            skipped_tokens: PUNCTUATION.chars().map(String::from).collect(),
        }
    }
}

impl ColbertSettings {
    /// Reads the settings. `file` returns a file of the checkpoint, if it is there.
    ///
    /// # Errors
    /// [`PromptError::Declaration`], with the file, for a file that is malformed.
    pub fn read(file: &dyn Fn(&str) -> Option<Vec<u8>>) -> Result<Self, PromptError> {
        let parse = |name: &str| -> Result<Option<Value>, PromptError> {
            let json = file(name).map(|bytes| serde_json::from_slice(&bytes)).transpose();
            json.map_err(|error| PromptError::Declaration { file: name.to_owned(), problem: error.to_string() })
        };
        if let Some(dense) = parse(DENSE)? {
            check_projection(&dense).map_err(|problem| PromptError::Declaration { file: DENSE.to_owned(), problem })?;
        }
        if let Some(settings) = parse(PYLATE)?.filter(|settings| settings.get("query_prefix").is_some()) {
            let keys = ["query_prefix", "document_prefix", "query_length", "document_length"];
            return Self::parse(&settings, PYLATE, keys, "attend_to_expansion_tokens");
        }
        let settings = parse(STANFORD)?.unwrap_or_default();
        let keys = ["query_token_id", "doc_token_id", "query_maxlen", "doc_maxlen"];
        let mut read = Self::parse(&settings, STANFORD, keys, "attend_to_mask_tokens")?;
        if settings["mask_punctuation"] == false {
            read.skipped_tokens.clear();
        }
        Ok(read)
    }

    fn parse(
        settings: &Value,
        file: &str,
        [query, document, query_length, document_length]: [&str; 4],
        attends: &str,
    ) -> Result<Self, PromptError> {
        let default = Self::default();
        let malformed = |key: &str| PromptError::Declaration {
            file: file.to_owned(),
            problem: format!("{key} is {}", settings[key]),
        };
        let text = |key: &str, default: &str| match present(&settings[key]) {
            None => Ok(default.to_owned()),
            Some(value) => value.as_str().map(str::to_owned).ok_or_else(|| malformed(key)),
        };
        let length = |key: &str, default: usize| match present(&settings[key]) {
            None => Ok(default),
            Some(value) => {
                let length = value.as_u64().filter(|length| (1..=MAX_LENGTH).contains(length));
                length.map(|length| length as usize).ok_or_else(|| malformed(key))
            }
        };
        let flag = |key: &str, default: bool| match present(&settings[key]) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| malformed(key)),
        };
        let skipped_tokens = match present(&settings["skiplist_words"]) {
            None => default.skipped_tokens,
            Some(words) => serde_json::from_value(words.clone()).map_err(|_| malformed("skiplist_words"))?,
        };
        let expands_queries = flag("do_query_expansion", true)?;
        Ok(Self {
            query_marker: text(query, &default.query_marker)?,
            document_marker: text(document, &default.document_marker)?,
            query_length: length(query_length, default.query_length)?,
            document_length: length(document_length, default.document_length)?,
            expands_queries,
            attends_to_expansion: expands_queries && flag(attends, false)?,
            skipped_tokens,
        })
    }
}

/// A value that is given and not null.
fn present(value: &Value) -> Option<&Value> {
    Some(value).filter(|value| !value.is_null())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &'static str, json: &'static str) -> Result<ColbertSettings, PromptError> {
        ColbertSettings::read(&|file| (file == name).then(|| json.as_bytes().to_vec()))
    }

    #[test]
    fn pylates_and_stanfords_files_are_read() {
        let pylate = read(
            PYLATE,
            r#"{"query_prefix": "[Q] ", "document_prefix": "[D] ", "query_length": 48, "document_length": 300,
                "do_query_expansion": false, "attend_to_expansion_tokens": true, "skiplist_words": ["!", "."]}"#,
        );
        let expected = ColbertSettings {
            query_marker: "[Q] ".into(),
            document_marker: "[D] ".into(),
            query_length: 48,
            document_length: 300,
            expands_queries: false,
            attends_to_expansion: false,
            skipped_tokens: vec!["!".into(), ".".into()],
        };
        assert_eq!(pylate.unwrap(), expected);
        let stanford = read(
            STANFORD,
            r#"{"query_token_id": "[QueryMarker]", "doc_token_id": "[DocumentMarker]", "query_maxlen": 32,
                "doc_maxlen": 300, "attend_to_mask_tokens": true, "mask_punctuation": true}"#,
        );
        let stanford = stanford.unwrap();
        assert_eq!((stanford.query_marker.as_str(), stanford.document_length), ("[QueryMarker]", 300));
        assert!(stanford.expands_queries && stanford.attends_to_expansion && stanford.skipped_tokens.len() == 32);
        let neither = read("x", "{}").unwrap();
        assert_eq!(
            (neither.query_marker.as_str(), neither.query_length, neither.document_length),
            ("[unused0]", 32, 180)
        );
    }

    #[test]
    fn a_malformed_value_is_named_with_its_file() {
        let error = read(PYLATE, r#"{"query_prefix": "[Q] ", "query_length": "long"}"#).unwrap_err().to_string();
        assert!(error.starts_with("config_sentence_transformers.json: query_length is \"long\""), "{error}");
        let tanh = read(DENSE, r#"{"activation_function": "torch.nn.modules.activation.Tanh"}"#).unwrap_err();
        assert!(tanh.to_string().starts_with("1_Dense/config.json: activation_function is torch"), "{tanh}");
        assert!(read(DENSE, r#"{"use_residual": true}"#).unwrap_err().to_string().contains("use_residual is true"));
        assert!(read(DENSE, r#"{"activation_function": "torch.nn.modules.linear.Identity"}"#).is_ok());
        assert!(read(STANFORD, "{").unwrap_err().to_string().starts_with("artifact.metadata: "));
    }
}
