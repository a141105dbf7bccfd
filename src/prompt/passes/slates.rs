//! Prepares documents for a listwise family: tokenizes them, and groups them into slates by the
//! family's rule. In mode `auto` it falls back to pointwise where no slate holds two documents.

use crate::prompt::binding::{Listwise, Prompter};
use crate::prompt::family::{Layout, SlateRule};
use crate::prompt::parallel;
use crate::prompt::texts::{
    DocumentText, IsCancelled, Plan, PreparedTexts, ShortTexts, SlateSizes, TextOptions, warn_of_max_tokens_per_doc,
};
use crate::rerank::slates::{self, BlockRule, SlateLimits, Window};
use crate::rerank::{LimitSettings, Mode, RerankError, RerankRequest};

/// Tokens that are kept free for each document. A truncated text may take a few more inside a
/// prompt than alone: its last word may split differently, and half a character becomes U+FFFD.
const SLACK: usize = 4;

/// The warning when a listwise family gets a single document.
pub(in crate::prompt) const SINGLE_DOCUMENT: &str =
    "read pointwise: one document alone has nothing to be compared with";

impl Prompter {
    /// Tokenizes the documents for a listwise family and plans the slates.
    pub(in crate::prompt) fn prepare_slates(
        &self,
        listwise: &Listwise,
        request: &RerankRequest,
        limits: &LimitSettings,
        is_cancelled: IsCancelled,
        prepared: &mut PreparedTexts,
    ) -> Result<(), RerankError> {
        let mut sizes = match listwise.facts.layout {
            Layout::Causal => self.causal_sizes(listwise, request.documents.len(), limits, prepared.short_texts())?,
            Layout::Isolated => self.isolated_sizes(listwise, limits, prepared.short_texts())?,
        };
        sizes.document_limit = self.requested_limit(request).min(sizes.max_document);
        let options = TextOptions {
            before: &sizes.before,
            limit: sizes.document_limit,
            slack: 0,
            max_characters: self.facts.limits.document_characters,
            is_cancelled,
        };
        self.tokenize_documents(request, &options, limits, prepared)?;
        let requested = prepared.options.max_tokens_per_doc;
        warn_of_max_tokens_per_doc(requested, sizes.max_document, &prepared.documents, &mut prepared.warnings);
        if listwise.facts.layout == Layout::Isolated {
            append_marks(listwise, &prepared.query, &mut prepared.documents);
        }
        prepared.sizes = Some(sizes);
        self.plan_slates(listwise, request.mode != Mode::Pointwise, limits, prepared)
    }

    /// Groups tokenized documents into slates; into slates of one document each where
    /// `is_listwise` is false. In mode `auto`, falls back to pointwise where no slate holds two.
    pub(in crate::prompt) fn plan_slates(
        &self,
        listwise: &Listwise,
        is_listwise: bool,
        limits: &LimitSettings,
        prepared: &mut PreparedTexts,
    ) -> Result<(), RerankError> {
        let sizes = prepared.sizes.as_ref().ok_or_else(|| RerankError::internal("a slate without a size"))?;
        let count = prepared.documents.len();
        let one_by_one = Plan::Slates((0..count).map(|index| index..index + 1).collect());
        if !is_listwise {
            (prepared.mode, prepared.plan) = (Mode::Pointwise, one_by_one);
            return Ok(());
        }
        let plan = group_slates(listwise, sizes, limits, &prepared.documents);
        let (is_alone, asks_for_listwise) = (count < 2, prepared.options.mode == Mode::Listwise);
        let runs_listwise = match &plan {
            Plan::Slates(slates) => is_alone || asks_for_listwise || slates.iter().any(|slate| slate.len() > 1),
            Plan::Windows(_) if is_alone => asks_for_listwise,
            Plan::Windows(window) => window.documents > 1,
            Plan::Pairs(_) | Plan::BiEncoder(_) => false,
        };
        if runs_listwise {
            (prepared.mode, prepared.plan) = (Mode::Listwise, plan);
            return Ok(());
        }
        if asks_for_listwise {
            return Err(no_slate_of_two(sizes, &prepared.documents));
        }
        prepared.warnings.push(if is_alone {
            SINGLE_DOCUMENT.to_owned()
        } else {
            format!("read pointwise: a slate of {} tokens does not hold two of these documents", sizes.max_slate)
        });
        (prepared.mode, prepared.plan) = (Mode::Pointwise, one_by_one);
        match &self.pointwise {
            Some(pointwise) => {
                let frame = self.pair_frame(pointwise, limits, prepared)?;
                self.make_pairs(frame, limits, prepared)
            }
            None => Ok(()),
        }
    }

    /// Truncates documents that were tokenized for slates to at most `tokens` tokens each.
    pub(in crate::prompt) fn shorten_slate_documents(
        &self,
        listwise: &Listwise,
        prepared: &mut PreparedTexts,
        tokens: usize,
    ) -> Result<(), RerankError> {
        let Some(sizes) = &mut prepared.sizes else { return Ok(()) };
        sizes.document_limit = sizes.document_limit.min(tokens);
        let is_isolated = listwise.facts.layout == Layout::Isolated;
        for document in &mut prepared.documents {
            if is_isolated {
                document.ids.pop();
            }
            self.shorten_text(document, &sizes.before, tokens).map_err(RerankError::internal)?;
        }
        if is_isolated {
            append_marks(listwise, &prepared.query, &mut prepared.documents);
        }
        Ok(())
    }

    /// Token counts of a slate that is one sequence, measured by rendering it with empty documents.
    fn causal_sizes(
        &self,
        listwise: &Listwise,
        count: usize,
        limits: &LimitSettings,
        texts: ShortTexts,
    ) -> Result<SlateSizes, RerankError> {
        let max_slate = self.context.min(limits.max_slate_tokens);
        let tokens_of = |documents: usize| -> Result<usize, RerankError> {
            let frame = self.causal_frame(listwise, documents, texts).map_err(RerankError::internal)?;
            let filled = frame.fill(&self.tokenizer, |_| "", |_| 0).map_err(RerankError::internal)?;
            Ok(listwise.end_at_query_mark(filled).ids.len())
        };
        let one = tokens_of(1)?;
        let most = listwise.facts.slates.documents.min(limits.max_slate_documents).min(count);
        let most = if listwise.identifiers.is_empty() { most } else { most.min(listwise.identifiers.len()) }.max(2);
        let per_document = (tokens_of(most)? - one).div_ceil(most - 1) + SLACK;
        if one + SLACK >= max_slate {
            let tokens = one + SLACK + 1;
            return Err(RerankError::PromptTooLong { field: "query".into(), tokens, limit: max_slate });
        }
        // Only the block rule asks for the query's own length.
        let query = match listwise.facts.slates.rule {
            SlateRule::Blocks => self.tokenizer.encode(texts.query).map_err(RerankError::internal)?.len(),
            SlateRule::Even | SlateRule::Windows => 0,
        };
        Ok(SlateSizes {
            before: String::new(),
            fixed: (one + SLACK).saturating_sub(per_document),
            per_document,
            max_document: max_slate - one - SLACK,
            max_slate,
            query,
            document_limit: 0,
        })
    }

    /// Token counts of a slate of isolated documents.
    fn isolated_sizes(
        &self,
        listwise: &Listwise,
        limits: &LimitSettings,
        texts: ShortTexts,
    ) -> Result<SlateSizes, RerankError> {
        let (prefix, closing) = self.isolated_ends(listwise, texts)?;
        let before = self.text_before_document(listwise).map_err(RerankError::internal)?;
        let (prefix, closing) = (prefix.len(), closing.len());
        let fixed = prefix + closing;
        // A document's suffix ends with its mark.
        let max_document =
            self.context.saturating_sub(prefix + 1).min(limits.max_slate_tokens.saturating_sub(fixed + 1));
        if max_document == 0 || fixed > self.context {
            let limit = self.context.min(limits.max_slate_tokens);
            return Err(RerankError::PromptTooLong { field: "query".into(), tokens: fixed + 2, limit });
        }
        let max_slate = limits.max_slate_tokens;
        Ok(SlateSizes { before, fixed, per_document: 1, max_document, max_slate, query: 0, document_limit: 0 })
    }
}

/// Applies the family's slate rule.
fn group_slates(listwise: &Listwise, sizes: &SlateSizes, limits: &LimitSettings, documents: &[DocumentText]) -> Plan {
    let facts = &listwise.facts.slates;
    let lengths: Vec<usize> = documents.iter().map(|document| document.tokens_read).collect();
    let costs: Vec<usize> = lengths.iter().map(|length| length + sizes.per_document).collect();
    let mut slate = SlateLimits {
        max_documents: facts.documents.min(limits.max_slate_documents).max(1),
        max_tokens: sizes.max_slate.saturating_sub(sizes.fixed),
    };
    match facts.rule {
        SlateRule::Even => Plan::Slates(slates::even(&costs, slate)),
        SlateRule::Blocks => {
            let budget = sizes.max_slate.saturating_sub(2 * sizes.query);
            let rule = BlockRule { max_documents: slate.max_documents, budget, reserve: sizes.document_limit };
            Plan::Slates(slates::blocks(&lengths, rule, &costs, slate))
        }
        SlateRule::Windows => {
            slate.max_documents = slate.max_documents.min(listwise.identifiers.len());
            let width = slates::widest_window(&costs, slate);
            let stride = facts.stride.unwrap_or(1) * width / facts.documents;
            Plan::Windows(Window { documents: width, stride: stride.max(1) })
        }
    }
}

/// The error for mode `listwise` where no slate holds two documents; it gives the size of a slate
/// with the two longest.
fn no_slate_of_two(sizes: &SlateSizes, documents: &[DocumentText]) -> RerankError {
    let mut lengths: Vec<usize> = documents.iter().map(|document| document.tokens_read).collect();
    lengths.sort_unstable();
    let longest: usize = lengths.iter().rev().take(2).map(|tokens| tokens + sizes.per_document).sum();
    let field = "the two longest documents".into();
    RerankError::PromptTooLong { field, tokens: sizes.fixed + longest, limit: sizes.max_slate }
}

/// Ends each document's suffix with its mark: the bucket of its lexical evidence, if the family has
/// such marks.
fn append_marks(listwise: &Listwise, query: &str, documents: &mut [DocumentText]) {
    let Some(marks) = &listwise.marks else { return };
    let evidence = marks.evidence.as_ref().map(|table| (table, table.query(query)));
    let bytes = documents.iter().map(|document| document.text.len()).sum();
    parallel::map(documents.iter_mut().collect(), bytes, |document: &mut DocumentText| {
        let bucket = match &evidence {
            Some((table, terms)) => table.bucket(terms, &document.text, marks.document.len()),
            None => 0,
        };
        document.ids.push(marks.document[bucket]);
    });
}
