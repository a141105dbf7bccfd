//! Prepares query and documents that are encoded apart from each other. The documents' sequences do
//! not depend on the query. The query's sequence may show the first documents of the list (pseudo
//! relevance feedback).

use super::render::Rendering;
use crate::prompt::binding::{BiEncoder, Colbert, Prompter};
use crate::prompt::template::{Frame, Run, Step};
use crate::prompt::texts::{IsCancelled, PairFrame, Plan, PreparedTexts, TextOptions, warn_of_max_tokens_per_doc};
use crate::rerank::slates::{self, SlateLimits};
use crate::rerank::{LimitSettings, Mode, RerankError, RerankRequest};
use crate::runtime::{TokenPosition, TokenTypes};

impl Colbert {
    /// The query's sequence and those of documents, read at all tokens that are compared.
    pub(in crate::prompt) fn render(&self, prepared: &PreparedTexts, documents: &[usize]) -> Rendering {
        let mut suffixes = vec![prepared.query_ids.clone()];
        suffixes.extend(documents.iter().map(|document| prepared.documents[*document].ids.clone()));
        let marks = suffixes.iter().enumerate().flat_map(|(nth, ids)| {
            let is_compared = move |id: &u32| nth == 0 || !self.skipped.contains(id);
            let compared = ids.iter().enumerate().filter(move |(_, id)| is_compared(id));
            compared.map(move |(offset, _)| TokenPosition::suffix(nth, offset))
        });
        let marks = marks.collect();
        Rendering { prefix: Vec::new(), suffixes, marks, token_types: TokenTypes::Zero, rows: None }
    }
}

impl Prompter {
    /// Tokenizes query and documents, each into a sequence of its own, and groups the documents.
    pub(in crate::prompt) fn prepare_bi_encoder(
        &self,
        bi_encoder: &BiEncoder,
        request: &RerankRequest,
        limits: &LimitSettings,
        is_cancelled: IsCancelled,
        prepared: &mut PreparedTexts,
    ) -> Result<(), RerankError> {
        let frame = self.document_frame(bi_encoder, limits)?;
        let (requested, fits) = (self.requested_limit(request), self.max_document(&frame)?);
        let options = TextOptions {
            before: "",
            limit: requested.min(fits),
            slack: 0,
            max_characters: self.facts.limits.document_characters,
            is_cancelled,
        };
        self.tokenize_documents(request, &options, limits, prepared)?;
        warn_of_max_tokens_per_doc(
            prepared.options.max_tokens_per_doc,
            fits,
            &prepared.documents,
            &mut prepared.warnings,
        );
        self.fill_frames(&frame, prepared)?;
        prepared.pair_frame = Some(frame);
        self.plan_bi_encoder(bi_encoder, limits, prepared)
    }

    /// Truncates documents that were tokenized before to at most `tokens` tokens each, and plans
    /// again.
    pub(in crate::prompt) fn shorten_bi_encoder(
        &self,
        bi_encoder: &BiEncoder,
        tokens: Option<usize>,
        limits: &LimitSettings,
        prepared: &mut PreparedTexts,
    ) -> Result<(), RerankError> {
        if let (Some(tokens), Some(frame)) = (tokens, &prepared.pair_frame) {
            // The query's sequence is made of texts, so they are truncated too.
            let needs_texts = bi_encoder.readout.feedback_documents() > 0;
            for document in &mut prepared.documents {
                if !needs_texts {
                    self.shorten_pair(frame, document, tokens)?;
                } else if document.tokens_read > tokens {
                    self.cut_text(document, tokens)?;
                    self.make_pair(frame, 0, document, true)?;
                }
            }
        }
        self.plan_bi_encoder(bi_encoder, limits, prepared)
    }

    /// The sequence around a document.
    fn document_frame(&self, bi_encoder: &BiEncoder, limits: &LimitSettings) -> Result<PairFrame, RerankError> {
        let parts = bi_encoder.render_block("document", false, 0, &self.tokenizer).map_err(RerankError::internal)?;
        let steps = Frame::new(parts, "", "").steps;
        let mut encoded = self.encode_steps(&steps)?;
        let controls = steps.iter().filter(|step| matches!(step, Step::Control(_))).count();
        let is_document = |step: &Step| matches!(step, Step::Run(run) if run.has_document());
        let place = steps.iter().position(is_document);
        let place = place.ok_or_else(|| RerankError::internal("block `document` without a document"))?;
        let after = encoded.split_off(place + 1).concat();
        let run = match steps.into_iter().nth(place) {
            Some(Step::Run(run)) => run,
            Some(Step::Control(_) | Step::DocumentMark) | None => Run::default(),
        };
        let limit = self.context.min(limits.max_slate_tokens);
        Ok(PairFrame { before: encoded.concat(), run, after, controls, limit })
    }

    /// Makes the query's sequence and groups the documents. The sequence shows as many of the first
    /// documents as fit.
    fn plan_bi_encoder(
        &self,
        bi_encoder: &BiEncoder,
        limits: &LimitSettings,
        prepared: &mut PreparedTexts,
    ) -> Result<(), RerankError> {
        let max_tokens = self.context.min(limits.max_slate_tokens);
        let wanted = match prepared.options.mode {
            Mode::Pointwise => 0,
            Mode::Listwise | Mode::Auto => bi_encoder.readout.feedback_documents().min(limits.max_slate_documents),
        };
        let wanted = wanted.min(prepared.documents.len());
        let mut shown = wanted;
        let mut ids = loop {
            let ids = self.query_sequence(bi_encoder, prepared, shown)?;
            let mut excess = ids.len().saturating_sub(max_tokens);
            if excess == 0 {
                break ids;
            }
            if shown == 0 || (shown == 1 && prepared.options.mode == Mode::Listwise) {
                let field = if shown == 0 { "query" } else { "documents[0]" }.to_owned();
                return Err(RerankError::PromptTooLong { field, tokens: ids.len(), limit: max_tokens });
            }
            while excess > 0 && shown > 0 {
                shown -= 1;
                excess = excess.saturating_sub(prepared.documents[shown].tokens_read.max(1));
            }
            if prepared.options.mode == Mode::Listwise {
                shown = shown.max(1);
            }
        };
        if shown < wanted {
            prepared.warnings.push(format!(
                "the query was read with the first {shown} documents instead of {wanted}: no more fit into {max_tokens} tokens"
            ));
        }
        prepared.mode = if shown > 0 { Mode::Listwise } else { Mode::Pointwise };
        prepared.expansion = bi_encoder.colbert.as_ref().map_or(0, |colbert| colbert.expand(&mut ids));
        prepared.query_ids = ids;
        // MaxSim compares on the device, so that every pass has the query.
        let beside = if bi_encoder.colbert.is_some() { prepared.query_ids.len() } else { 0 };
        let costs: Vec<usize> = prepared.documents.iter().map(|document| document.ids.len()).collect();
        let group = SlateLimits {
            max_documents: limits.max_slate_documents.max(1),
            max_tokens: limits.max_slate_tokens.saturating_sub(beside),
        };
        prepared.plan = Plan::BiEncoder(slates::filled(&costs, group));
        Ok(())
    }

    /// The query's sequence with the first `shown` documents in it.
    fn query_sequence(
        &self,
        bi_encoder: &BiEncoder,
        prepared: &PreparedTexts,
        shown: usize,
    ) -> Result<Vec<u32>, RerankError> {
        let has_instruction = !prepared.instruction.is_empty();
        let parts =
            bi_encoder.render_block("query", has_instruction, shown, &self.tokenizer).map_err(RerankError::internal)?;
        let filled = Frame::new(parts, &prepared.query, &prepared.instruction)
            .fill(&self.tokenizer, |place| &prepared.documents[place].text, |_| 0)
            .map_err(RerankError::internal)?;
        self.check_controls(&filled.ids, filled.controls.len())?;
        Ok(filled.ids)
    }
}
