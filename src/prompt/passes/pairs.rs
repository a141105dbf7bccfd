//! Prepares documents for pointwise prompts: a query and one document in each, in groups that share
//! the beginning of their prompts.

use std::ops::Range;

use crate::prompt::binding::{Pointwise, Prompter};
use crate::prompt::family::BudgetScope;
use crate::prompt::parallel;
use crate::prompt::template::{Frame, Run, Step, TemplateInputs};
use crate::prompt::texts::{
    DocumentText, IsCancelled, PairFrame, Plan, PreparedTexts, TextOptions, warn_of_max_tokens_per_doc,
};
use crate::rerank::slates::{self, SlateLimits};
use crate::rerank::{LimitSettings, Mode, RerankError, RerankRequest};

/// Extra tokens that the first truncation of a document keeps. Truncating the whole prompt, which
/// comes second, is exact and removes them.
const SLACK: usize = 4;

/// The most tokens of one character: byte-level tokenizers have one for each of its bytes.
const CHARACTER_TOKENS: usize = 4;

impl Prompter {
    /// Tokenizes the documents for pointwise prompts, one prompt for each document.
    pub(in crate::prompt) fn prepare_pairs(
        &self,
        pointwise: &Pointwise,
        request: &RerankRequest,
        limits: &LimitSettings,
        is_cancelled: IsCancelled,
        prepared: &mut PreparedTexts,
    ) -> Result<(), RerankError> {
        let frame = self.pair_frame(pointwise, limits, prepared)?;
        let (requested, fits) = (self.requested_limit(request), self.max_document(&frame)?);
        let slack = if requested > fits && !frame.run.is_document(&self.tokenizer) { SLACK } else { 0 };
        let options = TextOptions {
            before: "",
            limit: requested.min(fits) + slack,
            slack,
            max_characters: self.facts.limits.document_characters,
            is_cancelled,
        };
        self.tokenize_documents(request, &options, limits, prepared)?;
        prepared.mode = Mode::Pointwise;
        self.make_pairs(frame, limits, prepared)
    }

    /// Makes each document's whole prompt, truncates documents to the family's budget, and groups
    /// them.
    pub(super) fn make_pairs(
        &self,
        frame: PairFrame,
        limits: &LimitSettings,
        prepared: &mut PreparedTexts,
    ) -> Result<(), RerankError> {
        self.fill_frames(&frame, prepared)?;
        prepared.plan = self.group_pairs(&prepared.documents, limits);
        prepared.pair_frame = Some(frame);
        Ok(())
    }

    /// Makes each document's whole prompt, and truncates documents to the frame's limit.
    pub(super) fn fill_frames(&self, frame: &PairFrame, prepared: &mut PreparedTexts) -> Result<(), RerankError> {
        let documents = &mut prepared.documents;
        let truncation = prepared.options.truncation;
        let before: Vec<usize> = documents.iter().map(|document| document.tokens_read).collect();
        let bytes = documents.iter().map(|document| document.text.len()).sum();
        let results = parallel::map(documents.iter_mut().enumerate().collect(), bytes, |(index, document)| {
            self.make_pair(frame, index, document, truncation)
        });
        // Report the error of the first document, not that of the fastest thread.
        results.into_iter().collect::<Result<(), _>>()?;
        let shortened = documents.iter().zip(before).filter(|(document, before)| document.tokens_read < *before);
        if let Some(most) = shortened.map(|(document, _)| document.tokens_read).max() {
            let requested = prepared.options.max_tokens_per_doc;
            warn_of_max_tokens_per_doc(requested, most, documents, &mut prepared.warnings);
        }
        Ok(())
    }

    /// Encodes the pointwise prompt around a document.
    pub(in crate::prompt) fn pair_frame(
        &self,
        pointwise: &Pointwise,
        limits: &LimitSettings,
        prepared: &mut PreparedTexts,
    ) -> Result<PairFrame, RerankError> {
        let inputs = TemplateInputs { instruction: !prepared.instruction.is_empty(), documents: 1, identifiers: &[] };
        let parts = pointwise.template.render(inputs, &self.tokenizer).map_err(RerankError::internal)?;
        let steps = Frame::new(parts, &prepared.query, &prepared.instruction).steps;
        let position =
            |is_it: &dyn Fn(&Run) -> bool| steps.iter().position(|step| matches!(step, Step::Run(run) if is_it(run)));
        let document =
            position(&Run::has_document).ok_or_else(|| RerankError::internal("a pair without a document"))?;
        let query = position(&|run| run.query).ok_or_else(|| RerankError::internal("a pair without a query"))?;
        let mut encoded = self.encode_steps(&steps)?;
        let scope = query.min(document)..query.max(document) + 1;
        let tokens_in = |range: Range<usize>| encoded[range].iter().map(Vec::len).sum::<usize>();
        let outside = tokens_in(0..scope.start) + tokens_in(scope.end..steps.len());
        let max_pass = self.context.min(limits.max_slate_tokens);
        let budget = pointwise.facts.budget.as_ref();
        let limit = match budget {
            None => max_pass,
            Some(budget) if budget.counts == BudgetScope::Prompt => budget.tokens.min(max_pass),
            Some(budget) => budget.tokens.min(max_pass.saturating_sub(outside)) + outside,
        };
        if let Some(share) = budget.and_then(|budget| budget.query_share)
            && query != document
        {
            let most = (limit.saturating_sub(outside) as f64 * share) as usize;
            truncate_query(&mut encoded[query], most, prepared)?;
        }
        let controls = steps.iter().filter(|step| matches!(step, Step::Control(_))).count();
        let after = encoded.split_off(document + 1).concat();
        let run = match steps.into_iter().nth(document) {
            Some(Step::Run(run)) => run,
            Some(Step::Control(_) | Step::DocumentMark) | None => Run::default(),
        };
        Ok(PairFrame { before: encoded.concat(), run, after, controls, limit })
    }

    /// The ids of each step; empty for the run that holds the document.
    pub(super) fn encode_steps(&self, steps: &[Step]) -> Result<Vec<Vec<u32>>, RerankError> {
        let encode = |step: &Step| match step {
            Step::Run(run) if run.has_document() => Ok(Vec::new()),
            Step::Run(run) => run.encode(&self.tokenizer, &run.text(|_| "")).map_err(RerankError::internal),
            Step::Control(id) => Ok(vec![*id]),
            Step::DocumentMark => Err(RerankError::internal("a pair has no document mark")),
        };
        steps.iter().map(encode).collect()
    }

    /// The most tokens of a document that fit into the prompt.
    pub(in crate::prompt) fn max_document(&self, frame: &PairFrame) -> Result<usize, RerankError> {
        let run = frame.run.encode(&self.tokenizer, &frame.run.text(|_| "")).map_err(RerankError::internal)?;
        Ok(frame.limit.saturating_sub(frame.before.len() + run.len() + frame.after.len()))
    }

    pub(super) fn make_pair(
        &self,
        frame: &PairFrame,
        index: usize,
        document: &mut DocumentText,
        may_truncate: bool,
    ) -> Result<(), RerankError> {
        let field = || format!("documents[{index}]");
        let rest = frame.before.len() + frame.after.len();
        loop {
            // Then `ids` are those of the text; all of a prompt's are put together below.
            let mut run = if frame.run.is_document(&self.tokenizer) {
                std::mem::take(&mut document.ids)
            } else {
                frame.run.encode(&self.tokenizer, &frame.run.text(|_| &document.text)).map_err(RerankError::internal)?
            };
            let excess = (rest + run.len()).saturating_sub(frame.limit);
            if excess > 0 {
                if excess >= document.tokens_read {
                    let tokens = rest + run.len();
                    return Err(RerankError::PromptTooLong { field: field(), tokens, limit: frame.limit });
                }
                let left = document.tokens_read - excess;
                if !may_truncate {
                    return Err(RerankError::TextTooLong { field: field(), tokens: document.tokens, limit: left });
                }
                if frame.run.ends_with_document() {
                    run.truncate(run.len() - excess);
                    document.tokens_read = left;
                } else {
                    // The template's text follows: truncate the document and encode again.
                    self.cut_text(document, left)?;
                    continue;
                }
            }
            document.ids = [frame.before.as_slice(), &run, &frame.after].concat();
            return self.check_controls(&document.ids, frame.controls);
        }
    }

    /// Truncates the document of a whole prompt to at most `tokens` tokens. Slices the prompt's ids
    /// where the document stands at the end of its run, as in every built-in family.
    pub(in crate::prompt) fn shorten_pair(
        &self,
        frame: &PairFrame,
        document: &mut DocumentText,
        tokens: usize,
    ) -> Result<(), RerankError> {
        if document.tokens_read <= tokens {
            return Ok(());
        }
        if !frame.run.ends_with_document() {
            self.cut_text(document, tokens)?;
            return self.make_pair(frame, 0, document, true);
        }
        let mut end = document.ids.len() - frame.after.len() - (document.tokens_read - tokens);
        document.tokens_read = tokens;
        let ends_within_a_character = |end: usize| {
            let text = self.tokenizer.decode(&document.ids[end.saturating_sub(CHARACTER_TOKENS)..end]);
            text.ends_with(char::REPLACEMENT_CHARACTER)
        };
        while document.tokens_read > 0
            && tokens - document.tokens_read + 1 < CHARACTER_TOKENS
            && ends_within_a_character(end)
        {
            document.tokens_read -= 1;
            end -= 1;
        }
        document.ids.truncate(end);
        document.ids.extend_from_slice(&frame.after);
        Ok(())
    }

    /// Groups prompts into passes that fit the limits of a slate. Each group shares the prefix of
    /// all prompts, unless tokens of a prefix would see what follows it.
    pub(in crate::prompt) fn group_pairs(&self, documents: &[DocumentText], limits: &LimitSettings) -> Plan {
        let sequences: Vec<&[u32]> = documents.iter().map(|document| document.ids.as_slice()).collect();
        let shared = if self.bidirectional { 0 } else { shared_prefix(&sequences) };
        let costs: Vec<usize> = sequences.iter().map(|sequence| sequence.len() - shared).collect();
        let is_alone = shared == 0 && !self.bidirectional;
        let group = SlateLimits {
            max_documents: if is_alone { 1 } else { limits.max_slate_documents.max(1) },
            max_tokens: limits.max_slate_tokens.saturating_sub(shared),
        };
        Plan::Pairs(slates::filled(&costs, group))
    }

    pub(super) fn cut_text(&self, document: &mut DocumentText, tokens: usize) -> Result<(), RerankError> {
        let cut = self.tokenizer.cut(&document.text, tokens).map_err(RerankError::internal)?;
        document.text.truncate(cut.bytes);
        document.tokens_read = cut.ids.len();
        document.ids = cut.ids;
        Ok(())
    }
}

/// Truncates the query's piece of a prompt to `most` tokens, or refuses it.
fn truncate_query(query: &mut Vec<u32>, most: usize, prepared: &mut PreparedTexts) -> Result<(), RerankError> {
    let tokens = query.len();
    if tokens <= most {
        return Ok(());
    }
    if !prepared.options.truncation {
        return Err(RerankError::TextTooLong { field: "query".into(), tokens, limit: most });
    }
    prepared.warnings.push(format!("query: cut, with its instruction, from {tokens} tokens to {most}"));
    query.truncate(most);
    Ok(())
}

/// Length of the longest prefix that all sequences share, short enough to leave each sequence at
/// least one token after it.
pub(super) fn shared_prefix(sequences: &[&[u32]]) -> usize {
    let Some((first, others)) = sequences.split_first() else { return 0 };
    others
        .iter()
        .map(|other| first.iter().zip(*other).take_while(|(left, right)| left == right).count())
        .chain(sequences.iter().map(|sequence| sequence.len().saturating_sub(1)))
        .min()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shared_beginning_leaves_each_sequence_a_token() {
        assert_eq!(shared_prefix(&[&[1, 2, 3], &[1, 2, 4, 5]]), 2);
        assert_eq!(shared_prefix(&[&[1, 2], &[1, 2, 3]]), 1);
        assert_eq!(shared_prefix(&[&[1, 2], &[1, 2]]), 1);
        assert_eq!(shared_prefix(&[&[1, 2]]), 1);
        assert_eq!(shared_prefix(&[&[1], &[2]]), 0);
        assert_eq!(shared_prefix(&[]), 0);
    }
}
