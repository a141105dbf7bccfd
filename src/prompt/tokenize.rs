//! From a request to [`PreparedTexts`]: the entry of this module.
//!
//! [`Prompter::tokenize`] cleans, tokenizes and truncates the texts and plans the passes.
//! [`Prompter::retokenize_shorter`] shortens what was tokenized once, by its token ids, so that a
//! budget costs no second tokenization. No truncation is silent: every cut and removal is counted
//! and leads to a warning.

use super::binding::{BiEncoder, EvidenceRows, Listwise, Pointwise, Prompter};
use super::family::SlateRule;
use super::passes::SINGLE_DOCUMENT;
use super::texts::{IsCancelled, PreparedTexts, passage_warnings, truncation_warnings};
use crate::rerank::budget::ReadLimit;
use crate::rerank::{LimitSettings, Mode, RerankError, RerankRequest};

/// How the request's documents are read.
#[derive(Clone, Copy)]
enum Reader<'a> {
    Listwise(&'a Listwise),
    Pointwise(&'a Pointwise),
    BiEncoder(&'a BiEncoder),
    Rows(&'a EvidenceRows),
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
            Reader::BiEncoder(bi_encoder) => {
                self.prepare_bi_encoder(bi_encoder, request, limits, is_cancelled, prepared)
            }
            Reader::Rows(evidence) => self.prepare_rows(evidence, request, limits, is_cancelled, prepared),
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
        if let Some(evidence) = &self.evidence_rows {
            self.shorten_rows(evidence, limit.tokens_per_document, limits, &mut prepared)?;
        } else if let Some(bi_encoder) = &self.bi_encoder {
            self.shorten_bi_encoder(bi_encoder, limit.tokens_per_document, limits, &mut prepared)?;
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
        if let Some(evidence) = &self.evidence_rows {
            return Ok(Reader::Rows(evidence));
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
                    warnings.push(SINGLE_DOCUMENT.to_owned());
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
