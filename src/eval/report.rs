//! The JSON of a run: what `--json` writes, the page shows and the gate compares. Plain data; made in `summary`.
//!
//! Every number is finite. Measures are keyed by their names (`ndcg@10`). A change that breaks readers raises
//! [`SCHEMA`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::calibration::Calibration;
use super::datasets::LeftOut;
use super::settings::EvalSettings;

/// The version of the JSON.
pub const SCHEMA: u32 = 1;

/// Something for each measure, by its name.
pub type ByMeasure<T> = BTreeMap<String, T>;

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Podium's version.
    pub podium: String,
    /// When the report was made.
    pub created_unix_seconds: u64,
    /// How long the run took.
    pub seconds: f64,
    /// What reranked.
    pub system: SystemFacts,
    /// What was asked for.
    pub settings: EvalSettings,
    /// The measure that verdicts rest on.
    pub primary: String,
    /// The measures in the order they are shown in.
    pub metrics: Vec<String>,
    /// The sets.
    pub sets: Vec<SetReport>,
}

/// What reranked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemFacts {
    /// The model's name, or the endpoint's host where it does not tell.
    pub name: String,
    /// The prompt family of a model in this process.
    pub family: Option<String>,
    /// Its device.
    pub device: Option<String>,
    /// The endpoint's address, without secrets.
    pub url: Option<String>,
}

/// A mean over queries with its 95 % interval.
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
    /// Queries that got better.
    pub wins: usize,
    /// Queries that stayed.
    pub ties: usize,
    /// Queries that got worse.
    pub losses: usize,
}

/// Something for the reranked order and the two baselines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Systems<T> {
    /// The system's order: the mean over the input orders.
    pub reranked: T,
    /// The first stage's order.
    pub input: T,
    /// BM25's order of the same candidates.
    pub bm25: T,
}

/// What the reranked order gains over each baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gains {
    /// Over the first stage's order.
    pub input: ByMeasure<Gain>,
    /// Over BM25's.
    pub bm25: ByMeasure<Gain>,
}

/// Whether the primary measure is better than BM25's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The interval of the gain lies above 0.
    Better,
    /// The gain is above 0 and its interval holds 0.
    Unclear,
    /// The gain is 0: as good as BM25.
    Even,
    /// The gain is below 0.
    NotBetter,
}

/// What came out for a set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetReport {
    /// The set's name.
    pub name: String,
    /// Where it was read from.
    pub source: String,
    /// Queries that were evaluated.
    pub queries: usize,
    /// Queries with judged documents of which none is relevant.
    pub queries_without_relevant: usize,
    /// Everything that was left out.
    pub left_out: LeftOut,
    /// Documents of the set.
    pub documents: usize,
    /// Where the candidates came from, in words.
    pub first_stage: String,
    /// The measures of each order.
    pub systems: Systems<ByMeasure<Estimate>>,
    /// Paired differences.
    pub gains: Gains,
    /// Whether reranking pays.
    pub verdict: Verdict,
    /// What the input order does; `None` for a single one.
    pub order: Option<OrderEffect>,
    /// What instructions do; `None` where there is none.
    pub instruction: Option<InstructionEffect>,
    /// Whether scores are probabilities: all documents of the first order.
    pub calibration: Calibration,
    /// Documents that were cut over documents scored, if the system tells.
    pub truncated_share: Option<f64>,
    /// The time of a request as its caller sees it.
    pub latency_ms: Latency,
    /// What was read, if the system tells.
    pub tokens: Option<Tokens>,
    /// Every query.
    pub per_query: Vec<QueryReport>,
    /// The queries that lost most against BM25.
    pub worst: Vec<WorstQuery>,
}

/// What the input order does to the scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderEffect {
    /// How many orders were tried.
    pub orders: usize,
    /// Kendall's tau-b of the scores between orders: each query's mean over the pairs of orders, then over queries.
    /// `None` where no query has scores that differ.
    pub kendall_tau: Option<Agreement>,
    /// Whether a document's place in the input shows in its rank.
    pub position_bias: PositionBias,
}

/// Agreement over queries.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// The mean.
    pub mean: f64,
    /// The 5th percentile: how bad it gets.
    pub p5: f64,
}

/// Input position against output rank, over the shuffled orders.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PositionBias {
    /// Spearman's correlation of input position and output rank within a request, the mean over requests.
    pub spearman: f64,
    /// Position by position, over the requests that have the most frequent number of documents.
    pub curve: Vec<PositionMean>,
}

/// What became of the documents at one input position.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PositionMean {
    /// The position, from 1.
    pub position: usize,
    /// Documents that stood there.
    pub count: usize,
    /// Their mean rank in the output, from 1.
    pub mean_rank: f64,
    /// Their mean score.
    pub mean_score: f64,
}

/// With an instruction against without, over the queries that have one, in the given input order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstructionEffect {
    /// Distinct instructions.
    pub texts: usize,
    /// Queries that have one.
    pub queries: usize,
    /// The measures of both.
    pub systems: InstructionSystems,
    /// Paired differences.
    pub gain: ByMeasure<Gain>,
    /// Kendall's tau-b of the scores with and without, mean over queries; `None` where no query's scores differ.
    pub kendall_tau: Option<f64>,
    /// The share of queries whose first document is another.
    pub first_changed: f64,
}

/// The measures without and with the instruction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstructionSystems {
    /// Without.
    pub plain: ByMeasure<Estimate>,
    /// With.
    pub instructed: ByMeasure<Estimate>,
}

/// Milliseconds a request.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Requests that were timed: every query in every order.
    pub requests: usize,
    /// Repeated requests to a busy server; the waiting is not in the times.
    pub retries: usize,
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// The 95th percentile.
    pub p95: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The slowest.
    pub max: f64,
}

/// What the system read.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Tokens {
    /// Tokens sent through the model, prompts included.
    pub per_request: Distribution,
    /// Tokens read of a document; where the system does not tell, a request's tokens over its documents.
    pub per_document: Distribution,
    /// Tokens of all requests over their time.
    pub per_second: f64,
}

/// A few numbers for many.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// The 95th percentile.
    pub p95: f64,
    /// The largest.
    pub max: f64,
}

/// One query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueryReport {
    /// Its id.
    pub id: String,
    /// What was searched for.
    pub query: String,
    /// The instruction it came with.
    pub instruction: Option<String>,
    /// Documents that were reranked.
    pub documents: usize,
    /// Relevant documents that are known, reranked or not.
    pub relevant: usize,
    /// Tokens of the first order's request, if the system tells.
    pub tokens: Option<usize>,
    /// Mean time of its requests; 0 for a query without documents.
    pub latency_ms: f64,
    /// Documents that were cut in the first order, if the system tells.
    pub truncated: Option<usize>,
    /// The measures of each order.
    pub scores: Systems<ByMeasure<f64>>,
}

/// A query that lost against BM25, with the documents that show why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorstQuery {
    /// Its id.
    pub id: String,
    /// What was searched for.
    pub query: String,
    /// The instruction it came with.
    pub instruction: Option<String>,
    /// The primary measure less BM25's: below 0.
    pub gain: f64,
    /// The first documents of the first order, and the relevant candidates, by rank.
    pub documents: Vec<WorstDocument>,
}

/// A document of such a query. Ranks are from 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorstDocument {
    /// Its id.
    pub id: String,
    /// The start of its text.
    pub text: String,
    /// Its grade; `None` if it is not judged.
    pub grade: Option<f64>,
    /// Its rank as reranked.
    pub rank: usize,
    /// Its rank in the first stage.
    pub input_rank: usize,
    /// Its rank by BM25 among the candidates.
    pub bm25_rank: usize,
    /// Its relevance score.
    pub score: f64,
    /// Whether it was cut, if the system tells.
    pub truncated: Option<bool>,
}
