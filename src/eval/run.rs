//! Reranks every query of a set in every input order, and once more without its instruction if it
//! has one.
//!
//! By default requests are sent one at a time, so that no request waits for another and latencies
//! are comparable.

use futures_util::stream::{self, StreamExt, TryStreamExt};
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;

use super::answer::Answer;
use super::datasets::{Dataset, Query};
use super::journal::{Journal, JournalError};
pub use super::query_run::{Pass, QueryRun};
use super::settings::{EvalSettings, ExitPoint};
use super::system::{System, SystemError};
use crate::rerank::{CascadeOptions, EarlyExitChoice, RerankRequest};

/// The reason why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The system failed on a query.
    #[error(transparent)]
    Query(#[from] QueryFailure),
    /// The journal cannot be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// The system failed on a query.
#[derive(Debug, thiserror::Error)]
#[error("{set}, query {query:?}")]
pub struct QueryFailure {
    /// The set.
    pub set: String,
    /// The query's id.
    pub query: String,
    /// The error of the system.
    #[source]
    pub cause: SystemError,
}

/// Sends one request that is not measured, so that memory is allocated and connections are open.
/// Returns the model's name, if the system reports it.
///
/// # Errors
/// [`QueryFailure`] if the system fails.
pub async fn warm_up(system: &System, set: &Dataset, settings: &EvalSettings) -> Result<Option<String>, QueryFailure> {
    let Some(query) = set.queries.iter().find(|query| !query.candidates.is_empty()) else { return Ok(None) };
    let positions: Vec<usize> = (0..settings.top.min(query.candidates.len())).collect();
    let instruction = choose_instruction(query, settings);
    let request = build_request(set, query, &positions, instruction.as_deref(), settings);
    let answer = system.rerank(request).await;
    answer.map(|answer| answer.model).map_err(|cause| query_failure(set, query, cause))
}

/// Reranks every query of a set that the journal does not have yet, and calls `after_query` after
/// each.
///
/// # Errors
/// [`RunError`] if the system fails on a query, or the journal cannot be written.
pub async fn run_set(
    system: &System,
    set: &Dataset,
    settings: &EvalSettings,
    mut journal: Option<&mut Journal>,
    mut after_query: impl FnMut(),
) -> Result<Vec<QueryRun>, RunError> {
    let mut runs: Vec<Option<QueryRun>> =
        set.queries.iter().map(|query| journal.as_ref()?.finished(set, query)).collect();
    let planned: Vec<(usize, Vec<Vec<usize>>)> =
        plan_orders(set, settings).into_iter().enumerate().filter(|(index, _)| runs[*index].is_none()).collect();
    runs.iter().flatten().for_each(|_| after_query());
    let finished = stream::iter(planned)
        .map(|(index, orders)| async move { Ok((index, run_query(system, set, index, orders, settings).await?)) });
    let mut finished = finished.buffer_unordered(settings.concurrency);
    while let Some((index, run)) = finished.try_next().await.map_err(RunError::Query)? {
        if let Some(journal) = journal.as_mut() {
            journal.append(set, &set.queries[index], &run)?;
        }
        runs[index] = Some(run);
        after_query();
    }
    Ok(runs.into_iter().flatten().collect())
}

/// The input orders of every query: the given one, then shuffled ones; none for a query without
/// candidates. They depend on the set and the seed only.
fn plan_orders(set: &Dataset, settings: &EvalSettings) -> Vec<Vec<Vec<usize>>> {
    let mut generator = Xoshiro256PlusPlus::seed_from_u64(settings.seed);
    let orders = |query: &Query| {
        let given: Vec<usize> = (0..settings.top.min(query.candidates.len())).collect();
        let numbers = if given.is_empty() { 0..0 } else { 0..settings.orders };
        let order = |number: usize| {
            let mut order = given.clone();
            if number > 0 {
                order.shuffle(&mut generator);
            }
            order
        };
        numbers.map(order).collect()
    };
    set.queries.iter().map(orders).collect()
}

async fn run_query(
    system: &System,
    set: &Dataset,
    index: usize,
    orders: Vec<Vec<usize>>,
    settings: &EvalSettings,
) -> Result<QueryRun, QueryFailure> {
    let query = &set.queries[index];
    let instruction = choose_instruction(query, settings);
    let mut passes = Vec::with_capacity(orders.len());
    for order in &orders {
        passes.push(rerank_once(system, set, query, order, instruction.as_deref(), settings).await?);
    }
    let plain = match orders.first().filter(|_| instruction.is_some()) {
        Some(given) => Some(rerank_once(system, set, query, given, None, settings).await?),
        None => None,
    };
    Ok(QueryRun { instruction, orders: passes, plain })
}

/// The instruction of the command line, otherwise that of the query.
fn choose_instruction(query: &Query, settings: &EvalSettings) -> Option<String> {
    settings.instruction.clone().or_else(|| query.instruction.clone())
}

async fn rerank_once(
    system: &System,
    set: &Dataset,
    query: &Query,
    order: &[usize],
    instruction: Option<&str>,
    settings: &EvalSettings,
) -> Result<Pass, QueryFailure> {
    let answer = system.rerank(build_request(set, query, order, instruction, settings)).await;
    let mut pass = map_to_candidates(answer.map_err(|cause| query_failure(set, query, cause))?, order);
    let id = |candidate: usize| set.documents[query.candidates[candidate]].id.as_bytes();
    order_ties(&mut pass.ranking, &pass.scores, id);
    Ok(pass)
}

fn query_failure(set: &Dataset, query: &Query, cause: SystemError) -> QueryFailure {
    QueryFailure { set: set.name.clone(), query: query.id.clone(), cause }
}

/// Builds the request for a query's candidates in this order.
fn build_request(
    set: &Dataset,
    query: &Query,
    order: &[usize],
    instruction: Option<&str>,
    settings: &EvalSettings,
) -> RerankRequest {
    let text = |candidate: &usize| set.documents[query.candidates[*candidate]].text.clone();
    let exit = settings.early_exit;
    RerankRequest {
        instruction: instruction.map(Into::into),
        mode: settings.mode,
        max_tokens_per_doc: settings.max_tokens_per_doc,
        early_exit: exit
            .filter(|exit| exit.keep > 0)
            .map(|ExitPoint { layer, keep }| EarlyExitChoice::Measured { layer, keep }),
        top_n: settings.top_n,
        cascade: CascadeOptions { stop_when_sure: settings.stop_when_sure, ..CascadeOptions::default() },
        cutoff_layer: exit.filter(|exit| exit.keep == 0).map(|exit| exit.layer),
        ..RerankRequest::new(&query.text, order.iter().map(text).collect())
    }
}

/// Maps the indices of an answer, which refer to the request's order, back to the candidates.
fn map_to_candidates(answer: Answer, order: &[usize]) -> Pass {
    let documents = answer.documents;
    let ranking = documents.iter().map(|document| order[document.index]).collect();
    let mut by_candidate: Vec<(usize, _)> =
        documents.into_iter().map(|document| (order[document.index], document)).collect();
    by_candidate.sort_by_key(|(candidate, _)| *candidate);
    let documents: Vec<_> = by_candidate.into_iter().map(|(_, document)| document).collect();
    Pass {
        ranking,
        scores: documents.iter().map(|document| document.score).collect(),
        positions: documents.iter().map(|document| document.index).collect(),
        truncated: documents.iter().map(|document| document.truncated).collect(),
        tokens_read: documents.iter().map(|document| document.tokens_read).collect(),
        prompt_tokens: answer.prompt_tokens,
        latency: answer.latency,
        retries: answer.retries,
    }
}

/// Sorts neighbours of a ranking with the same score by document id, descending, as `trec_eval`
/// does. `trec_eval` reads scores as f32.
fn order_ties<'a>(ranking: &mut [usize], scores: &[f64], id: impl Fn(usize) -> &'a [u8]) {
    for tied in ranking.chunk_by_mut(|left, right| (scores[*left] as f32).total_cmp(&(scores[*right] as f32)).is_eq()) {
        tied.sort_by(|left, right| id(*right).cmp(id(*left)));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::answer::ScoredDocument;
    use super::*;

    #[test]
    fn an_answer_is_mapped_back_to_the_candidates() {
        let row = |index, score, cut| ScoredDocument { index, score, tokens_read: None, truncated: Some(cut) };
        let answer = Answer {
            documents: vec![row(2, 0.9, false), row(0, 0.5, true), row(1, 0.1, false)],
            model: None,
            prompt_tokens: Some(8),
            latency: Duration::from_millis(1),
            retries: 0,
            timing: None,
        };
        let pass = map_to_candidates(answer, &[1, 2, 0]);
        assert_eq!(pass.ranking, [0, 1, 2]);
        assert_eq!(pass.scores, [0.9, 0.5, 0.1]);
        assert_eq!(pass.positions, [2, 0, 1]);
        assert_eq!((pass.truncated, pass.tokens_read), (Some(vec![false, true, false]), None));
    }

    #[test]
    fn documents_with_the_same_score_are_ordered_by_id_descending() {
        let ids = ["a", "c", "b", "d"];
        let mut ranking = vec![3, 0, 1, 2];
        order_ties(&mut ranking, &[0.5, 0.5 + 1e-12, 0.4, 0.9], |candidate| ids[candidate].as_bytes());
        assert_eq!(ranking, [3, 1, 0, 2]);
    }
}
