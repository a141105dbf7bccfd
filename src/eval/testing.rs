//! A small set and its results, written by hand, for unit tests.

use std::path::Path;
use std::time::Duration;

use super::datasets::{Dataset, Document, FirstStage, Grades, LeftOut, Query};
use super::measures::Measure;
use super::report::{Report, SCHEMA, SystemFacts};
use super::run::{Pass, QueryRun};
use super::settings::EvalSettings;
use super::summary::summarize;
use crate::rerank::Mode;

/// Settings for the first four candidates in two orders.
pub(super) fn settings() -> EvalSettings {
    EvalSettings {
        measures: Measure::defaults(10),
        top: 4,
        orders: 2,
        seed: 1,
        queries: None,
        instruction: None,
        mode: Mode::Auto,
        max_tokens_per_doc: None,
        ignore_identical_ids: false,
        concurrency: 1,
        run: None,
        early_exit: None,
        top_n: None,
        stop_when_sure: None,
    }
}

/// A set of six documents. Every query has the first five as candidates, in order; only the third
/// is relevant.
pub(super) fn set(name: &str, queries: usize) -> Dataset {
    let document = |place: usize| Document { id: format!("d{place}"), text: format!("text {place}") };
    let query = |number: usize| Query {
        id: format!("q{number}"),
        text: format!("query {number}"),
        instruction: None,
        grades: Grades::from([(2, 1.0), (3, 0.0)]),
        candidates: vec![0, 1, 2, 3, 4],
    };
    Dataset {
        name: name.to_owned(),
        source: Path::new("/sets").join(name).display().to_string(),
        documents: (0..6).map(document).collect(),
        corpus_size: 6,
        queries: (0..queries).map(query).collect(),
        first_stage: FirstStage::FileOrder,
        left_out: LeftOut::default(),
    }
}

/// A result with these scores and input positions of the candidates. It took 10 ms and 100 tokens;
/// the first candidate is truncated.
pub(super) fn pass(scores: &[f64], positions: &[usize]) -> Pass {
    let mut ranking: Vec<usize> = (0..scores.len()).collect();
    ranking.sort_by(|left, right| scores[*right].total_cmp(&scores[*left]));
    Pass {
        ranking,
        scores: scores.to_vec(),
        positions: positions.to_vec(),
        truncated: Some((0..scores.len()).map(|place| place == 0).collect()),
        tokens_read: Some((0..scores.len()).map(|place| 10 * (place + 1)).collect()),
        prompt_tokens: Some(100),
        latency: Duration::from_millis(10),
        retries: 0,
    }
}

/// The results of a query without an instruction.
pub(super) fn query_run(orders: Vec<Pass>) -> QueryRun {
    QueryRun { instruction: None, orders, plain: None }
}

/// A report on sets of two queries. The relevant document has the given score, the others have 0.5,
/// 0.4 and 0.3.
pub(super) fn report(sets: &[(&str, f64)]) -> Report {
    let summarized = sets.iter().map(|(name, score)| {
        let scores = [0.5, 0.4, *score, 0.3];
        let run = query_run(vec![pass(&scores, &[0, 1, 2, 3]), pass(&scores, &[3, 2, 1, 0])]);
        summarize(&set(name, 2), &[run.clone(), run], &[vec![0, 1, 2, 3], vec![0, 1, 2, 3]], &settings())
    });
    Report {
        schema: SCHEMA,
        podium: "0".to_owned(),
        created_unix_seconds: 0,
        seconds: 1.0,
        system: SystemFacts { name: "m".to_owned(), family: None, device: None, url: None },
        settings: settings(),
        primary: "ndcg@10".to_owned(),
        metrics: settings().measures.iter().map(|measure| measure.name()).collect(),
        sets: summarized.collect(),
    }
}
