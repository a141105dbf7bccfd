//! Prepares texts that are read as rows of their own (podium-mini): the query, the instruction, and
//! each document, which may continue in further rows.

use super::render::Rendering;
use crate::evidence::{DocumentRows, InstructionRow, SlateRows};
use crate::prompt::binding::{EvidenceRows, Prompter};
use crate::prompt::lexical::QueryTerms;
use crate::prompt::parallel;
use crate::prompt::texts::{
    DocumentFeatures, IsCancelled, Plan, PreparedTexts, TextOptions, warn_of_max_tokens_per_doc,
};
use crate::prompt::tokenizer::{CHUNK_BYTES, chunk_end};
use crate::rerank::slates::{self, SlateLimits};
use crate::rerank::{LimitSettings, Mode, RerankError, RerankRequest};
use crate::runtime::TokenTypes;

impl Prompter {
    /// Tokenizes the documents, scores the words that they share with query and instruction, and
    /// plans the slates.
    pub(in crate::prompt) fn prepare_rows(
        &self,
        evidence: &EvidenceRows,
        request: &RerankRequest,
        limits: &LimitSettings,
        is_cancelled: IsCancelled,
        prepared: &mut PreparedTexts,
    ) -> Result<(), RerankError> {
        let encode = |text: &str| self.tokenizer.encode(text).map_err(RerankError::internal);
        prepared.query_ids = encode(&prepared.query)?;
        prepared.instruction_ids = encode(&prepared.instruction)?;
        let fixed = fixed_tokens(evidence, prepared);
        let room = limits.max_slate_tokens.saturating_sub(fixed + 2);
        if room == 0 {
            let (tokens, limit) = (fixed + 3, limits.max_slate_tokens);
            return Err(RerankError::PromptTooLong { field: "query".into(), tokens, limit });
        }
        // Each row has a token at both of its ends.
        let fits = (room / (evidence.facts.row_tokens + 2) * evidence.facts.row_tokens)
            .max(room.min(evidence.facts.row_tokens));
        let options = TextOptions {
            before: "",
            limit: self.requested_limit(request).min(fits),
            slack: 0,
            max_characters: self.facts.limits.document_characters,
            is_cancelled,
        };
        let sources = self.tokenize_documents(request, &options, limits, prepared)?;
        let requested = prepared.options.max_tokens_per_doc;
        warn_of_max_tokens_per_doc(requested, fits, &prepared.documents, &mut prepared.warnings);
        prepared.features = document_features(evidence, prepared, sources);
        plan_rows(evidence, limits, prepared);
        Ok(())
    }

    /// Truncates documents that were tokenized before to at most `tokens` tokens each, and plans
    /// again.
    pub(in crate::prompt) fn shorten_rows(
        &self,
        evidence: &EvidenceRows,
        tokens: Option<usize>,
        limits: &LimitSettings,
        prepared: &mut PreparedTexts,
    ) -> Result<(), RerankError> {
        if let Some(tokens) = tokens {
            for document in &mut prepared.documents {
                self.shorten_text(document, "", tokens).map_err(RerankError::internal)?;
            }
        }
        plan_rows(evidence, limits, prepared);
        Ok(())
    }

    /// The rows of a slate.
    pub(super) fn render_rows(
        &self,
        evidence: &EvidenceRows,
        prepared: &PreparedTexts,
        documents: &[usize],
    ) -> Result<Rendering, RerankError> {
        let mut suffixes = vec![evidence.row(&prepared.query_ids)];
        let instruction = (!prepared.instruction_ids.is_empty())
            .then(|| InstructionRow { ids: prepared.instruction_ids.clone(), text: prepared.instruction.clone() });
        suffixes.extend(instruction.iter().map(|instruction| evidence.row(&instruction.ids)));
        let mut found = Vec::with_capacity(documents.len());
        for index in documents {
            let rows = evidence.split(&prepared.documents[*index].ids);
            suffixes.extend(rows.iter().map(|ids| evidence.row(ids)));
            let DocumentFeatures { lexical, counted } = prepared.features[*index].clone();
            found.push(DocumentRows { rows, counted, lexical });
        }
        for row in &suffixes {
            // The tokens at both ends, and no other control token.
            self.check_controls(row, 2)?;
        }
        let rows = SlateRows { query: prepared.query_ids.clone(), instruction, documents: found };
        let (prefix, marks, token_types) = (Vec::new(), Vec::new(), TokenTypes::Zero);
        Ok(Rendering { prefix, suffixes, marks, token_types, rows: Some(rows) })
    }
}

/// Tokens of a slate without documents.
fn fixed_tokens(evidence: &EvidenceRows, prepared: &PreparedTexts) -> usize {
    let instruction = &prepared.instruction_ids;
    let of_instruction = if instruction.is_empty() { 0 } else { evidence.tokens_of(instruction) };
    evidence.tokens_of(&prepared.query_ids) + of_instruction
}

/// Groups the documents into slates; into slates of one document each in pointwise mode.
fn plan_rows(evidence: &EvidenceRows, limits: &LimitSettings, prepared: &mut PreparedTexts) {
    let count = prepared.documents.len();
    if prepared.options.mode == Mode::Pointwise {
        prepared.mode = Mode::Pointwise;
        prepared.plan = Plan::Slates((0..count).map(|index| index..index + 1).collect());
        return;
    }
    let costs: Vec<usize> = prepared.documents.iter().map(|document| evidence.tokens_of(&document.ids)).collect();
    let slate = SlateLimits {
        max_documents: evidence.facts.slates.documents.min(limits.max_slate_documents).max(1),
        max_tokens: limits.max_slate_tokens.saturating_sub(fixed_tokens(evidence, prepared)),
    };
    (prepared.mode, prepared.plan) = (Mode::Listwise, Plan::Slates(slates::even(&costs, slate)));
}

/// Features of the first 64 KiB of each document, also of the part that the encoder does not read:
/// the words in common with query and instruction, and the properties that instructions ask for.
fn document_features(evidence: &EvidenceRows, prepared: &PreparedTexts, raw: Vec<&str>) -> Vec<DocumentFeatures> {
    let table = &evidence.table;
    let query = table.query(&prepared.query);
    let instruction = (!prepared.instruction.is_empty()).then(|| table.query(&prepared.instruction));
    let bytes = raw.iter().map(|text| text.len().min(CHUNK_BYTES)).sum();
    parallel::map(raw, bytes, |text: &str| {
        let text = &text[..chunk_end(text, CHUNK_BYTES)];
        let score = |terms: &QueryTerms| table.score(terms, text) as f32;
        let counted = instruction.as_ref().map(|_| evidence.model.count_document(text));
        DocumentFeatures {
            lexical: [score(&query), instruction.as_ref().map_or(0.0, score)],
            counted: counted.unwrap_or_default(),
        }
    })
}
