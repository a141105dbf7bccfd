//! A request's texts as the model will read them: without control tokens, within their limits, and
//! with a plan. What was cut or removed is counted and said, never silent.
//!
//! Control tokens go first, then texts are cut. jina-reranker-v3's reference does it the other way
//! round; the two differ only for texts that spell its tokens.

use std::borrow::Cow;

use super::clean::{is_space, remove_control_tokens, squeeze};
use super::family::{CutRule, SlateRule};
use super::plan::Plan;
use super::prompter::Prompter;
use super::threads;
use crate::rerank::budget::Share;
use crate::rerank::{LimitSettings, Mode, RerankError, RerankRequest};

/// Texts of more bytes keep one thread busy for a while, and are read on their request's own.
const LONG_TEXT_BYTES: usize = 64 * 1024;

/// A request, read: texts, their lengths, and which documents are read together.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// [`Mode::Listwise`] or [`Mode::Pointwise`]: what will run.
    pub mode: Mode,
    /// The query, as the prompt has it.
    pub query: String,
    /// The instruction, as the prompt has it: the family's own when the request has none; empty for
    /// none.
    pub instruction: String,
    /// The documents, in the request's order.
    pub documents: Vec<DocumentText>,
    /// Which documents are read together, and in which order.
    pub plan: Plan,
    /// What the caller should know: cut texts, removed control tokens, a fallback.
    pub warnings: Vec<String>,
}

/// A document, as the prompt has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentText {
    /// What is read of its text.
    pub text: String,
    /// Tokens of the whole text.
    pub tokens: usize,
    /// Tokens of it that are read; fewer than `tokens` exactly when it was cut.
    pub tokens_read: usize,
    /// Its suffix of an isolated slate, or its whole pointwise sequence; empty for causal slates.
    pub(super) ids: Vec<u32>,
}

/// Query and instruction, in their final form.
pub(super) struct ShortTexts {
    pub query: String,
    pub instruction: String,
}

/// How documents are taken in.
pub(super) struct Intake<'a> {
    /// What the template has before a document in the same run of text: it counts as the document's.
    pub before: &'a str,
    /// The most tokens of a document.
    pub limit: usize,
    /// Whether the ids of (before, document) are kept.
    pub keep_ids: bool,
    /// Whether anybody still waits for the reading.
    pub wanted: &'a (dyn Fn() -> bool + Sync),
}

impl Prompter {
    /// Cleans, tokenises and cuts a request's texts, and plans which documents are read together.
    ///
    /// The request must have passed the checks of the pipeline (a query that is not blank, documents,
    /// counts); what is checked here is what takes a tokenizer.
    ///
    /// # Errors
    /// [`RerankError::InvalidField`] for a query of nothing but control tokens;
    /// [`RerankError::TextTooLong`] when a text is over its limit and the request forbids cutting;
    /// [`RerankError::PromptTooLong`] when query and instruction leave no room for a document;
    /// [`RerankError::UnsupportedMode`] for `listwise` on a family without it;
    /// [`RerankError::Internal`] when tokenizer or template fail.
    pub fn read(&self, request: &RerankRequest, limits: &LimitSettings) -> Result<Reading, RerankError> {
        self.read_while(request, limits, &|| true)
    }

    /// As [`Prompter::read`], for as long as it is `wanted`, which is asked before each document.
    ///
    /// # Errors
    /// As [`Prompter::read`]; [`RerankError::Internal`] when it is not wanted any more.
    pub fn read_while(
        &self,
        request: &RerankRequest,
        limits: &LimitSettings,
        wanted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Reading, RerankError> {
        let mut reading = self.read_texts(request, limits, wanted)?;
        warn_of_cuts(&mut reading);
        Ok(reading)
    }

    /// Reads less of a request that was read `before`: only its first documents, or only so much of each. Lengths are
    /// still those of the whole texts.
    ///
    /// # Errors
    /// As [`Prompter::read`].
    pub fn read_less(
        &self,
        request: &RerankRequest,
        before: &Reading,
        share: Share,
        limits: &LimitSettings,
    ) -> Result<Reading, RerankError> {
        let documents = &before.documents[..share.documents.min(before.documents.len())];
        let less = RerankRequest {
            instruction: request.instruction.clone(),
            max_tokens_per_doc: share.tokens_per_document.or(request.max_tokens_per_doc),
            truncation: request.truncation,
            mode: request.mode,
            ..RerankRequest::new(&request.query, documents.iter().map(|document| document.text.clone()).collect())
        };
        let mut reading = self.read_texts(&less, limits, &|| true)?;
        for (document, whole) in reading.documents.iter_mut().zip(documents) {
            document.tokens = whole.tokens;
            document.tokens_read = document.tokens_read.min(whole.tokens_read);
        }
        // What was removed from documents was removed the first time.
        let removed = before.warnings.iter().filter(|warning| warning.starts_with("documents["));
        reading.warnings.extend(removed.cloned());
        warn_of_cuts(&mut reading);
        Ok(reading)
    }

    fn read_texts(
        &self,
        request: &RerankRequest,
        limits: &LimitSettings,
        wanted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Reading, RerankError> {
        let mut warnings = Vec::new();
        let listwise = match request.mode {
            Mode::Listwise => Some(self.listwise.as_ref().ok_or_else(|| RerankError::UnsupportedMode {
                problem: format!(
                    "family `{}` reads one document at a time; ask for `pointwise` or `auto`",
                    self.facts.name
                ),
            })?),
            Mode::Auto => self.listwise.as_ref().filter(|listwise| {
                let alone = listwise.facts.slates.rule == SlateRule::Windows && request.documents.len() < 2;
                if alone {
                    warnings.push("read pointwise: one document alone has nothing to be compared with".into());
                }
                !alone
            }),
            Mode::Pointwise => self.listwise.as_ref().filter(|_| self.pointwise.is_none()),
        };
        let texts = self.short_texts(request, &mut warnings)?;
        let (mode, documents, plan) = match (listwise, self.pointwise.as_ref()) {
            (Some(listwise), _) => self.read_slates(listwise, request, limits, &texts, wanted, &mut warnings)?,
            (None, Some(pointwise)) => {
                let intake = Intake { before: "", limit: self.wanted_limit(request), keep_ids: false, wanted };
                let mut documents = self.documents(request, &intake, &mut warnings)?;
                let plan = self.read_pairs(pointwise, request, limits, &texts, &mut documents, &mut warnings)?;
                (Mode::Pointwise, documents, plan)
            }
            // A family has one or the other.
            (None, None) => return Err(RerankError::internal("the family has no prompt")),
        };
        Ok(Reading { mode, query: texts.query, instruction: texts.instruction, documents, plan, warnings })
    }

    /// The most tokens of a document that the request or the family allows.
    pub(super) fn wanted_limit(&self, request: &RerankRequest) -> usize {
        request.max_tokens_per_doc.unwrap_or(self.facts.limits.document).max(1)
    }

    fn short_texts(&self, request: &RerankRequest, warnings: &mut Vec<String>) -> Result<ShortTexts, RerankError> {
        let limits = &self.facts.limits;
        let query =
            self.short_text("query", &request.query, limits.query, limits.query_characters, request, warnings)?;
        if query.chars().all(is_space) {
            return Err(RerankError::invalid("query", "it holds nothing but white space and control tokens"));
        }
        let wanted = request.instruction.as_deref().filter(|text| !text.chars().all(is_space));
        let mut instruction = match wanted {
            Some(text) if !self.takes_instruction => {
                warnings.push(format!("family `{}` takes no instruction; it was not read: {text:?}", self.facts.name));
                String::new()
            }
            Some(text) => self.short_text("instruction", text, limits.instruction, None, request, warnings)?,
            None => String::new(),
        };
        if instruction.chars().all(is_space) {
            instruction = self.facts.default_instruction.clone().unwrap_or_default();
        }
        Ok(ShortTexts { query, instruction })
    }

    fn short_text(
        &self,
        field: &str,
        raw: &str,
        limit: usize,
        characters: Option<usize>,
        request: &RerankRequest,
        warnings: &mut Vec<String>,
    ) -> Result<String, RerankError> {
        let (text, removed) = self.take_in(raw, characters, "", limit).map_err(RerankError::internal)?;
        if text.tokens_read < text.tokens {
            if !request.truncation {
                let (tokens, limit) = (text.tokens, text.tokens_read);
                return Err(RerankError::TextTooLong { field: field.into(), tokens, limit });
            }
            warnings.push(format!("{field}: cut from {} tokens to {}", text.tokens, text.tokens_read));
        }
        warn_of_removed(field, removed, warnings);
        Ok(text.text)
    }

    /// Takes in all documents: short ones on several threads where that pays, long ones here, so that others need not wait for
    /// them.
    pub(super) fn documents(
        &self,
        request: &RerankRequest,
        intake: &Intake,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<DocumentText>, RerankError> {
        let characters = self.facts.limits.document_characters;
        let take = |raw: &String| {
            if (intake.wanted)() {
                self.take_in(raw, characters, intake.before, intake.limit)
            } else {
                Err("nobody waits for it".into())
            }
        };
        let is_short = |raw: &&String| raw.len() <= LONG_TEXT_BYTES;
        let bytes = request.documents.iter().filter(is_short).map(String::len).sum();
        let taken = threads::map(&request.documents, bytes, |raw| is_short(&raw).then(|| take(raw)));
        let mut documents = Vec::with_capacity(taken.len());
        for (index, (raw, document)) in request.documents.iter().zip(taken).enumerate() {
            let (mut document, removed) = document.unwrap_or_else(|| take(raw)).map_err(RerankError::internal)?;
            let field = format!("documents[{index}]");
            if document.tokens_read < document.tokens && !request.truncation {
                let (tokens, limit) = (document.tokens, intake.limit.min(document.tokens_read));
                return Err(RerankError::TextTooLong { field, tokens, limit });
            }
            warn_of_removed(&field, removed, warnings);
            if !intake.keep_ids {
                document.ids = Vec::new();
            }
            documents.push(document);
        }
        Ok(documents)
    }

    /// Cleans a text, counts its tokens and cuts it. Also returns how many control tokens were
    /// removed. `before` stands in front of it and counts.
    fn take_in(
        &self,
        raw: &str,
        characters: Option<usize>,
        before: &str,
        limit: usize,
    ) -> Result<(DocumentText, usize), tokenizers::Error> {
        let rules = &self.facts.texts;
        let shape = |text| match (rules.squeeze, rules.trim) {
            (true, _) => Cow::Owned(squeeze(text)),
            (false, true) => Cow::Borrowed(text.trim_matches(is_space)),
            (false, false) => Cow::Borrowed(text),
        };
        let (clean, removed) = remove_control_tokens(&self.tokenizer, raw);
        let in_characters = characters.and_then(|most| clean.char_indices().nth(most));
        let mut run = before.to_owned();
        run.push_str(&shape(in_characters.map_or(&*clean, |(end, _)| &clean[..end])));
        let mut ids = self.tokenizer.encode(&run)?;
        let tokens = match in_characters {
            Some(_) => self.tokenizer.encode(&format!("{before}{}", shape(&clean)))?.len().max(ids.len()),
            None => ids.len(),
        };
        match rules.cut {
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
        Ok((DocumentText { text, tokens, tokens_read: ids.len(), ids }, removed))
    }
}

fn warn_of_cuts(Reading { documents, warnings, .. }: &mut Reading) {
    let cut: Vec<usize> = documents
        .iter()
        .enumerate()
        .filter(|(_, document)| document.tokens_read < document.tokens)
        .map(|(index, _)| index)
        .collect();
    let lengths = || cut.iter().map(|index| documents[*index].tokens_read);
    let (Some(least), Some(most)) = (lengths().min(), lengths().max()) else { return };
    let length = if least == most { most.to_string() } else { format!("at most {most}") };
    let (were, which) = if cut.len() == 1 { ("was", "index") } else { ("were", "indices") };
    let (count, all) = (cut.len(), documents.len());
    let unit = if most == 1 { "token" } else { "tokens" };
    warnings.push(format!("{count} of {all} documents {were} cut to {length} {unit}: {which} {}", indices(&cut)));
}

/// Says that the request asks for more of each document than is read, where one had more. `most` is what is read.
pub(super) fn warn_of_want(
    request: &RerankRequest,
    most: usize,
    documents: &[DocumentText],
    warnings: &mut Vec<String>,
) {
    if let Some(asked) = request.max_tokens_per_doc.filter(|asked| *asked > most)
        && documents.iter().any(|document| document.tokens_read < document.tokens)
    {
        warnings.push(format!(
            "max_tokens_per_doc: {asked} is more than fits beside the query and the instruction; at most {most} tokens of a \
             document are read"
        ));
    }
}

fn warn_of_removed(field: &str, removed: usize, warnings: &mut Vec<String>) {
    match removed {
        0 => {}
        1 => warnings.push(format!("{field}: 1 control token was removed")),
        _ => warnings.push(format!("{field}: {removed} control tokens were removed")),
    }
}

/// The first few of some indices, for people.
fn indices(all: &[usize]) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<String> = all.iter().take(SHOWN).map(ToString::to_string).collect();
    shown.join(", ") + if all.len() > SHOWN { ", ..." } else { "" }
}
