//! The quality gate for CI: compares a run with an earlier report (the baseline) by one measure,
//! and fails if it dropped by more than a tolerance.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::datasets::Dataset;
use super::measures::Measure;
use super::report::{Estimate, Report, SCHEMA};
use super::settings::EvalSettings;

/// Tolerance for rounding: sums in another order differ by less.
const ROUNDING: f64 = 1e-12;

/// The parts of the earlier report that the gate reads.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Baseline {
    settings: EvalSettings,
    sets: Vec<BaselineSet>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct BaselineSet {
    name: String,
    systems: BaselineSystems,
    per_query: Vec<BaselineQuery>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct BaselineSystems {
    reranked: BTreeMap<String, Estimate>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct BaselineQuery {
    id: String,
}

/// A baseline, with the measure and the tolerance to compare by.
#[derive(Debug, Clone, PartialEq)]
pub struct Gate {
    path: PathBuf,
    baseline: Baseline,
    metric: String,
    max_drop: f64,
}

/// One set in the baseline and now.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The set.
    pub set: String,
    /// The measure.
    pub metric: String,
    /// Its mean in the baseline.
    pub baseline: f64,
    /// Its mean now.
    pub current: f64,
    /// Whether it dropped by more than the tolerance.
    pub failed: bool,
}

impl Comparison {
    /// The drop; negative if the measure rose.
    #[must_use]
    pub fn drop(&self) -> f64 {
        self.baseline - self.current
    }
}

/// The reason why a run cannot be compared with a baseline.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The file cannot be read.
    #[error("cannot read the baseline {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        cause: io::Error,
    },
    /// The file is not a report of this version.
    #[error("the baseline {} is not a report of this version: {problem}", path.display())]
    NotAReport {
        /// The file.
        path: PathBuf,
        /// The problem.
        problem: String,
    },
    /// The baseline has other settings, sets, queries or measures.
    #[error("the baseline {} cannot be compared: {problem}", path.display())]
    Incompatible {
        /// The file.
        path: PathBuf,
        /// The difference, with both values.
        problem: String,
    },
}

impl Gate {
    /// Reads a baseline. `metric` is a measure's name, or its start (`ndcg` for `ndcg@10`).
    ///
    /// # Errors
    /// [`GateError::Unreadable`] or [`GateError::NotAReport`].
    pub fn read(path: &Path, metric: &str, max_drop: f64) -> Result<Self, GateError> {
        let text =
            std::fs::read_to_string(path).map_err(|cause| GateError::Unreadable { path: path.to_owned(), cause })?;
        let invalid = |problem: String| GateError::NotAReport { path: path.to_owned(), problem };
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
        match value.get("schema").and_then(serde_json::Value::as_u64) {
            Some(schema) if schema == u64::from(SCHEMA) => {}
            Some(schema) => return Err(invalid(format!("its schema is {schema}, not {SCHEMA}"))),
            None => return Err(invalid("the field schema is missing".to_owned())),
        }
        let baseline = serde_json::from_value(value).map_err(|error| invalid(error.to_string()))?;
        Ok(Self { path: path.to_owned(), baseline, metric: metric.to_owned(), max_drop })
    }

    /// Checks, before a run, that its settings and queries are those of the baseline.
    ///
    /// # Errors
    /// [`GateError::Incompatible`] if a setting, a set or the queries of a set differ.
    pub fn check(&self, settings: &EvalSettings, sets: &[Dataset]) -> Result<(), GateError> {
        let baseline = &self.baseline.settings;
        let count = |value: &Option<usize>| value.map_or_else(|| "all".to_owned(), |count| count.to_string());
        let list = |measures: &[Measure]| measures.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let name = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        for (setting, expected, given) in [
            ("measures", list(&baseline.measures), list(&settings.measures)),
            ("top", baseline.top.to_string(), settings.top.to_string()),
            ("orders", baseline.orders.to_string(), settings.orders.to_string()),
            ("seed", baseline.seed.to_string(), settings.seed.to_string()),
            (
                "ignore_identical_ids",
                baseline.ignore_identical_ids.to_string(),
                settings.ignore_identical_ids.to_string(),
            ),
            ("queries", count(&baseline.queries), count(&settings.queries)),
            ("run", name(&baseline.run), name(&settings.run)),
        ] {
            if expected != given {
                return Err(self.incompatible(format!("{setting} is {given}, but {expected} in the baseline")));
            }
        }
        for baseline in &self.baseline.sets {
            let Some(set) = sets.iter().find(|set| set.name == baseline.name) else {
                return Err(self.incompatible(format!("the set {} is only in the baseline", baseline.name)));
            };
            if !set.queries.iter().map(|query| &query.id).eq(baseline.per_query.iter().map(|query| &query.id)) {
                let (expected, given) = (baseline.per_query.len(), set.queries.len());
                return Err(self.incompatible(format!(
                    "the set {} has other queries: {given} now, {expected} in the baseline",
                    baseline.name
                )));
            }
        }
        Ok(())
    }

    /// Compares every set of the baseline with the report of this run.
    ///
    /// # Errors
    /// [`GateError::Incompatible`] if the report lacks a set or a measure of the baseline, or the
    /// other way round.
    pub fn compare(&self, report: &Report) -> Result<Vec<Comparison>, GateError> {
        let metric =
            report.metrics.iter().find(|name| **name == self.metric || name.split('@').next() == Some(&self.metric));
        let metric = metric.ok_or_else(|| {
            self.incompatible(format!(
                "the measure {} is unknown; the report has {}",
                self.metric,
                report.metrics.join(", ")
            ))
        })?;
        let compare = |baseline: &BaselineSet| {
            let missing =
                |report: &str| self.incompatible(format!("{report} has no {metric} for the set {}", baseline.name));
            let before = baseline.systems.reranked.get(metric).ok_or_else(|| missing("the baseline"))?.mean;
            let now = report.sets.iter().find(|set| set.name == baseline.name);
            let now = now.and_then(|set| set.systems.reranked.get(metric)).ok_or_else(|| missing("this run"))?.mean;
            let failed = before - now > self.max_drop + ROUNDING;
            Ok(Comparison {
                set: baseline.name.clone(),
                metric: metric.clone(),
                baseline: before,
                current: now,
                failed,
            })
        };
        self.baseline.sets.iter().map(compare).collect()
    }

    fn incompatible(&self, problem: String) -> GateError {
        GateError::Incompatible { path: self.path.clone(), problem }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{report, set, settings};
    use super::*;

    fn file(content: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        file
    }

    /// A gate whose baseline has the sets `a` and `b`; their relevant documents have this score.
    fn gate(score: f64, metric: &str, max_drop: f64) -> Gate {
        let json = serde_json::to_string(&report(&[("a", score), ("b", score)])).unwrap();
        Gate::read(file(&json).path(), metric, max_drop).unwrap()
    }

    #[test]
    fn a_drop_above_the_tolerance_fails() {
        // The relevant document moves from rank 1 to rank 2: the reciprocal rank falls from 1 to
        // 1/2.
        let now = report(&[("a", 0.9), ("b", 0.45), ("new", 0.0)]);
        let compared = gate(0.9, "mrr", 0.01).compare(&now).unwrap();
        let found: Vec<_> = compared.iter().map(|set| (set.set.as_str(), set.metric.as_str(), set.failed)).collect();
        assert_eq!(found, [("a", "mrr@10", false), ("b", "mrr@10", true)]);
        assert!((compared[1].baseline - 1.0).abs() < 1e-12 && (compared[1].current - 0.5).abs() < 1e-12);
        assert!((compared[1].drop() - 0.5).abs() < 1e-12);
    }

    #[test]
    fn a_drop_within_the_tolerance_and_a_rise_pass() {
        let fell = gate(0.9, "mrr@10", 0.5).compare(&report(&[("a", 0.45), ("b", 0.9)])).unwrap();
        assert!(fell.iter().all(|set| !set.failed), "{fell:?}");
        let rose = gate(0.45, "ndcg", 0.0).compare(&report(&[("a", 0.9), ("b", 0.45)])).unwrap();
        assert!(rose.iter().all(|set| !set.failed) && rose[0].drop() < 0.0, "{rose:?}");
    }

    #[test]
    fn other_settings_sets_or_queries_are_an_error() {
        let gate = gate(0.9, "ndcg", 0.01);
        let problem = |settings: &EvalSettings, sets: &[Dataset]| {
            let message = gate.check(settings, sets).unwrap_err().to_string();
            message.split_once("cannot be compared: ").unwrap().1.to_owned()
        };
        let sets = [set("a", 2), set("b", 2), set("new", 2)];
        gate.check(&settings(), &sets).unwrap();
        gate.check(&EvalSettings { instruction: Some("i".to_owned()), ..settings() }, &sets).unwrap();
        for (changed, message) in [
            (
                EvalSettings { measures: vec![Measure::Map], ..settings() },
                "measures is MAP, but nDCG@10 MRR@10 Hit@10 Recall@10 MAP in the baseline",
            ),
            (
                EvalSettings { ignore_identical_ids: true, ..settings() },
                "ignore_identical_ids is true, but false in the baseline",
            ),
            (EvalSettings { top: 9, ..settings() }, "top is 9, but 4 in the baseline"),
            (EvalSettings { orders: 1, ..settings() }, "orders is 1, but 2 in the baseline"),
            (EvalSettings { seed: 2, ..settings() }, "seed is 2, but 1 in the baseline"),
            (EvalSettings { queries: Some(3), ..settings() }, "queries is 3, but all in the baseline"),
            (EvalSettings { run: Some("r".to_owned()), ..settings() }, "run is r, but none in the baseline"),
        ] {
            assert_eq!(problem(&changed, &sets), message);
        }
        assert_eq!(problem(&settings(), &sets[..1]), "the set b is only in the baseline");
        assert_eq!(
            problem(&settings(), &[set("a", 3), set("b", 2)]),
            "the set a has other queries: 3 now, 2 in the baseline"
        );
    }

    #[test]
    fn a_file_that_is_not_a_report_is_refused() {
        for (content, message) in [
            ("{}", "the field schema is missing"),
            (r#"{"schema": 1}"#, "its schema is 1, not 2"),
            (r#"{"schema": 2}"#, "missing field `settings`"),
            ("[", "EOF while parsing a list at line 1 column 1"),
        ] {
            let error = Gate::read(file(content).path(), "ndcg", 0.01).unwrap_err().to_string();
            assert!(error.ends_with(&format!(" is not a report of this version: {message}")), "{error}");
        }
        let missing = Gate::read(Path::new("/no/such.json"), "ndcg", 0.01).unwrap_err().to_string();
        assert_eq!(missing, "cannot read the baseline /no/such.json");
    }

    #[test]
    fn an_unknown_measure_is_an_error() {
        let error = gate(0.9, "ndcg@5", 0.01).compare(&report(&[("a", 0.9), ("b", 0.9)])).unwrap_err().to_string();
        assert!(
            error.ends_with("the measure ndcg@5 is unknown; the report has ndcg@10, mrr@10, hit@10, recall@10, map"),
            "{error}"
        );
    }
}
