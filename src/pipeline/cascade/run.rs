//! One request on its way through the stages.

mod plan;
mod ranking;
mod recover;

use std::time::{Duration, Instant};

use super::stage::Stage;
use super::{Cascade, CascadeStage};
use crate::context::RequestContext;
use crate::pipeline::rank::note_rankings;
use crate::rerank::cascade::probability_of_order;
use crate::rerank::{
    EarlyExitReport, Keep, LimitSettings, MinScore, Mode, RankedDocument, Ranking, RequestBudget, RerankError,
    RerankRequest, SkipReason, StageReport,
};

/// Bytes of a typical token, for documents that no model has read.
const TYPICAL_TOKEN_BYTES: usize = 4;

/// A request on its way through the stages.
pub(super) struct CascadeRun {
    name: String,
    stages: Vec<Stage>,
    stop_when_sure: f64,
    /// The request without its documents and its minimum score.
    request: RerankRequest,
    min_score: Option<MinScore>,
    documents: Vec<String>,
    limits: LimitSettings,
    has_scores: bool,
    /// Every document, best first as far as the stages have ranked them.
    order: Vec<RankedDocument>,
    /// How many of them, from the start, the next stage ranks.
    candidates: usize,
    reports: Vec<StageReport>,
    /// Index of the last stage that ranked.
    ranked_by: Option<usize>,
    /// Why no later stage runs.
    ended: Option<SkipReason>,
    /// The error of a stage that failed before any had ranked.
    error: Option<RerankError>,
    mode: Mode,
    slates: usize,
    passages: usize,
    early_exit: Option<EarlyExitReport>,
    tokens: usize,
    profile: Option<String>,
    warnings: Vec<String>,
    /// The parts that stages left out for the budget, in words.
    budget_reasons: Vec<String>,
    tokens_per_document: Option<usize>,
}

impl CascadeRun {
    /// Admits the request, for all of its stages, and orders it by the caller's scores.
    pub fn start(
        cascade: Cascade,
        mut request: RerankRequest,
        limits: LimitSettings,
        context: &RequestContext,
    ) -> Result<Self, RerankError> {
        let Cascade { name, stages, stop_when_sure, is_background } = cascade;
        let mut keep_of_scores = None;
        let mut models = Vec::new();
        for CascadeStage { model, keep } in stages {
            match model {
                Some(model) => models.push(Stage::new(models.len() + 1, model, keep, &request, &limits)),
                None => keep_of_scores = Some(keep),
            }
        }
        let documents = std::mem::take(&mut request.documents);
        let (options, min_score) = (std::mem::take(&mut request.cascade), request.min_score.take());
        let scores = options.scores.or(options.document_scores).filter(|_| keep_of_scores.is_some());
        request.model.get_or_insert_with(|| name.as_str().into());
        let mut run = Self {
            name,
            stages: models,
            stop_when_sure,
            candidates: documents.len(),
            order: documents.iter().enumerate().map(unread).collect(),
            has_scores: scores.is_some(),
            request,
            min_score,
            documents,
            limits,
            reports: Vec::new(),
            ranked_by: None,
            ended: None,
            error: None,
            mode: Mode::Auto,
            slates: 0,
            passages: 0,
            early_exit: None,
            tokens: 0,
            profile: None,
            warnings: Vec::new(),
            budget_reasons: Vec::new(),
            tokens_per_document: None,
        };
        if let Some(keep) = keep_of_scores {
            run.order_by_scores(scores, keep);
        }
        if is_background {
            run.admit_in_background()?;
        } else {
            run.admit(context)?;
        }
        Ok(run)
    }

    fn order_by_scores(&mut self, scores: Option<Vec<f64>>, keep: Keep) {
        if let Some(scores) = scores {
            for document in &mut self.order {
                document.raw_score = scores[document.index] as f32;
            }
            self.order.sort_by(|left, right| scores[right.index].total_cmp(&scores[left.index]));
        } else {
            let problem = "no scores were given: the first stage took the documents in the request's order";
            self.warnings.push(problem.to_owned());
        }
        self.candidates = keep.apply(self.documents.len(), self.candidates);
        let documents = self.documents.len();
        self.reports.push(StageReport { stage: 0, model: None, documents, tokens: 0, time: None, skipped: None });
    }

    /// Admits the request with the tokens of all stages. The permit is that of the first stage that
    /// can rank; the others get permits that keep their models loaded.
    fn admit(&mut self, context: &RequestContext) -> Result<(), RerankError> {
        let tokens: usize = (0..self.stages.len()).map(|index| self.planned_tokens(index)).sum();
        let tokens = tokens.min(self.request.constraints.budget.max_total_tokens.unwrap_or(usize::MAX));
        let mut first = None;
        for stage in &mut self.stages {
            let Ok(ready) = &mut stage.ready else { continue };
            match ready.admit(first.as_ref(), tokens, context) {
                Ok(permit) => first = first.or(Some(permit)),
                Err(error) if first.is_none() => return Err(error),
                Err(RerankError::Draining) => stage.ready = Err(being_unloaded(&stage.name)),
                Err(error) => stage.ready = Err(error),
            }
        }
        Ok(())
    }

    /// Runs the stages, and puts the ranking together.
    pub async fn finish(mut self, mut context: RequestContext) -> Result<(RequestContext, Ranking), RerankError> {
        for index in 0..self.stages.len() {
            self.run_stage(index, &mut context).await?;
        }
        if self.ranked_by.is_none() {
            return Err(self.error.unwrap_or_else(|| RerankError::internal("no stage has ranked")));
        }
        context.release_admission();
        let (ranking, report) = self.into_ranking(&context);
        context.timeline.note_cascade(report);
        note_rankings(&context, std::slice::from_ref(&ranking));
        Ok((context, ranking))
    }

    /// Gives every stage a permit that no limit counts.
    fn admit_in_background(&mut self) -> Result<(), RerankError> {
        for ready in self.stages.iter_mut().filter_map(|stage| stage.ready.as_mut().ok()) {
            ready.permit = Some(ready.reranker.scheduler.admit_in_background()?);
        }
        Ok(())
    }

    async fn run_stage(&mut self, index: usize, context: &mut RequestContext) -> Result<(), RerankError> {
        if let Some(reason) = self.ended {
            self.skip(index, reason);
            return Ok(());
        }
        if self.keeps_all(index, self.candidates) && self.stages[index].ready.is_ok() {
            self.skip(index, SkipReason::KeepsAll);
            return Ok(());
        }
        let ranked = if let Err(error) = &mut self.stages[index].ready {
            let error = std::mem::replace(error, RerankError::internal("reported before"));
            Err((error, SkipReason::NotLoaded))
        } else if let Some((count, budget)) = self.fit_budget(index, context) {
            self.rank(index, count, budget, context).await.map_err(|error| (error, SkipReason::Failed))
        } else {
            self.ended = Some(SkipReason::Budget);
            self.skip(index, SkipReason::Budget);
            return Ok(());
        };
        if let Err((error, reason)) = ranked {
            self.recover(index, error, reason, context).await?;
        }
        let keep = self.stages[index].keep;
        if index + 1 < self.stages.len() {
            self.candidates = keep.apply(self.documents.len(), self.candidates);
        }
        Ok(())
    }

    /// Ranks the first `count` documents on a stage, and puts them in their new order.
    async fn rank(
        &mut self,
        index: usize,
        count: usize,
        budget: RequestBudget,
        context: &mut RequestContext,
    ) -> Result<(), RerankError> {
        self.begin_stage(index, count);
        let places: Vec<usize> = self.order[..count].iter().map(|document| document.index).collect();
        let documents = places.iter().map(|place| self.documents[*place].clone()).collect();
        let mut request = RerankRequest { documents, top_n: None, ..self.request.clone() };
        request.constraints.budget = budget;
        let stage = &self.stages[index];
        let ready = stage.ready.as_ref().map_err(|_| RerankError::internal("a stage that cannot rank"))?;
        let (started, span) = (Instant::now(), stage.span(count, context));
        let ranked = ready.rank(request, &self.limits, context.for_stage(span.clone())).await;
        // An exported span ends where it was left for the last time, which is now.
        span.in_scope(|| ());
        let ranking =
            ranked.map_err(|error| error.with_document_index(|index| places.get(index).copied().unwrap_or(index)))?;
        let is_decided = |scores: &[f32], top_n| {
            let is_calibrated = self.stop_when_sure > 0.0 && ready.reranker.has_probabilities();
            is_calibrated && probability_of_order(scores, top_n) >= self.stop_when_sure
        };
        let scores: Vec<f32> = ranking.results.iter().map(|result| result.relevance_score).collect();
        if is_decided(&scores, self.request.top_n.unwrap_or(usize::MAX)) {
            self.ended = Some(SkipReason::Sure);
        }
        span.record("podium.tokens", i64::try_from(ranking.usage.prompt_tokens).unwrap_or(i64::MAX));
        self.take_ranking(index, ranking, &places, started.elapsed());
        Ok(())
    }

    /// Counts the tokens of this stage and of later ones in its permit.
    fn begin_stage(&self, index: usize, count: usize) {
        let later = (index + 1..self.stages.len()).map(|later| self.planned_tokens(later)).sum();
        let before = self.ranked_by.and_then(|before| self.stages[before].ready.as_ref().ok());
        let permit = |ready: &super::stage::ReadyStage| ready.permit.clone();
        let before = before.and_then(permit).or_else(|| {
            // The permit of the first stage counts everything until a stage begins.
            self.stages.iter().find_map(|stage| stage.ready.as_ref().ok()).and_then(permit)
        });
        if let Some(own) = self.stages[index].ready.as_ref().ok().and_then(permit) {
            own.begin_stage(before.as_ref(), self.tokens_of(index, count), later);
        }
    }

    /// Takes over what a stage found: its order, what it read, and how long it took.
    fn take_ranking(&mut self, index: usize, ranking: Ranking, places: &[usize], time: Duration) {
        let number = self.stages[index].number;
        let unread = ranking.budget.as_ref().map_or(0, |budget| budget.documents_left_in_input_order);
        let read = ranking.results.len() - unread;
        let mut ranked: Vec<RankedDocument> = ranking.results;
        ranked.truncate(read);
        for document in &mut ranked {
            document.index = places[document.index];
            document.stage = Some(number);
        }
        let mut is_read = vec![false; self.documents.len()];
        for document in &ranked {
            is_read[document.index] = true;
        }
        ranked.extend(self.order.drain(..).filter(|document| !is_read[document.index]));
        self.order = ranked;
        let planned = std::mem::replace(&mut self.candidates, read);
        self.tokens += ranking.usage.prompt_tokens;
        self.slates += ranking.slates;
        self.passages += ranking.passages;
        if let Some(report) = ranking.early_exit {
            self.early_exit.get_or_insert_default().add(report);
        }
        self.profile = ranking.profile;
        let is_later = self.ranked_by.is_some();
        (self.mode, self.ranked_by) = (ranking.mode, Some(index));
        self.note_warnings(index, &ranking.warnings, places, is_later);
        if let Some(budget) = ranking.budget {
            let label = self.stages[index].label();
            self.tokens_per_document = self.tokens_per_document.or(budget.tokens_per_document);
            if is_later && read < planned {
                let problem = format!("{label} ranked {read} of {planned} documents");
                self.warnings.push(format!("budget: {problem}"));
                self.budget_reasons.push(problem);
            } else {
                self.budget_reasons.push(format!("{label}: {}", budget.reason));
            }
        }
        self.reports.push(StageReport {
            stage: number,
            model: Some(self.stages[index].name.clone()),
            documents: read,
            tokens: ranking.usage.prompt_tokens,
            time: Some(time),
            skipped: None,
        });
    }

    /// Keeps the warnings of a stage, with the documents' indices in the request. Those about the
    /// budget of a later stage speak of documents that the model did not read, which the stage
    /// before has read.
    fn note_warnings(&mut self, index: usize, warnings: &[String], places: &[usize], is_later: bool) {
        let label = self.stages[index].label();
        for warning in warnings.iter().filter(|warning| !is_later || !warning.starts_with("budget: ")) {
            let warning = format!("{label}: {}", with_document_at(warning, places));
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
    }

    fn skip(&mut self, index: usize, reason: SkipReason) {
        let Stage { number, name, .. } = &self.stages[index];
        let (stage, model) = (*number, Some(name.clone()));
        self.reports.push(StageReport { stage, model, documents: 0, tokens: 0, time: None, skipped: Some(reason) });
    }
}

/// The error of a stage whose model stopped taking requests after it was found.
fn being_unloaded(name: &str) -> RerankError {
    let (name, retry_after) = (name.to_owned(), Duration::from_secs(5));
    RerankError::ModelUnavailable { name, problem: "is being unloaded", retry_after }
}

/// A document that no model has read.
fn unread((index, text): (usize, &String)) -> RankedDocument {
    let tokens = text.len().div_ceil(TYPICAL_TOKEN_BYTES);
    RankedDocument { index, tokens, stage: Some(0), ..RankedDocument::default() }
}

/// A warning about `documents[i]` of a stage, with the document's index in the request.
fn with_document_at(warning: &str, places: &[usize]) -> String {
    let found = warning.strip_prefix("documents[").and_then(|rest| rest.split_once(']'));
    let place = found.and_then(|(index, rest)| Some((places.get(index.parse::<usize>().ok()?)?, rest)));
    place.map_or_else(|| warning.to_owned(), |(place, rest)| format!("documents[{place}]{rest}"))
}
