//! The report of a run: plain data that `summary` computes, `--json` writes, the page shows and the
//! gate compares.
//!
//! Every number is finite. Measures are keyed by name (`ndcg@10`). A change that breaks readers of
//! the JSON raises [`SCHEMA`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::calibration::Calibration;
use super::datasets::LeftOut;
use super::settings::EvalSettings;

/// The version of the JSON format.
pub const SCHEMA: u32 = 2;

/// A value for each measure, by the measure's name.
pub type ByMeasure<T> = BTreeMap<String, T>;

/// The report of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Podium's version.
    pub podium: String,
    /// When the report was created.
    pub created_unix_seconds: u64,
    /// How long the run took.
    pub seconds: f64,
    /// The system that was evaluated.
    pub system: SystemFacts,
    /// The settings of the run.
    pub settings: EvalSettings,
    /// The measure that decides the verdicts.
    pub primary: String,
    /// The names of the measures, in display order.
    pub metrics: Vec<String>,
    /// The results, one for each set.
    pub sets: Vec<SetReport>,
}

/// The system that was evaluated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemFacts {
    /// The model's name, or the endpoint's host if it does not report a name.
    pub name: String,
    /// The prompt family; `None` for an endpoint.
    pub family: Option<String>,
    /// The device; `None` for an endpoint.
    pub device: Option<String>,
    /// The endpoint's URL, without secrets.
    pub url: Option<String>,
}

/// A mean over queries with its 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
}

/// The mean of paired differences over queries.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Gain {
    /// The mean difference with its interval.
    #[serde(flatten)]
    pub estimate: Estimate,
    /// The two-sided p value of the randomisation test.
    pub p: f64,
    /// Number of queries with a positive difference.
    pub wins: usize,
    /// Number of queries without a difference.
    pub ties: usize,
    /// Number of queries with a negative difference.
    pub losses: usize,
}

/// A value for the reranked order and for the two baselines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Systems<T> {
    /// The order of the evaluated system; the mean over the input orders.
    pub reranked: T,
    /// The first stage's order.
    pub input: T,
    /// BM25's order of the same candidates.
    pub bm25: T,
}

/// The gain of the reranked order over each baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gains {
    /// Over the first stage's order.
    pub input: ByMeasure<Gain>,
    /// Over BM25's order.
    pub bm25: ByMeasure<Gain>,
}

/// Whether the reranked order beats BM25 by the primary measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The whole interval of the gain is above 0.
    Better,
    /// The gain is above 0, but its interval contains 0.
    Unclear,
    /// The gain is 0.
    Even,
    /// The gain is below 0.
    NotBetter,
}

/// The results of one set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetReport {
    /// The set's name.
    pub name: String,
    /// The path that it was read from.
    pub source: String,
    /// Number of evaluated queries.
    pub queries: usize,
    /// Queries with judged documents, none of them relevant. The same as in `left_out`.
    pub queries_without_relevant: usize,
    /// Counts of what was not evaluated.
    pub left_out: LeftOut,
    /// Number of documents in the set.
    pub documents: usize,
    /// Where the candidates came from, as a description.
    pub first_stage: String,
    /// The measures of each order.
    pub systems: Systems<ByMeasure<Estimate>>,
    /// Paired differences between orders.
    pub gains: Gains,
    /// Whether reranking beats BM25.
    pub verdict: Verdict,
    /// The effect of the input order; `None` if there was only one.
    pub order: Option<OrderEffect>,
    /// The effect of the instruction; `None` without one.
    pub instruction: Option<InstructionEffect>,
    /// Calibration of the scores, over all documents of the first input order.
    pub calibration: Calibration,
    /// Share of the scored documents that were truncated, if the system reports it.
    pub truncated_share: Option<f64>,
    /// Latency of a request as the client measures it.
    pub latency_ms: Latency,
    /// Token counts, if the system reports them.
    pub tokens: Option<Tokens>,
    /// The results of every query.
    pub per_query: Vec<QueryReport>,
    /// The queries with the largest losses against BM25.
    pub worst: Vec<ExampleQuery>,
    /// The queries with the largest gains over BM25. Earlier reports lack it.
    #[serde(default)]
    pub best: Vec<ExampleQuery>,
}

/// The effect of the input order on scores and ranks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderEffect {
    /// Number of input orders.
    pub orders: usize,
    /// Kendall's tau-b between the scores of two orders: the mean over the pairs of orders of a
    /// query, then over queries. `None` if no query has differing scores.
    pub kendall_tau: Option<Agreement>,
    /// How much a document's input position determines its rank.
    pub position_bias: PositionBias,
}

/// Rank correlation over queries.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// The mean.
    pub mean: f64,
    /// The 5th percentile.
    pub p5: f64,
}

/// Position bias: input position against output rank, over the shuffled orders.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PositionBias {
    /// Spearman's correlation of input position and output rank in a request; the mean over
    /// requests.
    pub spearman: f64,
    /// Means by input position, over the requests with the most frequent number of documents.
    pub curve: Vec<PositionMean>,
}

/// Means over the documents at one input position.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PositionMean {
    /// The input position, from 1.
    pub position: usize,
    /// Number of documents at this position.
    pub count: usize,
    /// Their mean rank in the output, from 1.
    pub mean_rank: f64,
    /// Their mean score.
    pub mean_score: f64,
}

/// Results with and without the instruction, over the queries that have one, in the given input
/// order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstructionEffect {
    /// Number of distinct instructions.
    pub texts: usize,
    /// Number of queries with an instruction.
    pub queries: usize,
    /// The measures with and without.
    pub systems: InstructionSystems,
    /// Paired differences between orders.
    pub gain: ByMeasure<Gain>,
    /// Kendall's tau-b between the scores with and without, the mean over queries. `None` if no
    /// query has differing scores.
    pub kendall_tau: Option<f64>,
    /// Share of queries where the instruction changes the first document.
    pub first_changed: f64,
    /// Share of queries whose primary measure the instruction lowers by more than .05.
    pub harmed: f64,
    /// The queries that differ only in their instruction; `None` if there are none.
    pub twins: Option<TwinEffect>,
}

/// Pairs of queries with the same text and candidates, but another instruction and other grades, so
/// that the instruction alone decides.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TwinEffect {
    /// Number of pairs.
    pub pairs: usize,
    /// Share of pairs where both queries have a document of the highest grade first.
    pub both_right: f64,
    /// p-MRR in [-1, 1], the mean over pairs: how far documents fall that one instruction makes
    /// irrelevant (FollowIR, Weller and others 2024). 0 if instructions change nothing. `None` if
    /// no document changes its relevance.
    pub p_mrr: Option<f64>,
}

/// The measures without and with the instruction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstructionSystems {
    /// Without.
    pub plain: ByMeasure<Estimate>,
    /// With.
    pub instructed: ByMeasure<Estimate>,
}

/// Latency of a request, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Number of requests: every query in every order.
    pub requests: usize,
    /// Number of retries because the server was busy. Latencies do not include the waits.
    pub retries: usize,
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// The 95th percentile.
    pub p95: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The maximum.
    pub max: f64,
}

/// Token counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Tokens {
    /// Tokens that passed through the model, prompts included.
    pub per_request: Distribution,
    /// Tokens read of a document. If the system does not report them: the request's tokens divided
    /// by its documents.
    pub per_document: Distribution,
    /// Tokens of all requests, divided by their total latency in seconds.
    pub per_second: f64,
}

/// Summary of a distribution.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// The 95th percentile.
    pub p95: f64,
    /// The maximum.
    pub max: f64,
}

/// The results of one query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueryReport {
    /// Its id.
    pub id: String,
    /// Its text.
    pub query: String,
    /// Its instruction.
    pub instruction: Option<String>,
    /// Number of reranked documents.
    pub documents: usize,
    /// Number of relevant documents, including those that were not reranked.
    pub relevant: usize,
    /// Tokens of the request with the first input order, if the system reports them.
    pub tokens: Option<usize>,
    /// Mean latency of its requests; 0 for a query without candidates.
    pub latency_ms: f64,
    /// Number of documents truncated in the first input order, if the system reports it.
    pub truncated: Option<usize>,
    /// The measures of each order.
    pub scores: Systems<ByMeasure<f64>>,
}

/// A query with a loss or a gain against BM25, and the documents that explain it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExampleQuery {
    /// Its id.
    pub id: String,
    /// Its text.
    pub query: String,
    /// Its instruction.
    pub instruction: Option<String>,
    /// The primary measure minus that of BM25; not 0.
    pub gain: f64,
    /// The top documents and the relevant candidates, ranked as in the first input order.
    pub documents: Vec<ExampleDocument>,
}

/// A document of an [`ExampleQuery`]. Ranks are from 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExampleDocument {
    /// Its id.
    pub id: String,
    /// The first characters of its text.
    pub text: String,
    /// Its grade; `None` if it is unjudged.
    pub grade: Option<f64>,
    /// Its rank after reranking.
    pub rank: usize,
    /// Its rank in the first stage.
    pub input_rank: usize,
    /// Its rank by BM25 among the candidates.
    pub bm25_rank: usize,
    /// Its relevance score.
    pub score: f64,
    /// Whether it was truncated, if the system reports it.
    pub truncated: Option<bool>,
}
