//! The loop: every query in every input order, and without its instruction where it has one.
//!
//! Requests are sent one after the other, so that a latency is that of a request alone.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;

use super::answer::Answer;
use super::datasets::{Dataset, Query};
use super::settings::EvalSettings;
use super::system::{System, SystemError};
use crate::rerank::RerankRequest;

/// One pass of a query's candidates through the system.
#[derive(Debug, Clone, PartialEq)]
pub struct Pass {
    /// Candidates, best first: places among the reranked candidates.
    pub ranking: Vec<usize>,
    /// Each candidate's relevance score.
    pub scores: Vec<f64>,
    /// Each candidate's place in the input, from 0.
    pub positions: Vec<usize>,
    /// Whether each candidate was cut off, if the system tells of all.
    pub truncated: Option<Vec<bool>>,
    /// Tokens read of each candidate, if the system tells of all.
    pub tokens_read: Option<Vec<usize>>,
    /// Tokens sent through the model, if the system tells.
    pub prompt_tokens: Option<usize>,
    /// From request to reply.
    pub latency: Duration,
    /// How often the request was repeated because the system was busy.
    pub retries: usize,
}

/// All passes of a query.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryRun {
    /// The instruction of the passes in `orders`.
    pub instruction: Option<String>,
    /// One pass for each input order, the given one first; none for a query without candidates.
    pub orders: Vec<Pass>,
    /// The given order without the instruction, where there is one.
    pub plain: Option<Pass>,
}

/// The system failed on a query.
#[derive(Debug, thiserror::Error)]
#[error("{set}, query {query:?}")]
pub struct QueryFailure {
    /// The set.
    pub set: String,
    /// The query's id.
    pub query: String,
    /// What happened.
    #[source]
    pub cause: SystemError,
}

/// One request that does not count: memory is touched, connections are made. Returns the model's name, if the system
/// tells it.
///
/// # Errors
/// When the system fails.
pub async fn warm_up(system: &System, set: &Dataset, settings: &EvalSettings) -> Result<Option<String>, QueryFailure> {
    let Some(query) = set.queries.iter().find(|query| !query.candidates.is_empty()) else { return Ok(None) };
    let positions: Vec<usize> = (0..settings.top.min(query.candidates.len())).collect();
    let instruction = instruction_of(query, settings);
    let request = request(set, query, &positions, instruction.as_deref(), settings);
    let answer = system.rerank(request).await;
    answer.map(|answer| answer.model).map_err(|cause| failed(set, query, cause))
}

/// Reranks every query of a set; `after_query` is called after each.
///
/// # Errors
/// When the system fails on a query.
pub async fn run_set(
    system: &System,
    set: &Dataset,
    settings: &EvalSettings,
    mut after_query: impl FnMut(),
) -> Result<Vec<QueryRun>, QueryFailure> {
    let mut generator = Xoshiro256PlusPlus::seed_from_u64(settings.seed);
    let mut runs = Vec::with_capacity(set.queries.len());
    for query in &set.queries {
        let instruction = instruction_of(query, settings);
        let given: Vec<usize> = (0..settings.top.min(query.candidates.len())).collect();
        let mut orders = Vec::new();
        let mut plain = None;
        if !given.is_empty() {
            for number in 0..settings.orders {
                let mut order = given.clone();
                if number > 0 {
                    order.shuffle(&mut generator);
                }
                orders.push(pass(system, set, query, &order, instruction.as_deref(), settings).await?);
            }
            if instruction.is_some() {
                plain = Some(pass(system, set, query, &given, None, settings).await?);
            }
        }
        runs.push(QueryRun { instruction, orders, plain });
        after_query();
    }
    Ok(runs)
}

/// The instruction of the command line, else the query's own.
fn instruction_of(query: &Query, settings: &EvalSettings) -> Option<String> {
    settings.instruction.clone().or_else(|| query.instruction.clone())
}

async fn pass(
    system: &System,
    set: &Dataset,
    query: &Query,
    order: &[usize],
    instruction: Option<&str>,
    settings: &EvalSettings,
) -> Result<Pass, QueryFailure> {
    let answer = system.rerank(request(set, query, order, instruction, settings)).await;
    Ok(in_candidates(answer.map_err(|cause| failed(set, query, cause))?, order))
}

fn failed(set: &Dataset, query: &Query, cause: SystemError) -> QueryFailure {
    QueryFailure { set: set.name.clone(), query: query.id.clone(), cause }
}

/// The request for a query's candidates in this order.
fn request(
    set: &Dataset,
    query: &Query,
    order: &[usize],
    instruction: Option<&str>,
    settings: &EvalSettings,
) -> RerankRequest {
    let text = |candidate: &usize| set.documents[query.candidates[*candidate]].text.clone();
    RerankRequest {
        instruction: instruction.map(Into::into),
        mode: settings.mode,
        max_tokens_per_doc: settings.max_tokens_per_doc,
        ..RerankRequest::new(&query.text, order.iter().map(text).collect())
    }
}

/// An answer about documents in this order, as one about the candidates.
fn in_candidates(answer: Answer, order: &[usize]) -> Pass {
    let documents = answer.documents;
    let ranking = documents.iter().map(|document| order[document.index]).collect();
    let mut by_candidate: Vec<(usize, _)> = documents.into_iter().map(|one| (order[one.index], one)).collect();
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

#[cfg(test)]
mod tests {
    use super::super::answer::ScoredDocument;
    use super::*;

    #[test]
    fn an_answer_is_carried_back_to_the_candidates() {
        let row = |index, score, cut| ScoredDocument { index, score, tokens_read: None, truncated: Some(cut) };
        let answer = Answer {
            documents: vec![row(2, 0.9, false), row(0, 0.5, true), row(1, 0.1, false)],
            model: None,
            prompt_tokens: Some(8),
            latency: Duration::from_millis(1),
            retries: 0,
            timing: None,
        };
        let pass = in_candidates(answer, &[1, 2, 0]);
        assert_eq!(pass.ranking, [0, 1, 2]);
        assert_eq!(pass.scores, [0.9, 0.5, 0.1]);
        assert_eq!(pass.positions, [2, 0, 1]);
        assert_eq!((pass.truncated, pass.tokens_read), (Some(vec![false, true, false]), None));
    }
}
