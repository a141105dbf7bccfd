//! From a request to [`PreparedTexts`]: the entry of this module.
//!
//! [`Prompter::tokenize`] cleans, tokenizes and truncates the texts and plans the passes.
//! [`Prompter::retokenize_shorter`] shortens what was tokenized once, by its token ids, so that a
//! budget costs no second tokenization. No truncation is silent: every cut and removal is counted
//! and leads to a warning.

use super::binding::{BiEncoder, Listwise, Pointwise, Prompter, RowReading};
use super::family::SlateRule;
use super::parallel;
use super::passes::ALONE;
use super::texts::{
    DocumentOptions, IsCancelled, PreparedTexts, passage_warnings, truncation_warnings, warn_of_removed,
};
use super::tokenizer::is_space;
use crate::rerank::budget::ReadLimit;
use crate::rerank::{LimitSettings, Mode, RerankError, RerankRequest};

/// How many characters of a document are looked at to find its script.
const SCRIPT_CHARACTERS: usize = 200;

/// How the request's documents are read.
#[derive(Clone, Copy)]
enum Reader<'a> {
    Listwise(&'a Listwise),
    Pointwise(&'a Pointwise),
    BiEncoder(&'a BiEncoder),
    Rows(&'a RowReading),
}

impl Prompter {
    /// Cleans, tokenizes and truncates a request's texts and plans which documents share a pass.
    ///
    /// The pipeline has validated the request: the query is not blank, there are documents, and
    /// their number is within the limit.
    ///
    /// # Errors
    /// [`RerankError::InvalidField`] for a query that consists of control tokens;
    /// [`RerankError::TextTooLong`] when a text is over its limit and the request forbids
    /// truncation; [`RerankError::PromptTooLong`] when query and instruction leave no room for a
    /// document; [`RerankError::UnsupportedMode`] for `listwise` on a pointwise family;
    /// [`RerankError::Internal`] when the tokenizer or a template fails, or the work is cancelled.
    pub fn tokenize(
        &self,
        request: &RerankRequest,
        limits: &LimitSettings,
        is_cancelled: IsCancelled,
    ) -> Result<PreparedTexts, RerankError> {
        let mut warnings = Vec::new();
        let reader = self.choose_reader(request, &mut warnings)?;
        let (query, instruction) = self.tokenize_short_texts(request, is_cancelled, &mut warnings)?;
        self.warn_of_other_scripts(&request.documents, &mut warnings);
        let mut prepared = PreparedTexts::new(request, query, instruction, warnings);
        let read = self.prepare(reader, request, limits, is_cancelled, &mut prepared);
        // Errors name documents, not passages.
        read.map_err(|error| error.with_document_index(|index| prepared.document_of(index)))?;
        prepared.cutoff_layer = self.choose_cutoff_layer(request);
        prepared.early_exit = self.choose_exit(request, prepared.mode, &mut prepared.warnings);
        warn_of_truncation(&mut prepared);
        Ok(prepared)
    }

    /// Tokenizes the documents and plans the passes.
    fn prepare(
        &self,
        reader: Reader,
        request: &RerankRequest,
        limits: &LimitSettings,
        is_cancelled: IsCancelled,
        prepared: &mut PreparedTexts,
    ) -> Result<(), RerankError> {
        match reader {
            Reader::Listwise(listwise) => self.prepare_slates(listwise, request, limits, is_cancelled, prepared),
            Reader::Pointwise(pointwise) => self.prepare_pairs(pointwise, request, limits, is_cancelled, prepared),
            Reader::BiEncoder(bi_encoder) => self.prepare_apart(bi_encoder, request, limits, is_cancelled, prepared),
            Reader::Rows(reading) => self.prepare_rows(reading, request, limits, is_cancelled, prepared),
        }
    }

    /// Keeps only the first documents, or only the first tokens of each, of a tokenized request.
    /// Slices token ids; `tokens` stays the length of the whole document.
    ///
    /// # Errors
    /// The errors of [`Prompter::tokenize`].
    pub fn retokenize_shorter(
        &self,
        whole: &PreparedTexts,
        limit: ReadLimit,
        limits: &LimitSettings,
    ) -> Result<PreparedTexts, RerankError> {
        let mut prepared = whole.with_first(limit.documents);
        if let Some(reading) = &self.rows {
            self.shorten_rows(reading, limit.tokens_per_document, limits, &mut prepared)?;
        } else if let Some(bi_encoder) = &self.bi_encoder {
            self.shorten_apart(bi_encoder, limit.tokens_per_document, limits, &mut prepared)?;
        } else if let Some(frame) = &prepared.pair_frame {
            if let Some(tokens) = limit.tokens_per_document {
                for document in &mut prepared.documents {
                    self.shorten_pair(frame, document, tokens)?;
                }
            }
            prepared.plan = self.group_pairs(&prepared.documents, limits);
        } else {
            let listwise = self.listwise.as_ref();
            let listwise = listwise.ok_or_else(|| RerankError::internal("a request of another family"))?;
            if let Some(tokens) = limit.tokens_per_document {
                self.shorten_slate_documents(listwise, &mut prepared, tokens)?;
            }
            let listwise_runs = whole.mode == Mode::Listwise;
            self.plan_slates(listwise, listwise_runs, limits, &mut prepared)?;
        }
        warn_of_truncation(&mut prepared);
        Ok(prepared)
    }

    /// The mode, and with it the template: listwise where the request and the family allow it.
    fn choose_reader(&self, request: &RerankRequest, warnings: &mut Vec<String>) -> Result<Reader<'_>, RerankError> {
        if let Some(reading) = &self.rows {
            return Ok(Reader::Rows(reading));
        }
        if let Some(bi_encoder) = &self.bi_encoder
            && (request.mode != Mode::Listwise || bi_encoder.readout.feedback_documents() > 0)
        {
            return Ok(Reader::BiEncoder(bi_encoder));
        }
        let listwise = match request.mode {
            Mode::Listwise => Some(self.listwise.as_ref().ok_or_else(|| RerankError::UnsupportedMode {
                problem: format!(
                    "family `{}` reads one document at a time; ask for `pointwise` or `auto`",
                    self.facts.name
                ),
            })?),
            Mode::Auto => self.listwise.as_ref().filter(|listwise| {
                let is_alone = listwise.facts.slates.rule == SlateRule::Windows && request.documents.len() < 2;
                if is_alone {
                    warnings.push(ALONE.to_owned());
                }
                !is_alone
            }),
            Mode::Pointwise => self.listwise.as_ref().filter(|_| self.pointwise.is_none()),
        };
        match (listwise, &self.pointwise) {
            (Some(listwise), _) => Ok(Reader::Listwise(listwise)),
            (None, Some(pointwise)) => Ok(Reader::Pointwise(pointwise)),
            // A family declares one of them at least.
            (None, None) => Err(RerankError::internal("the family has no prompt")),
        }
    }

    /// The most tokens of a document, or of a passage, that the request or the family allows.
    pub(super) fn requested_limit(&self, request: &RerankRequest) -> usize {
        let requested = match request.chunking {
            Some(chunking) => chunking.tokens,
            None => request.max_tokens_per_doc,
        };
        requested.unwrap_or(self.facts.limits.document).max(1)
    }

    fn tokenize_short_texts(
        &self,
        request: &RerankRequest,
        is_cancelled: IsCancelled,
        warnings: &mut Vec<String>,
    ) -> Result<(String, String), RerankError> {
        let limits = &self.facts.limits;
        let options =
            |limit, max_characters| DocumentOptions { before: "", limit, slack: 0, max_characters, is_cancelled };
        let query_options = options(limits.query, limits.query_characters);
        let query = self.tokenize_short_text("query", &request.query, &query_options, request.truncation, warnings)?;
        if query.chars().all(is_space) {
            return Err(RerankError::invalid("query", "it holds nothing but white space and control tokens"));
        }
        if let Some(language) = &self.facts.reads_only
            && is_in_another_script(query.chars())
        {
            let family = &self.facts.name;
            warnings
                .push(format!("query: {family} reads {language}; most letters of this query are of another script"));
        }
        let requested = request.instruction.as_deref().filter(|text| !text.chars().all(is_space));
        let mut instruction = match requested {
            Some(text) if !self.takes_instruction => {
                warnings.push(format!("family `{}` takes no instruction; it was not read: {text:?}", self.facts.name));
                String::new()
            }
            Some(text) => {
                let options = options(limits.instruction, None);
                self.tokenize_short_text("instruction", text, &options, request.truncation, warnings)?
            }
            None => String::new(),
        };
        if instruction.chars().all(is_space) {
            instruction = self.facts.default_instruction.clone().unwrap_or_default();
        }
        Ok((query, instruction))
    }

    fn tokenize_short_text(
        &self,
        field: &str,
        raw: &str,
        options: &DocumentOptions,
        may_truncate: bool,
        warnings: &mut Vec<String>,
    ) -> Result<String, RerankError> {
        let (text, removed) = self.clean_and_truncate(raw, options).map_err(RerankError::internal)?;
        if text.tokens_read < text.tokens {
            if !may_truncate {
                let (tokens, limit) = (text.tokens, text.tokens_read);
                return Err(RerankError::TextTooLong { field: field.into(), tokens, limit });
            }
            let about = if text.is_estimate { "about " } else { "" };
            warnings.push(format!("{field}: cut from {about}{} tokens to {}", text.tokens, text.tokens_read));
        }
        warn_of_removed(field, removed, warnings);
        Ok(text.text)
    }

    /// Warns of documents in a script that the model does not read, once for all of them.
    fn warn_of_other_scripts(&self, documents: &[String], warnings: &mut Vec<String>) {
        let Some(language) = &self.facts.reads_only else { return };
        let is_other = |(_, text): &(usize, &String)| is_in_another_script(text.chars().take(SCRIPT_CHARACTERS));
        let others: Vec<usize> = documents.iter().enumerate().filter(is_other).map(|(index, _)| index).collect();
        if let [first, more @ ..] = others.as_slice() {
            let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
            let family = &self.facts.name;
            warnings.push(format!(
                "documents[{first}]{more}: {family} reads {language}; most letters are of another script"
            ));
        }
    }

    /// Cleans, tokenizes and truncates all documents, or their passages, on several threads where
    /// that is faster. Returns their texts as they were sent.
    pub(super) fn tokenize_documents<'a>(
        &self,
        request: &'a RerankRequest,
        options: &DocumentOptions,
        limits: &LimitSettings,
        prepared: &mut PreparedTexts,
    ) -> Result<Vec<&'a str>, RerankError> {
        if let Some(chunking) = &request.chunking {
            return self.tokenize_passages(request, chunking, options, limits, prepared);
        }
        let bytes = request.documents.iter().map(String::len).sum();
        let raw = request.documents.iter().collect();
        let results = parallel::map(raw, bytes, |raw: &String| self.clean_and_truncate(raw, options));
        prepared.documents.reserve(results.len());
        for (index, result) in results.into_iter().enumerate() {
            let (document, removed) = result.map_err(RerankError::internal)?;
            let field = format!("documents[{index}]");
            if document.tokens_read < document.tokens && !request.truncation {
                let (tokens, limit) = (document.tokens, (options.limit - options.slack).min(document.tokens_read));
                return Err(RerankError::TextTooLong { field, tokens, limit });
            }
            warn_of_removed(&field, removed, &mut prepared.warnings);
            prepared.documents.push(document);
        }
        Ok(request.documents.iter().map(String::as_str).collect())
    }
}

/// Whether more than half of a text's letters are not Latin.
fn is_in_another_script(text: impl Iterator<Item = char>) -> bool {
    let is_latin = |letter: char| letter <= '\u{24F}' || ('\u{1E00}'..='\u{1EFF}').contains(&letter);
    let (mut latin, mut others) = (0, 0);
    for letter in text.filter(|letter| letter.is_alphabetic()) {
        if is_latin(letter) {
            latin += 1;
        } else {
            others += 1;
        }
    }
    others > latin
}

/// Warns of truncated documents and of estimated lengths.
fn warn_of_truncation(prepared: &mut PreparedTexts) {
    let warnings = match &prepared.passages {
        Some(passages) => passage_warnings(&passages.documents),
        None => truncation_warnings(&prepared.documents),
    };
    prepared.truncation_warnings = warnings.len();
    prepared.warnings.extend(warnings);
}
