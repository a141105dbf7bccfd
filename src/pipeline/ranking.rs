//! Scores to a [`Ranking`]: merge passages, order documents, report what was left out.

use super::Reranker;
use super::budget::Skipped;
use super::drift::InstructionSource;
use super::rounds::Scored;
use crate::prompt::PreparedTexts;
use crate::rerank::{
    BudgetReport, EarlyExitReport, MinScore, RankedDocument, Ranking, RerankRequest, Timing, Usage,
    scale_down_early_exits, sort_by_relevance,
};
use crate::scoring::Scores;

/// The parts of a request that its response needs.
pub(super) struct ResponseOptions {
    model: String,
    profile: Option<String>,
    instruction: InstructionSource,
    top_n: Option<usize>,
    min_score: Option<MinScore>,
    /// Whether its documents may stand in another order than the client's.
    is_shuffled: bool,
}

impl ResponseOptions {
    pub(super) fn new(request: &RerankRequest, default_model: &str) -> Self {
        let profile = request.profile.as_deref().map(str::to_owned);
        let instruction = match (&profile, &request.instruction) {
            (Some(name), _) => InstructionSource::Profile(name.clone()),
            (None, Some(_)) => InstructionSource::Own,
            (None, None) => InstructionSource::None,
        };
        let model = request.model.as_deref().unwrap_or(default_model).to_owned();
        let (top_n, min_score) = (request.top_n, request.min_score);
        Self { model, profile, instruction, top_n, min_score, is_shuffled: request.stability.is_some() }
    }
}

impl Reranker {
    /// The ranking of a request: its documents best first, without those below its minimum score.
    pub(super) fn make_ranking(
        &self,
        options: ResponseOptions,
        skipped: Skipped,
        budget: Option<BudgetReport>,
        scored: Option<Scored>,
        timing: Timing,
    ) -> Ranking {
        let (mut mode, mut slates, mut warnings) = (skipped.mode, 0, skipped.warnings);
        let (mut results, mut usage, mut passages, mut blank) = (Vec::new(), Usage::default(), 0, 0);
        let mut early_exit = None;
        if let Some(Scored { texts, scores, prompt_tokens }) = scored {
            results = sort_documents(&texts, &scores);
            if let Some(split) = &texts.passages {
                passages = results.len();
                results = split.merge(&results);
            }
            scale_down_early_exits(&mut results);
            early_exit = report_exits(&results, &scores);
            blank = put_blank_last(&texts, &mut results, &mut warnings);
            if skipped.documents.is_empty() && !options.is_shuffled {
                self.drift.maybe_sample(self.name(), &options.instruction, &texts, &results);
            }
            let truncated_documents = results.iter().filter(|result| result.truncated()).count();
            usage = Usage { prompt_tokens, truncated_documents };
            (mode, slates) = (scores.mode, scores.slates);
            warnings.extend(texts.warnings.iter().cloned());
        }
        let lowest = results.iter().map(|result| result.raw_score).fold(0.0, f32::min);
        let first_blank = results.len() - blank;
        results.extend(skipped.documents.into_iter().map(|(index, tokens)| RankedDocument {
            index,
            relevance_score: 0.0,
            raw_score: lowest,
            tokens,
            tokens_read: 0,
            passage: None,
            stage: None,
            exit_layer: None,
            spread: None,
        }));
        results[first_blank..].rotate_left(blank);
        let documents = results.len();
        let ResponseOptions { model, profile, top_n, min_score, .. } = options;
        let mut ranking = Ranking {
            results,
            documents,
            model,
            profile,
            mode,
            slates,
            passages,
            usage,
            warnings,
            min_score: None,
            budget,
            early_exit,
            cascade: None,
            timing,
        };
        self.select(&mut ranking, min_score, top_n);
        ranking
    }

    /// Leaves out the results below a minimum score, and keeps the best `top_n` of the others.
    pub(super) fn select(&self, ranking: &mut Ranking, min_score: Option<MinScore>, top_n: Option<usize>) {
        let relevant_from = self.relevant_from();
        if min_score == Some(MinScore::Auto) && relevant_from.is_none() {
            ranking.warnings.push(auto_without_calibration(self.family()));
        }
        ranking.select(min_score, relevant_from, top_n);
    }
}

/// The report of an early exit and of a cutoff layer, where there is one.
fn report_exits(results: &[RankedDocument], scores: &Scores) -> Option<EarlyExitReport> {
    let tokens_saved = scores.early_exit.as_ref()?.tokens_saved;
    Some(EarlyExitReport {
        left_early: results.iter().filter(|result| result.exit_layer.is_some()).count(),
        tokens_saved,
    })
}

/// The warning of a minimum score of `auto` where the family's scores do not say what is relevant.
fn auto_without_calibration(family: &str) -> String {
    format!(
        "min_score: the scores of family `{family}` do not tell whether anything is relevant; auto cuts at their \
         largest gap"
    )
}

/// Moves documents without text to the end, with a score of 0: there is nothing in them that could
/// be relevant, whatever the model makes of their prompts. Returns their number.
fn put_blank_last(prepared: &PreparedTexts, results: &mut [RankedDocument], warnings: &mut Vec<String>) -> usize {
    // A document of several passages is blank if all of them are.
    let mut is_document_blank = vec![true; prepared.request_documents()];
    for (index, text) in prepared.documents.iter().enumerate() {
        is_document_blank[prepared.document_of(index)] &= text.is_blank();
    }
    let is_blank = |result: &RankedDocument| is_document_blank[result.index];
    let lowest = results.iter().map(|result| result.raw_score).fold(f32::INFINITY, f32::min);
    let mut blank: Vec<usize> = Vec::new();
    for result in results.iter_mut().filter(|result| is_blank(result)) {
        (result.relevance_score, result.raw_score) = (0.0, lowest);
        blank.push(result.index);
    }
    let Some(first) = blank.iter().min() else { return 0 };
    results.sort_by_key(|result| blank.contains(&result.index).then_some(result.index));
    let more = if blank.len() > 1 { format!(" and {} more", blank.len() - 1) } else { String::new() };
    warnings.push(format!("documents[{first}]{more}: without text, so with a score of 0"));
    blank.len()
}

/// The documents or passages that were read, best first, those that left early behind the others; equal
/// scores keep their order.
fn sort_documents(prepared: &PreparedTexts, scores: &Scores) -> Vec<RankedDocument> {
    let exit_layer = |index: usize| scores.early_exit.as_ref().and_then(|exits| exits.layers[index]);
    let texts = prepared.documents.iter().zip(scores.relevance.iter().zip(&scores.raw));
    let mut results: Vec<RankedDocument> = texts
        .enumerate()
        .map(|(index, (document, (&relevance_score, &raw_score)))| RankedDocument {
            index,
            relevance_score,
            raw_score,
            tokens: document.tokens,
            tokens_read: document.tokens_read,
            stage: None,
            exit_layer: exit_layer(index),
            spread: None,
            passage: None,
        })
        .collect();
    sort_by_relevance(&mut results);
    // Also of passages, whose scores are merged.
    scale_down_early_exits(&mut results);
    results
}
