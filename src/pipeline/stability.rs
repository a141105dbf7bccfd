//! Stable order: a list is ranked in several orders of its documents, and the rankings are merged.
//!
//! Only families that read documents one after another in one sequence depend on their order.
//! Cosines are averaged. Families that name the best document of a window vote: the mean position
//! of a document decides (Borda count). The first order is the request's own, the others are
//! shuffled the same way every time.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::Reranker;
use super::lists::Lists;
use crate::context::RequestContext;
use crate::prompt::SlateScore;
use crate::rerank::{LimitSettings, Mode, RankedDocument, Ranking, RerankError, RerankRequest, sort_by_relevance};
use crate::schedule::AdmissionPermit;

impl Reranker {
    /// How many orders of its documents a request is ranked in.
    pub(super) fn orders(&self, request: &RerankRequest) -> usize {
        let depends_on_order =
            !self.prompter.facts().has_one_document_per_sequence() && request.mode != Mode::Pointwise;
        if depends_on_order && request.documents.len() > 1 { request.stability.unwrap_or(1) } else { 1 }
    }

    /// Ranks admitted requests. A single one that asks for it is ranked in several orders, whose
    /// passes run together.
    pub(super) async fn rank_in_orders(
        &self,
        mut requests: Vec<RerankRequest>,
        limits: &LimitSettings,
        permit: AdmissionPermit,
        context: RequestContext,
    ) -> Result<(RequestContext, Vec<Ranking>), RerankError> {
        // One document has one order, whatever was asked.
        let asks_in_vain =
            |request: &RerankRequest| request.documents.len() > 1 && request.stability.is_some_and(|orders| orders > 1);
        let orders = if let [request] = &requests[..] { self.orders(request) } else { 1 };
        if orders == 1 {
            let warns = requests.first().is_some_and(asks_in_vain);
            let lists = Lists::Requests(requests);
            let (context, mut rankings) = self.rank(lists, limits, permit, context).await?;
            if let Some(ranking) = rankings.first_mut().filter(|_| warns) {
                let family = self.family();
                let problem = format!("stability had no effect: family `{family}` was not read in an order");
                ranking.warnings.push(problem);
            }
            return Ok((context, rankings));
        }
        let mut request = requests.swap_remove(0);
        let (min_score, top_n) = (request.min_score.take(), request.top_n.take());
        let places: Vec<Vec<usize>> = (0..orders).map(|number| order(request.documents.len(), number)).collect();
        let lists = Lists::Orders(Box::new(request), places.clone());
        let (context, mut rankings) = self.rank(lists, limits, permit, context).await?;
        if rankings.len() < orders {
            let problem = format!("stability: the budget allows {} of {orders} orders", rankings.len());
            rankings.iter_mut().take(1).for_each(|ranking| ranking.warnings.push(problem.clone()));
        }
        let votes = matches!(self.prompter.slate_score(), Some(SlateScore::FirstToken { .. }));
        let mut merged = merge(rankings, &places, votes).ok_or_else(|| RerankError::internal("no order was ranked"))?;
        self.select(&mut merged, min_score, top_n);
        Ok((context, vec![merged]))
    }
}

/// The documents of a list in the order of this number: 0 is as they are.
fn order(documents: usize, number: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..documents).collect();
    if number > 0 {
        places.shuffle(&mut StdRng::seed_from_u64(number as u64));
    }
    places
}

/// One document in all orders.
#[derive(Clone, Default)]
struct Votes {
    relevance: Vec<f32>,
    raw: f32,
    positions: usize,
}

/// Merges rankings of the same documents, each in its own order.
fn merge(rankings: Vec<Ranking>, places: &[Vec<usize>], votes: bool) -> Option<Ranking> {
    let count = rankings.len() as f32;
    let mut found: Vec<Votes> = vec![Votes::default(); places.first()?.len()];
    let mut rankings = rankings.into_iter().zip(places);
    let (mut merged, _) = rankings.next()?;
    for (position, result) in merged.results.iter().enumerate() {
        found[result.index].add(result, position);
    }
    for (ranking, places) in rankings {
        merged.slates += ranking.slates;
        merged.passages += ranking.passages;
        merged.usage.prompt_tokens += ranking.usage.prompt_tokens;
        for (position, result) in ranking.results.iter().enumerate() {
            found[places[result.index]].add(result, position);
        }
    }
    for result in &mut merged.results {
        let Votes { relevance, raw, .. } = &found[result.index];
        let mean = relevance.iter().sum::<f32>() / count;
        let variance = relevance.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / count;
        (result.relevance_score, result.raw_score) = (mean.clamp(0.0, 1.0), raw / count);
        result.spread = Some(variance.sqrt());
    }
    sort_by_relevance(&mut merged.results);
    if votes {
        // The scores stay in their order, and the documents take the order of the vote.
        let scores: Vec<f32> = merged.results.iter().map(|result| result.relevance_score).collect();
        merged.results.sort_by_key(|result| found[result.index].positions);
        for (result, score) in merged.results.iter_mut().zip(scores) {
            result.relevance_score = score;
        }
    }
    Some(merged)
}

impl Votes {
    fn add(&mut self, result: &RankedDocument, position: usize) {
        self.relevance.push(result.relevance_score);
        self.raw += result.raw_score;
        self.positions += position;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Policy;
    use crate::prompt::testing;
    use crate::rerank::{Instructions, RequestBudget};
    use crate::runtime::fake::{FakeControls, FakeRuntime};
    use crate::schedule::{AdmissionControl, ScheduleSettings};

    fn reranker(family: &str) -> (Reranker, FakeControls) {
        let runtime = FakeRuntime::new();
        let controls = runtime.controls();
        let limits = LimitSettings {
            max_documents: 100,
            max_passages: 10_000,
            max_slate_documents: 8,
            max_slate_tokens: 32_768,
        };
        let instructions = Instructions::new(std::collections::BTreeMap::new(), "", false);
        let policy = Policy { limits, passages: crate::rerank::PassageSettings::default(), instructions };
        let schedule = ScheduleSettings { max_batch_tokens: 10_000, ..ScheduleSettings::for_tests() };
        let admission = AdmissionControl::new(&schedule);
        let names = vec![family.to_owned()];
        (Reranker::new(names, testing::prompter(family), runtime, policy, &admission), controls)
    }

    fn request(stability: Option<usize>) -> RerankRequest {
        let documents = (0..5).map(|index| format!("document {index}")).collect();
        RerankRequest { stability, ..RerankRequest::new("query", documents) }
    }

    /// By document: relevance and raw score.
    fn scores(ranking: &Ranking) -> Vec<(f32, f32)> {
        let mut scores: Vec<_> = ranking.results.iter().map(|result| (result.index, result)).collect();
        scores.sort_by_key(|(index, _)| *index);
        scores.into_iter().map(|(_, result)| (result.relevance_score, result.raw_score)).collect()
    }

    #[tokio::test]
    async fn cosines_of_all_orders_are_averaged_and_their_spread_is_reported() {
        let (reranker, controls) = reranker("jina-v3");
        let merged = reranker.rerank(request(Some(3))).await.unwrap();
        assert_eq!(controls.batches().len(), 1, "the passes of all orders run together");
        let mut sums = vec![(0.0, 0.0, Vec::new()); 5];
        let mut tokens = 0;
        for number in 0..3 {
            let places = order(5, number);
            let mut alone = request(None);
            alone.documents = places.iter().map(|place| format!("document {place}")).collect();
            let alone = reranker.rerank(alone).await.unwrap();
            tokens += alone.usage.prompt_tokens;
            for (index, (relevance, raw)) in scores(&alone).into_iter().enumerate() {
                let sum = &mut sums[places[index]];
                sum.0 += relevance / 3.0;
                sum.1 += raw / 3.0;
                sum.2.push(relevance);
            }
        }
        for result in &merged.results {
            let (relevance, raw, all) = &sums[result.index];
            assert!((result.relevance_score - relevance).abs() < 1e-5 && (result.raw_score - raw).abs() < 1e-5);
            let variance = all.iter().map(|value| (value - relevance).powi(2)).sum::<f32>() / 3.0;
            assert!((result.spread.unwrap() - variance.sqrt()).abs() < 1e-4, "{result:?}");
        }
        assert_eq!((merged.usage.prompt_tokens, merged.slates), (tokens, 3));
        assert!(merged.results.is_sorted_by(|left, right| left.relevance_score >= right.relevance_score));
        assert_eq!(merged.results, reranker.rerank(request(Some(3))).await.unwrap().results, "the same every time");
        let cut = reranker.rerank(RerankRequest { top_n: Some(2), ..request(Some(3)) }).await.unwrap();
        assert_eq!(cut.results, merged.results[..2]);
    }

    #[tokio::test]
    async fn windows_vote_with_their_positions() {
        let (reranker, _controls) = reranker("first");
        let merged = reranker.rerank(request(Some(4))).await.unwrap();
        let mut positions = [0; 5];
        for number in 0..4 {
            let places = order(5, number);
            let mut alone = request(None);
            alone.documents = places.iter().map(|place| format!("document {place}")).collect();
            let alone = reranker.rerank(alone).await.unwrap();
            for (position, result) in alone.results.iter().enumerate() {
                positions[places[result.index]] += position;
            }
        }
        assert!(merged.results.is_sorted_by_key(|result| positions[result.index]), "{positions:?}: {merged:?}");
        assert!(merged.results.is_sorted_by(|left, right| left.relevance_score >= right.relevance_score));
    }

    #[tokio::test]
    async fn a_family_that_reads_documents_apart_is_read_once_with_a_warning() {
        let (reranker, controls) = reranker("podium-nano");
        let ranking = reranker.rerank(request(Some(3))).await.unwrap();
        assert_eq!((controls.passes(), ranking.results[0].spread), (1, None));
        assert_eq!(
            ranking.warnings.last().unwrap(),
            "stability had no effect: family `podium-nano` was not read in an order"
        );
    }

    #[tokio::test]
    async fn a_budget_allows_as_many_orders_as_fit() {
        let (reranker, _controls) = reranker("jina-v3");
        let one = reranker.rerank(request(None)).await.unwrap().usage.prompt_tokens;
        let with_budget = |tokens| {
            let mut request = request(Some(3));
            request.constraints.budget = RequestBudget { max_total_tokens: Some(tokens), ..RequestBudget::default() };
            request
        };
        let two = reranker.rerank(with_budget(2 * one + one / 2)).await.unwrap();
        assert!(two.usage.prompt_tokens > one && two.usage.prompt_tokens <= 2 * one + one / 2);
        assert_eq!(two.warnings, ["stability: the budget allows 2 of 3 orders"]);
        let less = reranker.rerank(with_budget(one * 9 / 10)).await.unwrap();
        assert!(less.usage.prompt_tokens <= one * 9 / 10, "{less:?}");
        assert!(less.warnings.contains(&"stability: the budget allows 1 of 3 orders".to_owned()), "{less:?}");
        let mut strict = with_budget(2 * one + one / 2);
        strict.constraints.budget.strict = true;
        assert!(matches!(reranker.rerank(strict).await, Err(RerankError::OverBudget { .. })));
    }
}
