//! Admitted requests to rankings: read, plan, run, score.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Instant;

use super::budget::{BudgetedPlan, TokenBudget};
use super::cost::PreparedRequest;
use super::tokenize_pool::TokenizePool;
use super::{Reranker, Tally, blocking, of_one};
use crate::prompt::PreparedTexts;
use crate::rerank::{
    InstructionSource, LimitSettings, RankedDocument, Ranking, RerankError, RerankRequest, Stage, Timing, Usage,
};
use crate::runtime::ForwardPass;
use crate::schedule::Admission;
use crate::scoring::Scores;

/// Requests that were let in as one.
pub(super) struct Admitted {
    pub admission: Admission,
    /// The tokens that they were let in with.
    pub estimated: usize,
    /// When they came.
    pub since: Instant,
}

/// What of a request its answer needs.
struct Wanted {
    model: String,
    profile: Option<String>,
    instruction: InstructionSource,
    top_n: usize,
}

/// What has run of a request, and what came of it.
struct Run {
    planned: PreparedRequest,
    prompt_tokens: usize,
}

impl Wanted {
    fn of(request: &RerankRequest, default_model: &str) -> Self {
        let profile = request.profile.as_deref().map(str::to_owned);
        let instruction = match (&profile, &request.instruction) {
            (Some(name), _) => InstructionSource::Profile(name.clone()),
            (None, Some(_)) => InstructionSource::Own,
            (None, None) => InstructionSource::None,
        };
        let model = request.model.as_deref().unwrap_or(default_model).to_owned();
        Self { model, profile, instruction, top_n: request.top_n.unwrap_or(usize::MAX) }
    }
}

impl Reranker {
    /// One ranking for each request, in order. There is a budget only where there is one request.
    pub(super) async fn rank(
        &self,
        requests: Vec<RerankRequest>,
        limits: &LimitSettings,
        Admitted { admission, estimated, since }: &Admitted,
        tally: &Tally,
    ) -> Result<Vec<Ranking>, RerankError> {
        let mut timing = Timing::default();
        let wanted: Vec<Wanted> = requests.iter().map(|request| Wanted::of(request, self.name())).collect();
        let budget = requests.first().map(|request| request.terms.budget).unwrap_or_default();

        let started = Instant::now();
        let tokenizing = tally.stages.begin(Stage::Tokenize, None);
        let mut read = self.read(requests, limits).await?;
        let documents = read.iter().map(|(_, planned)| planned.texts.documents.len()).sum();
        let allowed = match TokenBudget::new(&budget, self.scheduler.forecast(admission)) {
            Some(budget) => {
                let (prompter, limits, since) = (Arc::clone(&self.prompter), limits.clone(), *since);
                let (request, planned) = read.swap_remove(0);
                let bytes = planned.texts.documents.iter().map(|document| document.text.len()).sum();
                let work = move |(): &(), _: crate::prompt::IsCancelled<'_>| {
                    budget.enforce(planned, request.truncation, &prompter, &limits, &|| since.elapsed())
                };
                vec![TokenizePool::of_process().run((), bytes, work).await?.1]
            }
            None => read.into_iter().map(|(_, planned)| BudgetedPlan::whole(planned)).collect(),
        };
        let tokens = allowed.iter().flat_map(|allowed| &allowed.planned).map(|planned| planned.tokens).sum();
        admission.correct(*estimated, tokens, documents)?;
        timing.tokenize += started.elapsed();
        drop(tokenizing);

        let (mut runs, mut rest) = (Vec::new(), Vec::new());
        for BudgetedPlan { planned, skipped: left, report } in allowed {
            runs.extend(planned.map(|planned| Run { planned, prompt_tokens: 0 }));
            rest.push((left, report));
        }
        let mut scored = self.execute(runs, admission, tally, &mut timing).await?.into_iter();
        timing.total = since.elapsed();
        let rankings = wanted.into_iter().zip(rest).map(|(wanted, (left, budget))| {
            let (mut mode, mut slates, mut warnings) = (left.mode, 0, left.warnings);
            let (mut results, mut usage) = (Vec::new(), Usage::default());
            if let Some((reading, scores, prompt_tokens)) = scored.next() {
                results = ranked(&reading, &scores);
                if left.documents.is_empty() {
                    self.drift.look_at(self.name(), &wanted.instruction, &reading, &results);
                }
                let truncated_documents = results.iter().filter(|result| result.truncated()).count();
                usage = Usage { prompt_tokens, truncated_documents };
                (mode, slates) = (scores.mode, scores.slates);
                warnings.extend(reading.warnings.iter().cloned());
            }
            let lowest = results.iter().map(|result| result.raw_score).fold(0.0, f32::min);
            results.extend(left.documents.into_iter().map(|(index, tokens)| RankedDocument {
                index,
                relevance_score: 0.0,
                raw_score: lowest,
                tokens,
                tokens_read: 0,
            }));
            let documents = results.len();
            results.truncate(wanted.top_n);
            let Wanted { model, profile, .. } = wanted;
            Ranking { results, documents, model, profile, mode, slates, usage, warnings, budget, timing }
        });
        Ok(rankings.collect())
    }

    /// Tokenises requests and plans their first rounds. What comes back of a request has no documents any more.
    async fn read(
        &self,
        requests: Vec<RerankRequest>,
        limits: &LimitSettings,
    ) -> Result<Vec<(RerankRequest, PreparedRequest)>, RerankError> {
        let (prompter, limits) = (Arc::clone(&self.prompter), limits.clone());
        let bytes = requests.iter().flat_map(|request| &request.documents).map(String::len).sum();
        let work = move |(): &(), is_cancelled: crate::prompt::IsCancelled<'_>| {
            let count = requests.len();
            let one = |(index, request): (usize, RerankRequest)| {
                let reading = prompter.tokenize(&request, &limits, is_cancelled);
                let planned = reading.and_then(|reading| PreparedRequest::new(Arc::clone(&prompter), reading));
                let planned = planned.map_err(|error| of_one(index, count, error))?;
                // The texts as they were sent are not needed any more.
                Ok((RerankRequest { documents: Vec::new(), ..request }, planned))
            };
            requests.into_iter().enumerate().map(one).collect()
        };
        Ok(TokenizePool::of_process().run((), bytes, work).await?.1)
    }

    /// Runs the passes of planned requests, round by round, those of all requests together. Their readings and scores, and
    /// the tokens of what was run for each.
    async fn execute(
        &self,
        mut runs: Vec<Run>,
        admission: &Admission,
        tally: &Tally,
        timing: &mut Timing,
    ) -> Result<Vec<(Arc<PreparedTexts>, Scores, usize)>, RerankError> {
        let passes_to_come =
            |Run { planned, .. }: &Run| planned.round.as_ref().map_or(0, Vec::len) * (1 + planned.rounds.remaining());
        tally.change(|progress| progress.of_passes += runs.iter().map(passes_to_come).sum::<usize>());
        let mut read: Vec<Vec<bool>> = runs.iter().map(|run| vec![false; run.planned.texts.documents.len()]).collect();
        while runs.iter().any(|run| run.planned.round.is_some()) {
            let (mut passes, mut documents, mut counts) = (Vec::new(), Vec::new(), Vec::new());
            for (number, run) in runs.iter_mut().enumerate() {
                let round = run.planned.round.take().unwrap_or_default();
                counts.push(round.len());
                for planned in round {
                    run.prompt_tokens += planned.pass.tokens();
                    documents.push((number, planned.documents));
                    passes.push(planned.pass);
                }
            }
            let tokens = passes.iter().map(ForwardPass::tokens).sum::<usize>();
            let done = |pass: usize| {
                let (run, documents) = &documents[pass];
                let first_time = |index: &&usize| !std::mem::replace(&mut read[*run][**index], true);
                let new = documents.iter().filter(first_time).count();
                tally.change(|progress| {
                    progress.passes += 1;
                    progress.documents += new;
                });
            };
            let waiting = tally.stages.begin(Stage::Queue, Some(tokens));
            let executed = self.scheduler.run(admission, passes, done).await?;
            waiting.turn_into(executed.queued, Stage::Forward);
            timing.queue += executed.queued;
            timing.forward += executed.forward;
            let started = Instant::now();
            let _scoring = tally.stages.begin(Stage::Score, None);
            runs = blocking(move || {
                let mut readouts = executed.readouts.into_iter();
                for (Run { planned, .. }, count) in runs.iter_mut().zip(counts).filter(|(_, count)| *count > 0) {
                    planned.rounds.add_outputs(readouts.by_ref().take(count).collect())?;
                    planned.round = planned.rounds.next_round()?;
                }
                Ok(runs)
            })
            .await?;
            timing.tokenize += started.elapsed();
        }
        let finished = |Run { planned: PreparedRequest { rounds, texts: reading, .. }, prompt_tokens }| {
            rounds.finish().map(|scores| (reading, scores, prompt_tokens))
        };
        runs.into_iter().map(finished).collect()
    }
}

/// The documents that were read, best first; equal scores keep the request's order.
fn ranked(reading: &PreparedTexts, scores: &Scores) -> Vec<RankedDocument> {
    let texts = reading.documents.iter().zip(scores.relevance.iter().zip(&scores.raw));
    let mut results: Vec<RankedDocument> = texts
        .enumerate()
        .map(|(index, (document, (&relevance_score, &raw_score)))| RankedDocument {
            index,
            relevance_score,
            raw_score,
            tokens: document.tokens,
            tokens_read: document.tokens_read,
        })
        .collect();
    // Scores are finite. Where relevances round to the same number the raw scores still differ; the sort is stable.
    let key = |result: &RankedDocument| (result.relevance_score, result.raw_score);
    results.sort_by(|a, b| key(b).partial_cmp(&key(a)).unwrap_or(Ordering::Equal));
    results
}
