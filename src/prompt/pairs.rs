//! Reading one by one: a query and a document in one prompt, and the beginning that the prompts of
//! several documents share.

use std::ops::Range;

use super::family::BudgetScope;
use super::frame::{Frame, Run, Step};
use super::plan::Plan;
use super::prompter::{Pointwise, Prompter};
use super::read::{DocumentText, ShortTexts, warn_of_want};
use super::template::Scene;
use super::threads;
use crate::rerank::slates::{self, SlateLimits};
use crate::rerank::{LimitSettings, RerankError, RerankRequest};

/// A pair's prompt with everything but the document encoded.
struct PairFrame {
    /// Before the document's run.
    before: Vec<u32>,
    /// The text with the document in it.
    run: Run,
    /// After it.
    after: Vec<u32>,
    /// Control tokens in `before` and `after`.
    controls: usize,
    /// The most tokens of the whole.
    limit: usize,
}

impl Prompter {
    /// Makes each document's sequence, cutting documents to the family's budget, and groups them.
    pub(super) fn read_pairs(
        &self,
        pointwise: &Pointwise,
        request: &RerankRequest,
        limits: &LimitSettings,
        texts: &ShortTexts,
        documents: &mut [DocumentText],
        warnings: &mut Vec<String>,
    ) -> Result<Plan, RerankError> {
        let pass = self.context.min(limits.max_slate_tokens);
        let frame = self.pair_frame(pointwise, pass, request, texts, warnings)?;
        let taken: Vec<usize> = documents.iter().map(|document| document.tokens_read).collect();
        let bytes = documents.iter().map(|document| document.text.len()).sum();
        let places: Vec<(usize, &mut DocumentText)> = documents.iter_mut().enumerate().collect();
        let results = threads::map(places, bytes, |(index, document)| {
            self.read_pair(&frame, index, document, request.truncation)
        });
        // The first document's error, whichever thread was first.
        results.into_iter().collect::<Result<(), _>>()?;
        let shortened = documents.iter().zip(taken).filter(|(document, taken)| document.tokens_read < *taken);
        if let Some(most) = shortened.map(|(document, _)| document.tokens_read).max() {
            warn_of_want(request, most, documents, warnings);
        }
        let sequences: Vec<&[u32]> = documents.iter().map(|document| document.ids.as_slice()).collect();
        let shared = shared_prefix(&sequences);
        let costs: Vec<usize> = sequences.iter().map(|sequence| sequence.len() - shared).collect();
        let group = SlateLimits {
            max_documents: if shared == 0 { 1 } else { limits.max_slate_documents.max(1) },
            max_tokens: limits.max_slate_tokens.saturating_sub(shared),
        };
        Ok(Plan::Pairs(slates::filled(&costs, group)))
    }

    fn pair_frame(
        &self,
        pointwise: &Pointwise,
        pass: usize,
        request: &RerankRequest,
        texts: &ShortTexts,
        warnings: &mut Vec<String>,
    ) -> Result<PairFrame, RerankError> {
        let scene = Scene { instruction: !texts.instruction.is_empty(), documents: 1, identifiers: &[] };
        let parts = pointwise.template.render(scene, &self.tokenizer).map_err(RerankError::internal)?;
        let steps = Frame::new(parts, &texts.query, &texts.instruction).steps;
        let at =
            |wanted: &dyn Fn(&Run) -> bool| steps.iter().position(|step| matches!(step, Step::Run(run) if wanted(run)));
        let document = at(&Run::has_document).ok_or_else(|| RerankError::internal("a pair without a document"))?;
        let query = at(&|run| run.query).ok_or_else(|| RerankError::internal("a pair without a query"))?;
        let mut encoded = Vec::with_capacity(steps.len());
        for step in &steps {
            encoded.push(match step {
                Step::Run(run) if run.has_document() => Vec::new(),
                Step::Run(run) => self.tokenizer.encode(&run.text(|_| "")).map_err(RerankError::internal)?,
                Step::Control(id) => vec![*id],
                Step::DocumentMark => return Err(RerankError::internal("a pair has no document mark")),
            });
        }
        let scope = query.min(document)..query.max(document) + 1;
        let tokens_in = |range: Range<usize>, encoded: &[Vec<u32>]| encoded[range].iter().map(Vec::len).sum::<usize>();
        let outside = tokens_in(0..scope.start, &encoded) + tokens_in(scope.end..steps.len(), &encoded);
        let limit = match &pointwise.facts.budget {
            None => pass,
            Some(budget) if budget.counts == BudgetScope::Prompt => budget.tokens.min(pass),
            Some(budget) => budget.tokens.min(pass.saturating_sub(outside)) + outside,
        };
        if let Some(share) = pointwise.facts.budget.as_ref().and_then(|budget| budget.query_share)
            && query != document
        {
            let most = (limit.saturating_sub(outside) as f64 * share) as usize;
            let tokens = encoded[query].len();
            if tokens > most {
                if !request.truncation {
                    return Err(RerankError::TextTooLong { field: "query".into(), tokens, limit: most });
                }
                warnings.push(format!("query: cut, with its instruction, from {tokens} tokens to {most}"));
                encoded[query].truncate(most);
            }
        }
        let controls = steps.iter().filter(|step| matches!(step, Step::Control(_))).count();
        let after = encoded.split_off(document + 1).concat();
        let run = match steps.into_iter().nth(document) {
            Some(Step::Run(run)) => run,
            Some(Step::Control(_) | Step::DocumentMark) | None => Run::default(),
        };
        Ok(PairFrame { before: encoded.concat(), run, after, controls, limit })
    }

    fn read_pair(
        &self,
        frame: &PairFrame,
        index: usize,
        document: &mut DocumentText,
        truncation: bool,
    ) -> Result<(), RerankError> {
        let field = || format!("documents[{index}]");
        let rest = frame.before.len() + frame.after.len();
        loop {
            let mut run = self.tokenizer.encode(&frame.run.text(|_| &document.text)).map_err(RerankError::internal)?;
            let excess = (rest + run.len()).saturating_sub(frame.limit);
            if excess > 0 {
                if excess >= document.tokens_read {
                    let tokens = rest + run.len();
                    return Err(RerankError::PromptTooLong { field: field(), tokens, limit: frame.limit });
                }
                let left = document.tokens_read - excess;
                if !truncation {
                    return Err(RerankError::TextTooLong { field: field(), tokens: document.tokens, limit: left });
                }
                if frame.run.ends_with_document() {
                    run.truncate(run.len() - excess);
                    document.tokens_read = left;
                } else {
                    // The template's own letters follow: cut the text and look again.
                    let cut = self.tokenizer.cut(&document.text, left).map_err(RerankError::internal)?;
                    document.text.truncate(cut.bytes);
                    document.tokens_read = cut.ids.len();
                    continue;
                }
            }
            document.ids = [frame.before.as_slice(), &run, &frame.after].concat();
            return self.check_controls(&document.ids, frame.controls);
        }
    }
}

/// The longest beginning that all sequences share, short of the whole of any: each keeps a token.
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
