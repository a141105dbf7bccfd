//! Validated requests to rankings: admit, tokenize, plan. `rounds` runs their passes, `ranking` orders
//! their documents.

use std::sync::Arc;

use super::budget::{BudgetedPlan, TokenBudget};
use super::cost::{PreparedRequest, estimate, text_bytes};
use super::cpu_pool::{CpuPool, Job};
use super::ranking::ResponseOptions;
use super::{Reranker, error_of_request};
use crate::context::{RankingSummary, RequestContext, Stage};
use crate::prompt::IsCancelled;
use crate::rerank::{EarlyExitReport, LimitSettings, Mode, Ranking, RerankError, RerankRequest, Timing, Usage};
use crate::schedule::{AdmissionPermit, AdmissionRequest};

impl Reranker {
    /// Admits validated requests as one and ranks them. Only a single request can have a budget.
    pub(super) async fn admit_and_rank(
        &self,
        requests: Vec<RerankRequest>,
        limits: &LimitSettings,
        context: RequestContext,
    ) -> Result<(RequestContext, Vec<Ranking>), RerankError> {
        let estimate_all = |request| estimate(request, &self.prompter, limits, self.orders(request));
        let permit = self.try_admit(requests.iter().map(estimate_all).sum(), &context)?;
        let (context, rankings) = self.rank_in_orders(requests, limits, permit, context).await?;
        note_rankings(&context, &rankings);
        Ok((context, rankings))
    }

    /// Asks for admission of a request of about this many tokens.
    pub(super) fn try_admit(&self, tokens: usize, context: &RequestContext) -> Result<AdmissionPermit, RerankError> {
        let (client, priority, deadline) = (context.client.clone(), context.priority, context.deadline);
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

        let (mut planned, mut rest) = (Vec::new(), Vec::new());
        for BudgetedPlan { planned: request, skipped, report } in plans {
            planned.extend(request);
            rest.push((skipped, report));
        }
        let (mut context, scored) = self.run_rounds(planned, &permit, context).await?;
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
