//! Cleans, tokenizes and truncates one text.
//!
//! Control tokens are removed before a text is truncated. jina-reranker-v3's reference code does
//! the opposite; the results differ only for texts that spell its control tokens.

use std::borrow::Cow;

use super::prepared::DocumentText;
use crate::prompt::binding::Prompter;
use crate::prompt::family::CutRule;
use crate::prompt::tokenizer::{CHUNK_BYTES, chunk_end, is_space, remove_control_tokens, squeeze};
use crate::rerank::SplitDocument;

/// Bytes of a token of long text, on the high side: how much of a text is looked at first.
const TOKEN_BYTES: usize = 6;

/// Tells whether the work should end early: asked before each document and between the chunks of a
/// long text.
pub type IsCancelled<'a> = &'a (dyn Fn() -> bool + Sync);

/// How a text is cleaned and truncated.
#[derive(Clone, Copy)]
pub(in crate::prompt) struct TextOptions<'a> {
    /// Text that the template puts before the document in the same run. Its tokens count as the
    /// document's.
    pub before: &'a str,
    /// The most tokens that are kept.
    pub limit: usize,
    /// How many of these tokens a later truncation of the whole prompt may remove.
    pub slack: usize,
    /// The most characters that are read.
    pub max_characters: Option<usize>,
    /// Whether the work should end early.
    pub is_cancelled: IsCancelled<'a>,
}

/// The beginning of a text, encoded.
struct Encoded {
    /// `before` and the cleaned text, up to the limit on characters but not yet to that on tokens.
    run: String,
    /// The token ids of `run`, or more of them than the limit.
    ids: Vec<u32>,
    /// Tokens of the beginning, counted without the limit on characters, in the part that was
    /// encoded.
    tokens: usize,
    /// The share of the beginning that was encoded for `tokens`, in [0, 1].
    counted: f64,
    /// Control tokens that were removed.
    removed: usize,
    /// Whether the model reads the same, however much longer the beginning is made.
    is_enough: bool,
}

impl Prompter {
    /// Cleans a text, counts its tokens and truncates it. Returns it with the number of control
    /// tokens that were removed from the part that was looked at.
    ///
    /// A long text is encoded only as far as it can be read, in chunks. Texts up to [`CHUNK_BYTES`]
    /// are counted exactly; the tokens of the rest of a longer one are estimated from its bytes.
    pub(super) fn clean_and_truncate(
        &self,
        raw: &str,
        options: &TextOptions,
    ) -> Result<(DocumentText, usize), tokenizers::Error> {
        let mut bytes = CHUNK_BYTES.max(options.limit.saturating_mul(TOKEN_BYTES));
        loop {
            let beginning = &raw[..chunk_end(raw, bytes)];
            let encoded = self.encode_beginning(beginning, options)?;
            let is_whole = beginning.len() == raw.len();
            if is_whole || encoded.is_enough {
                let counted = encoded.counted * beginning.len() as f64 / raw.len().max(1) as f64;
                return self.truncate(encoded, counted, options);
            }
            bytes = bytes.saturating_mul(2);
        }
    }

    fn encode_beginning(&self, raw: &str, options: &TextOptions) -> Result<Encoded, tokenizers::Error> {
        let TextOptions { before, limit, max_characters, is_cancelled, .. } = options;
        if is_cancelled() {
            return Err("cancelled".into());
        }
        let (clean, removed) = remove_control_tokens(&self.tokenizer, raw);
        let read_end = max_characters.and_then(|most| clean.char_indices().nth(most)).map(|(end, _)| end);
        let run_of = |text: &str| [before, &*self.shape(text)].concat();
        let run = run_of(&clean[..read_end.unwrap_or(clean.len())]);
        let (ids, encoded_bytes) = self.tokenizer.encode_until(&run, *limit, *is_cancelled)?;
        let (tokens, counted) = if read_end.is_some() {
            let all = run_of(&clean);
            let (all_ids, bytes) = self.tokenizer.encode_until(&all, *limit, *is_cancelled)?;
            (all_ids.len().max(ids.len()), bytes as f64 / all.len() as f64)
        } else {
            (ids.len(), if run.is_empty() { 1.0 } else { encoded_bytes as f64 / run.len() as f64 })
        };
        let is_enough = read_end.is_some() || ids.len() > *limit;
        Ok(Encoded { run, ids, tokens, counted, removed, is_enough })
    }

    /// White space as the family wants it.
    fn shape<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let rules = &self.facts.texts;
        match (rules.squeeze, rules.trim) {
            (true, _) => Cow::Owned(squeeze(text)),
            (false, true) => Cow::Borrowed(text.trim_matches(is_space)),
            (false, false) => Cow::Borrowed(text),
        }
    }

    /// Tokens of a part of a text, without removing control tokens from it.
    pub(in crate::prompt) fn count_tokens(&self, text: &str) -> Result<usize, tokenizers::Error> {
        if !self.facts.texts.squeeze {
            return Ok(self.tokenizer.encode(text)?.len());
        }
        let space = if text.starts_with(is_space) { " " } else { "" };
        Ok(self.tokenizer.encode(&[space, &squeeze(text)].concat())?.len())
    }

    /// Truncates to the limit. `counted` is the share of the whole text whose tokens were counted.
    fn truncate(
        &self,
        encoded: Encoded,
        counted: f64,
        options: &TextOptions,
    ) -> Result<(DocumentText, usize), tokenizers::Error> {
        let Encoded { mut run, mut ids, tokens, removed, .. } = encoded;
        let (before, limit) = (options.before, options.limit);
        let is_estimate = counted < 1.0;
        let tokens = if is_estimate { (tokens as f64 / counted).ceil() as usize } else { tokens };
        match self.facts.texts.cut {
            CutRule::Exact if ids.len() > limit => {
                let cut = self.tokenizer.cut_encoded(&run, &ids, limit)?;
                run.truncate(cut.bytes.max(before.len()));
                ids = cut.ids;
            }
            CutRule::Decoded if ids.len() >= limit => {
                ids.truncate(limit);
                run = self.tokenizer.decode(&ids);
            }
            CutRule::Exact | CutRule::Decoded => {}
        }
        let text = run.split_off(before.len().min(run.len()));
        Ok((DocumentText { text, tokens, is_estimate, tokens_read: ids.len(), ids }, removed))
    }

    /// Truncates a document whose ids are those of `before` and its text to at most `limit` tokens.
    pub(in crate::prompt) fn shorten_text(
        &self,
        document: &mut DocumentText,
        before: &str,
        limit: usize,
    ) -> Result<(), tokenizers::Error> {
        let (text, ids) = (std::mem::take(&mut document.text), std::mem::take(&mut document.ids));
        let encoded =
            Encoded { run: [before, &text].concat(), ids, tokens: 0, counted: 1.0, removed: 0, is_enough: true };
        let options = TextOptions { before, limit, slack: 0, max_characters: None, is_cancelled: &|| false };
        let (shorter, _) = self.truncate(encoded, 1.0, &options)?;
        let tokens_read = shorter.tokens_read.min(document.tokens_read);
        *document = DocumentText { tokens: document.tokens, is_estimate: document.is_estimate, tokens_read, ..shorter };
        Ok(())
    }
}

/// Says which documents were truncated, and of which of these the length is an estimate.
pub(in crate::prompt) fn truncation_warnings(documents: &[DocumentText]) -> Vec<String> {
    let is_truncated = |document: &DocumentText| document.tokens_read < document.tokens;
    let lengths = || documents.iter().filter(|document| is_truncated(document)).map(|document| document.tokens_read);
    let (Some(least), Some(most)) = (lengths().min(), lengths().max()) else { return Vec::new() };
    let length = if least == most { most.to_string() } else { format!("at most {most}") };
    let unit = if most == 1 { "token" } else { "tokens" };
    let all = documents.len();
    let (count, were, indices) = listed(documents, is_truncated);
    let mut warnings = vec![format!("{count} of {all} documents {were} cut to {length} {unit}: {indices}")];
    let (count, _, indices) = listed(documents, |document| document.is_estimate);
    if count > 0 {
        let size = CHUNK_BYTES / 1024;
        warnings
            .push(format!("tokens is an estimate for {count} of {all} documents, longer than {size} KiB: {indices}"));
    }
    warnings
}

/// Says which documents have an end that no passage holds.
pub(in crate::prompt) fn passage_warnings(documents: &[SplitDocument]) -> Vec<String> {
    let (count, were, indices) = listed(documents, |document: &SplitDocument| document.tokens_left > 0);
    if count == 0 {
        return Vec::new();
    }
    let all = documents.len();
    let mut warnings = vec![format!("{count} of {all} documents {were} not read to the end: {indices}")];
    let (count, _, indices) = listed(documents, |document| document.is_estimate);
    if count > 0 {
        let size = CHUNK_BYTES / 1024;
        warnings
            .push(format!("tokens is an estimate for {count} of {all} documents, longer than {size} KiB: {indices}"));
    }
    warnings
}

/// Counts the documents that `is_listed` holds for: how many, "was" or "were", and the first
/// indices.
fn listed<T>(documents: &[T], is_listed: impl Fn(&T) -> bool) -> (usize, &'static str, String) {
    const SHOWN: usize = 10;
    let all: Vec<usize> =
        documents.iter().enumerate().filter(|(_, document)| is_listed(document)).map(|(index, _)| index).collect();
    let shown: Vec<String> = all.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = if all.len() > SHOWN { ", ..." } else { "" };
    let (were, noun) = if all.len() == 1 { ("was", "index") } else { ("were", "indices") };
    (all.len(), were, format!("{noun} {}{more}", shown.join(", ")))
}

/// Warns that the request asks for more of each document than fits, where a document has more.
/// `most` is what is read at most.
pub(in crate::prompt) fn warn_of_max_tokens_per_doc(
    requested: Option<usize>,
    most: usize,
    documents: &[DocumentText],
    warnings: &mut Vec<String>,
) {
    if let Some(requested) = requested.filter(|requested| *requested > most)
        && documents.iter().any(|document| document.tokens_read < document.tokens)
    {
        warnings.push(format!(
            "max_tokens_per_doc: {requested} is more than fits beside the query and the instruction; at most {most} \
             tokens of a document are read"
        ));
    }
}

/// Warns of control tokens that were removed from a text.
pub(super) fn warn_of_removed(field: &str, removed: usize, warnings: &mut Vec<String>) {
    match removed {
        0 => {}
        1 => warnings.push(format!("{field}: 1 control token was removed")),
        _ => warnings.push(format!("{field}: {removed} control tokens were removed")),
    }
}
