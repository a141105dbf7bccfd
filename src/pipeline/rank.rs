//! Validated requests to rankings: admit, tokenize, plan. `rounds` runs their passes, `ranking` orders
//! their documents.

use std::sync::Arc;

use super::Reranker;
use super::budget::{BudgetedPlan, TokenBudget};
use super::cost::{PreparedRequest, estimate};
use super::cpu_pool::{CpuPool, Job};
use super::lists::Lists;
use super::ranking::ResponseOptions;
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

    /// Ranks admitted lists, and returns one ranking for each. The caller notes the rankings in the
    /// timeline.
    pub(super) async fn rank(
        &self,
        lists: Lists,
        limits: &LimitSettings,
        permit: AdmissionPermit,
        mut context: RequestContext,
    ) -> Result<(RequestContext, Vec<Ranking>), RerankError> {
        context.hold_admission(permit.clone());
        let documents = lists.documents();
        let options: Vec<ResponseOptions> =
            lists.iter().map(|request| ResponseOptions::new(request, self.name())).collect();

        let tokenizing = context.timeline.begin(Stage::Tokenize, None);
        let (context, plans) = self.tokenize_and_plan(lists, limits, &permit, context).await?;
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

    /// Tokenizes the lists, plans their first rounds, and fits them into their budget.
    async fn tokenize_and_plan(
        &self,
        lists: Lists,
        limits: &LimitSettings,
        permit: &AdmissionPermit,
        context: RequestContext,
    ) -> Result<(RequestContext, Vec<BudgetedPlan>), RerankError> {
        // A passage is read whole or not at all.
        let may_truncate = |request: &RerankRequest| {
            request.truncation && request.chunking.is_none() && !request.constraints.budget.leaves_documents_out
        };
        let first = lists.iter().next().map(|request| (request.constraints.budget, may_truncate(request)));
        let (budget, may_truncate) = first.unwrap_or_default();
        let bytes = lists.text_bytes();
        let (context, mut prepared) = self.tokenize(lists, limits, bytes, context).await?;
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

    /// Tokenizes the lists in the tokenizing pool, which also frees their texts.
    async fn tokenize(
        &self,
        lists: Lists,
        limits: &LimitSettings,
        bytes: usize,
        context: RequestContext,
    ) -> Result<(RequestContext, Vec<PreparedRequest>), RerankError> {
        let (prompter, limits) = (Arc::clone(&self.prompter), limits.clone());
        let tokenize = move |_: &RequestContext, is_cancelled: IsCancelled| {
            lists.map(|request| {
                let texts = prompter.tokenize(request, &limits, is_cancelled)?;
                PreparedRequest::new(Arc::clone(&prompter), texts)
            })
        };
        let (mut context, prepared) = CpuPool::for_process().run(context, Job::Tokenize { bytes }, tokenize).await?;
        context.release_texts();
        Ok((context, prepared))
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::sync::Semaphore;

    use super::*;
    use crate::context::MemoryPermit;
    use crate::pipeline::Policy;
    use crate::prompt::testing;
    use crate::rerank::{Instructions, PassageSettings};
    use crate::runtime::fake::{FakeControls, FakeRuntime};
    use crate::schedule::{AdmissionControl, ScheduleSettings};

    fn reranker() -> (Arc<Reranker>, FakeControls) {
        let runtime = FakeRuntime::new();
        let controls = runtime.controls();
        let limits =
            LimitSettings { max_documents: 100, max_passages: 1000, max_slate_documents: 8, max_slate_tokens: 32_768 };
        let instructions = Instructions::new(BTreeMap::new(), "", false);
        let policy = Policy { limits, passages: PassageSettings::default(), instructions };
        let admission = AdmissionControl::new(&ScheduleSettings::for_tests());
        let prompter = testing::prompter("podium-nano");
        (Arc::new(Reranker::new(vec!["podium-nano".to_owned()], prompter, runtime, policy, &admission)), controls)
    }

    fn huge_request() -> RerankRequest {
        RerankRequest::new("query", vec!["Some Words of a long text. ".repeat(15_000_000 / 27)])
    }

    async fn until(condition: impl Fn() -> bool) {
        while !condition() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_short_request_is_admitted_beside_two_huge_ones_that_wait_to_be_tokenized() {
        let (reranker, _controls) = reranker();
        let held = CpuPool::for_process().hold_long_jobs();
        let huge: Vec<_> = (0..2)
            .map(|_| {
                let reranker = Arc::clone(&reranker);
                tokio::spawn(async move { reranker.rerank(huge_request()).await })
            })
            .collect();
        until(|| reranker.queue().requests == 2).await;
        let short = RerankRequest::new("query", vec!["one".to_owned(), "two".to_owned()]);
        assert_eq!(reranker.rerank(short).await.unwrap().results.len(), 2);
        drop(held);
        for ranking in huge {
            assert_eq!(ranking.await.unwrap().unwrap().results[0].tokens_read, 200);
        }
    }

    #[tokio::test]
    async fn a_request_holds_the_memory_of_its_texts_until_they_are_tokenized_or_echoed() {
        let (reranker, controls) = reranker();
        for is_echoed in [false, true] {
            let memory = Arc::new(Semaphore::new(1));
            let mut context = RequestContext::internal();
            context.hold_body_memory(MemoryPermit::new(Arc::clone(&memory).try_acquire_owned().unwrap()));
            if is_echoed {
                context.keep_body_memory();
            }
            controls.hold();
            let held = CpuPool::for_process().hold_long_jobs();
            let ranking = {
                let reranker = Arc::clone(&reranker);
                tokio::spawn(async move { reranker.rerank_all(vec![huge_request()], context).await })
            };
            until(|| reranker.queue().requests == 1).await;
            assert_eq!(memory.available_permits(), 0, "the text waits to be tokenized");
            drop(held);
            controls.held(1).await;
            assert_eq!(memory.available_permits(), usize::from(!is_echoed), "the model reads token ids");
            controls.release();
            let (context, _rankings) = ranking.await.unwrap().unwrap();
            drop(context);
            assert_eq!(memory.available_permits(), 1);
        }
    }
}
