//! Validated requests to rankings: admit, tokenize, plan, run, score, order.

use std::sync::Arc;

use tracing::Instrument;

use super::budget::{BudgetedPlan, Skipped, TokenBudget};
use super::cost::{PreparedRequest, estimate, text_bytes};
use super::cpu_pool::{CpuPool, Job};
use super::drift::InstructionSource;
use super::{Reranker, error_of_request};
use crate::context::{RankingSummary, RequestContext, Stage};
use crate::prompt::{IsCancelled, PreparedTexts};
use crate::rerank::{
    BudgetReport, EarlyExitReport, LimitSettings, MinScore, Mode, RankedDocument, Ranking, RerankError, RerankRequest,
    Timing, Usage, scale_down_early_exits, sort_by_relevance,
};
use crate::runtime::ForwardPass;
use crate::schedule::{AdmissionPermit, AdmissionRequest};
use crate::scoring::Scores;

/// The parts of a request that its response needs.
struct ResponseOptions {
    model: String,
    profile: Option<String>,
    instruction: InstructionSource,
    top_n: Option<usize>,
    min_score: Option<MinScore>,
    /// Whether its documents may stand in another order than the client's.
    is_shuffled: bool,
}

/// A request whose passes are running.
struct RunState {
    prepared: PreparedRequest,
    /// Tokens of the passes that were sent to the device.
    prompt_tokens: usize,
}

/// A request whose passes have all run.
struct Scored {
    texts: Arc<PreparedTexts>,
    scores: Scores,
    prompt_tokens: usize,
}

impl ResponseOptions {
    fn new(request: &RerankRequest, default_model: &str) -> Self {
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
    /// Admits validated requests as one and ranks them. Only a single request can have a budget.
    pub(super) async fn admit_and_rank(
        &self,
        requests: Vec<RerankRequest>,
        limits: &LimitSettings,
        context: RequestContext,
    ) -> Result<(RequestContext, Vec<Ranking>), RerankError> {
        let estimate_all = |request| estimate(request, &self.prompter, limits) * self.orders(request);
        let permit = self.try_admit(requests.iter().map(estimate_all).sum(), &context)?;
        let (context, rankings) = self.rank_in_orders(requests, limits, permit, context).await?;
        note_rankings(&context, &rankings);
        Ok((context, rankings))
    }

    /// Asks for admission of a request of about this many tokens.
    pub(super) fn try_admit(&self, tokens: usize, context: &RequestContext) -> Result<AdmissionPermit, RerankError> {
        let (client, priority, deadline) = (context.client.clone(), context.priority.0, context.deadline);
        self.scheduler.try_admit(&AdmissionRequest { client, priority, tokens, deadline })
    }

    /// Ranks admitted requests. The caller notes the rankings in the timeline.
    pub(super) async fn rank(
        &self,
        requests: Vec<RerankRequest>,
        limits: &LimitSettings,
        permit: AdmissionPermit,
        mut context: RequestContext,
    ) -> Result<(RequestContext, Vec<Ranking>), RerankError> {
        context.hold_admission(permit.clone());
        let documents = requests.iter().map(|request| request.documents.len()).sum();
        let options: Vec<ResponseOptions> =
            requests.iter().map(|request| ResponseOptions::new(request, self.name())).collect();

        let tokenizing = context.timeline.begin(Stage::Tokenize, None);
        let (context, plans) = self.tokenize_and_plan(requests, limits, &permit, context).await?;
        let tokens = plans.iter().flat_map(|plan| &plan.planned).map(|prepared| prepared.tokens).sum();
        permit.set_exact_tokens(tokens, documents)?;
        drop(tokenizing);

        let (mut runs, mut rest) = (Vec::new(), Vec::new());
        for BudgetedPlan { planned, skipped, report } in plans {
            runs.extend(planned.map(|prepared| RunState { prepared, prompt_tokens: 0 }));
            rest.push((skipped, report));
        }
        let (mut context, scored) = self.run_passes(runs, &permit, context).await?;
        context.release_admission();
        let timing = context.timeline.timing(context.received_at.elapsed());
        let mut scored = scored.into_iter();
        let rankings: Vec<Ranking> = options
            .into_iter()
            .zip(rest)
            .map(|(options, (skipped, budget))| self.make_ranking(options, skipped, budget, scored.next(), timing))
            .collect();
        Ok((context, rankings))
    }

    /// Tokenizes the requests, plans their first rounds, and fits them into their budget.
    async fn tokenize_and_plan(
        &self,
        requests: Vec<RerankRequest>,
        limits: &LimitSettings,
        permit: &AdmissionPermit,
        context: RequestContext,
    ) -> Result<(RequestContext, Vec<BudgetedPlan>), RerankError> {
        // A passage is read whole or not at all.
        let may_truncate = |request: &RerankRequest| {
            request.truncation && request.chunking.is_none() && !request.constraints.budget.leaves_documents_out
        };
        let first = requests.first().map(|request| (request.constraints.budget, may_truncate(request)));
        let (budget, may_truncate) = first.unwrap_or_default();
        let bytes = requests.iter().map(text_bytes).sum();
        let (context, mut prepared) = self.tokenize(requests, limits, bytes, context).await?;
        let Some(budget) = TokenBudget::new(&budget, self.scheduler.forecast(permit)) else {
            return Ok((context, prepared.into_iter().map(BudgetedPlan::whole).collect()));
        };
        if prepared.len() > 1 {
            // One list in several orders of its documents: as many as fit, at least the first.
            let tokens = prepared.iter().map(|prepared| prepared.tokens);
            let fitting = budget.count_fitting(tokens, context.received_at.elapsed())?;
            if fitting > 1 {
                prepared.truncate(fitting);
                return Ok((context, prepared.into_iter().map(BudgetedPlan::whole).collect()));
            }
        }
        let (prompter, limits) = (Arc::clone(&self.prompter), limits.clone());
        let prepared = prepared.swap_remove(0);
        let enforce = move |context: &RequestContext, _: IsCancelled| {
            let elapsed = || context.received_at.elapsed();
            budget.enforce(prepared, may_truncate, &prompter, &limits, &elapsed)
        };
        let (context, plan) = CpuPool::for_process().run(context, Job::Tokenize { bytes }, enforce).await?;
        Ok((context, vec![plan]))
    }

    /// Tokenizes the requests in the tokenizing pool, which also frees their texts.
    async fn tokenize(
        &self,
        requests: Vec<RerankRequest>,
        limits: &LimitSettings,
        bytes: usize,
        context: RequestContext,
    ) -> Result<(RequestContext, Vec<PreparedRequest>), RerankError> {
        let (prompter, limits) = (Arc::clone(&self.prompter), limits.clone());
        let tokenize = move |_: &RequestContext, is_cancelled: IsCancelled| {
            let count = requests.len();
            let tokenize_one = |(index, request): (usize, RerankRequest)| {
                let texts = prompter.tokenize(&request, &limits, is_cancelled);
                let prepared = texts.and_then(|texts| PreparedRequest::new(Arc::clone(&prompter), texts));
                prepared.map_err(|error| error_of_request(index, count, error))
            };
            requests.into_iter().enumerate().map(tokenize_one).collect()
        };
        CpuPool::for_process().run(context, Job::Tokenize { bytes }, tokenize).await
    }

    /// Runs the passes of all requests round by round, those of one round together.
    async fn run_passes(
        &self,
        mut runs: Vec<RunState>,
        permit: &AdmissionPermit,
        mut context: RequestContext,
    ) -> Result<(RequestContext, Vec<Scored>), RerankError> {
        let timeline = context.timeline.clone();
        let planned_passes = runs.iter().map(RunState::planned_passes).sum::<usize>();
        timeline.update_progress(|progress| progress.of_passes += planned_passes);
        let mut read: Vec<Vec<bool>> =
            runs.iter().map(|run| vec![false; run.prepared.texts.request_documents()]).collect();
        while runs.iter().any(|run| run.prepared.round.is_some()) {
            let (mut passes, mut documents, mut counts) = (Vec::new(), Vec::new(), Vec::new());
            for (number, run) in runs.iter_mut().enumerate() {
                let round = run.prepared.round.take().unwrap_or_default();
                counts.push(round.len());
                for planned in round {
                    run.prompt_tokens += planned.pass.tokens();
                    let texts = &run.prepared.texts;
                    let read: Vec<usize> = planned.documents.iter().map(|index| texts.document_of(*index)).collect();
                    documents.push((number, read));
                    passes.push(planned.pass);
                }
            }
            let tokens = passes.iter().map(ForwardPass::tokens).sum::<usize>();
            let on_pass_done = |pass: usize| {
                let (run, documents) = &documents[pass];
                let first_time = |index: &&usize| !std::mem::replace(&mut read[*run][**index], true);
                let new = documents.iter().filter(first_time).count();
                timeline.update_progress(|progress| {
                    progress.passes += 1;
                    // Later stages of a cascade read documents again.
                    progress.documents = (progress.documents + new).min(progress.of_documents);
                });
            };
            let waiting = timeline.begin(Stage::Queue, Some(tokens));
            let running = self.scheduler.run(permit, passes, on_pass_done);
            let completed = running.instrument(context.span.clone()).await?;
            waiting.end_with_batches(&completed.device_intervals);

            let _scoring = timeline.begin(Stage::Score, None);
            let score = move |_: &RequestContext, _: IsCancelled| {
                let mut outputs = completed.outputs.into_iter();
                for (RunState { prepared, .. }, count) in runs.iter_mut().zip(counts).filter(|(_, count)| *count > 0) {
                    prepared.rounds.add_outputs(outputs.by_ref().take(count).collect())?;
                    prepared.round = prepared.rounds.next_round()?;
                }
                Ok(runs)
            };
            (context, runs) = CpuPool::for_process().run(context, Job::Score, score).await?;
        }
        let scored = runs.into_iter().map(RunState::finish).collect::<Result<_, _>>()?;
        Ok((context, scored))
    }

    fn make_ranking(
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
                scale_down_early_exits(&mut results);
            }
            let left_early = results.iter().filter(|result| result.exit_layer.is_some()).count();
            let exits = scores.early_exit.as_ref();
            early_exit = exits.map(|exits| EarlyExitReport { left_early, tokens_saved: exits.tokens_saved });
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
        let relevant_from = self.relevant_from();
        if min_score == Some(MinScore::Auto) && relevant_from.is_none() {
            warnings.push(auto_without_calibration(self.family()));
        }
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
        ranking.select(min_score, relevant_from, top_n);
        ranking
    }
}

impl RunState {
    /// Passes of all rounds, assuming that each later round has as many as the first.
    fn planned_passes(&self) -> usize {
        let PreparedRequest { round, rounds, .. } = &self.prepared;
        round.as_ref().map_or(0, Vec::len) * (1 + rounds.remaining())
    }

    fn finish(self) -> Result<Scored, RerankError> {
        let PreparedRequest { rounds, texts, .. } = self.prepared;
        Ok(Scored { scores: rounds.finish()?, texts, prompt_tokens: self.prompt_tokens })
    }
}

/// Sums up all rankings of a call in the timeline, for the log and the metrics.
pub(super) fn note_rankings(context: &RequestContext, rankings: &[Ranking]) {
    let timing = rankings.first().map_or_else(Timing::default, |ranking| ranking.timing);
    let mut summary = RankingSummary {
        mode: rankings.first().map_or(Mode::Auto, |ranking| ranking.mode),
        documents: 0,
        slates: 0,
        passages: 0,
        left_out: 0,
        early_exit: EarlyExitReport::default(),
        usage: Usage::default(),
        timing,
    };
    for ranking in rankings {
        summary.documents += ranking.documents;
        summary.slates += ranking.slates;
        summary.passages += ranking.passages;
        summary.left_out += ranking.min_score.map_or(0, |report| report.left_out);
        summary.early_exit.add(ranking.early_exit.unwrap_or_default());
        summary.usage.prompt_tokens += ranking.usage.prompt_tokens;
        summary.usage.truncated_documents += ranking.usage.truncated_documents;
    }
    context.timeline.note_ranking(summary);
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
    warnings.push(format!("documents[{first}]{more}: without text, so last, with a score of 0"));
    blank.len()
}

/// The documents or passages that were read, best first, those that left early behind the others; equal
/// scores keep their order.
fn sort_documents(prepared: &PreparedTexts, scores: &Scores) -> Vec<RankedDocument> {
    let exit_layer =
        |index: usize| scores.early_exit.as_ref().and_then(|exits| exits.left[index].then_some(exits.layer));
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
    scale_down_early_exits(&mut results);
    results
}
