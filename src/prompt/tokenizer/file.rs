//! Reads `tokenizer.json` for encoding texts: takes the control tokens out of it, and what the
//! tokenizer does at the start of a text.

use serde_json::{Map, Value};

use super::pair_template::PairTemplate;

/// An added token of the tokenizer, special or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::prompt) struct ControlToken {
    pub text: String,
    pub id: u32,
    /// Whether it takes the white space beside it, which Podium's encoding does not reproduce.
    pub strips: bool,
}

/// The highest id of a control token: no vocabulary is larger, and the table of ids grows with it.
const HIGHEST_ID: u32 = 1 << 24;

/// A `tokenizer.json`, taken apart.
pub(super) struct TokenizerFile {
    /// The file without control tokens, truncation and padding.
    pub plain: String,
    /// The same for text that does not begin a prompt, where that makes a difference: SentencePiece
    /// puts a space before the first word only.
    pub continued: Option<String>,
    /// Added tokens, special or not. Runs of spaces that are added tokens (GPT-NeoX, ModernBERT)
    /// are ordinary text and stay in `plain`.
    pub controls: Vec<ControlToken>,
    /// The token of text that the vocabulary cannot spell, if it is one of `controls`.
    pub unknown: Option<u32>,
    /// Whether a space is put before texts that begin without one.
    pub prepends_space: bool,
    /// The template for a pair of texts.
    pub pair: Option<PairTemplate>,
}

impl TokenizerFile {
    /// Takes a file apart.
    ///
    /// # Errors
    /// The malformed part.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let json: Value = serde_json::from_slice(bytes).map_err(|error| format!("not a tokenizer: {error}"))?;
        let Value::Object(mut fields) = json else { return Err("not a tokenizer: no JSON object".into()) };
        let added = match fields.remove("added_tokens") {
            Some(Value::Array(tokens)) => tokens,
            Some(Value::Null) | None => Vec::new(),
            Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
                return Err("added_tokens is not a list".into());
            }
        };
        let (spaces, others): (Vec<_>, Vec<_>) = added.into_iter().partition(is_space_run);
        let controls = others
            .iter()
            .map(|token| control_token(token).ok_or_else(|| format!("added token without id or content: {token}")))
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(token) = controls.iter().find(|token| token.id > HIGHEST_ID) {
            return Err(format!("added token {:?} has the id {}, over {HIGHEST_ID}", token.text, token.id));
        }
        name_in_vocabulary(&spaces, &mut fields);
        fields.insert("added_tokens".into(), Value::Array(spaces));
        // Podium truncates and pads on its own.
        fields.insert("truncation".into(), Value::Null);
        fields.insert("padding".into(), Value::Null);
        let unknown = unknown_token(fields.get("model"), &controls);
        let pair = fields.get("post_processor").and_then(PairTemplate::parse);
        let prepends_space = ["normalizer", "pre_tokenizer"]
            .into_iter()
            .any(|key| fields.get(key).is_some_and(|part| parts_of(part).into_iter().any(prepends_space)));
        let plain = Value::Object(fields.clone()).to_string();
        let continued = fields.get_mut("pre_tokenizer").is_some_and(continue_text);
        let continued = continued.then(|| Value::Object(fields).to_string());
        Ok(Self { plain, continued, controls, unknown, prepends_space, pair })
    }
}

fn control_token(token: &Value) -> Option<ControlToken> {
    let flag = |name: &str| token.get(name).and_then(Value::as_bool).unwrap_or(false);
    Some(ControlToken {
        text: token.get("content")?.as_str().filter(|text| !text.is_empty())?.to_owned(),
        id: u32::try_from(token.get("id")?.as_u64()?).ok()?,
        strips: flag("lstrip") || flag("rstrip") || flag("single_word"),
    })
}

/// Whether an added token is a run of white space and not special: a shorthand for ordinary text.
fn is_space_run(token: &Value) -> bool {
    let text = token.get("content").and_then(Value::as_str).unwrap_or_default();
    let special = token.get("special").and_then(Value::as_bool).unwrap_or(true);
    !special && !text.is_empty() && text.chars().all(char::is_whitespace)
}

/// Puts added tokens into the model's vocabulary, because an added token outside it gets the next
/// free id, and that is another one once control tokens are taken out.
fn name_in_vocabulary(tokens: &[Value], fields: &mut Map<String, Value>) {
    let vocabulary = fields.get_mut("model").and_then(|model| model.get_mut("vocab")).and_then(Value::as_object_mut);
    let Some(vocabulary) = vocabulary else { return };
    for token in tokens {
        if let (Some(text), Some(id)) = (token.get("content").and_then(Value::as_str), token.get("id")) {
            vocabulary.entry(text).or_insert_with(|| id.clone());
        }
    }
}

/// The control token that the model writes for text it cannot spell.
fn unknown_token(model: Option<&Value>, controls: &[ControlToken]) -> Option<u32> {
    let model = model?;
    let id = model.get("unk_id").and_then(Value::as_u64);
    let text = model.get("unk_token").and_then(Value::as_str);
    let is_it = |token: &&ControlToken| id == Some(u64::from(token.id)) || text == Some(token.text.as_str());
    controls.iter().find(is_it).map(|token| token.id)
}

/// A normalizer or pre-tokenizer, or the parts of a sequence of them.
fn parts_of(part: &Value) -> Vec<&Value> {
    let inner = ["normalizers", "pretokenizers"].into_iter().find_map(|key| part.get(key)?.as_array());
    inner.map_or_else(|| vec![part], |parts| parts.iter().flat_map(parts_of).collect())
}

fn prepends_space(part: &Value) -> bool {
    let text = |key: &str| part.get(key).and_then(Value::as_str);
    let adds_space = part.get("add_prefix_space").and_then(Value::as_bool);
    match text("type") {
        Some("Prepend") => true,
        Some("Metaspace") => text("prepend_scheme").map_or(adds_space != Some(false), |scheme| scheme != "never"),
        Some("ByteLevel") => adds_space == Some(true),
        Some(_) | None => false,
    }
}

/// Makes a pre-tokenizer treat a text as one that does not begin a prompt. Returns whether that
/// changed anything.
fn continue_text(part: &mut Value) -> bool {
    if let Some(parts) = part.get_mut("pretokenizers").and_then(Value::as_array_mut) {
        let changed: Vec<bool> = parts.iter_mut().map(continue_text).collect();
        return changed.contains(&true);
    }
    let scheme = part.get_mut("prepend_scheme").filter(|scheme| scheme.as_str() == Some("first"));
    scheme.map(|scheme| *scheme = Value::from("never")).is_some()
}
