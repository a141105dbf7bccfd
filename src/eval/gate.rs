//! Whether a run is worse than an earlier one, for CI: two reports, one measure, one tolerance.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::datasets::Dataset;
use super::report::{Estimate, Report, SCHEMA};
use super::settings::EvalSettings;

/// Drops that differ by less are the same: the JSON's numbers in another order of summing.
const ROUNDING: f64 = 1e-12;

/// What a gate needs of an earlier report.
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

/// An earlier report that a run is held against.
#[derive(Debug, Clone, PartialEq)]
pub struct Gate {
    path: PathBuf,
    baseline: Baseline,
    metric: String,
    max_drop: f64,
}

/// One set, then and now.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The set.
    pub set: String,
    /// The measure.
    pub metric: String,
    /// Its mean in the baseline.
    pub was: f64,
    /// Its mean now.
    pub is: f64,
    /// Whether it fell by more than it may.
    pub failed: bool,
}

impl Comparison {
    /// How much it fell; below 0 if it rose.
    #[must_use]
    pub fn drop(&self) -> f64 {
        self.was - self.is
    }
}

/// Why a run cannot be held against a baseline.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The file cannot be read.
    #[error("cannot read the baseline {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// The file is no report of this version.
    #[error("the baseline {} is no report: {problem}", path.display())]
    NoReport {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The two runs measured different things.
    #[error("the baseline {} cannot be compared: {problem}", path.display())]
    Different {
        /// The file.
        path: PathBuf,
        /// What differs, with both values.
        problem: String,
    },
}

impl Gate {
    /// Reads a baseline. `metric` is a measure's name, or its start (`ndcg` for `ndcg@10`).
    ///
    /// # Errors
    /// A file that cannot be read or is no report.
    pub fn read(path: &Path, metric: &str, max_drop: f64) -> Result<Self, GateError> {
        let text =
            std::fs::read_to_string(path).map_err(|cause| GateError::Unreadable { path: path.to_owned(), cause })?;
        let refuse = |problem: String| GateError::NoReport { path: path.to_owned(), problem };
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| refuse(error.to_string()))?;
        match value.get("schema").and_then(serde_json::Value::as_u64) {
            Some(schema) if schema == u64::from(SCHEMA) => {}
            Some(schema) => return Err(refuse(format!("its schema is {schema}, not {SCHEMA}"))),
            None => return Err(refuse("it has no schema".to_owned())),
        }
        let baseline = serde_json::from_value(value).map_err(|error| refuse(error.to_string()))?;
        Ok(Self { path: path.to_owned(), baseline, metric: metric.to_owned(), max_drop })
    }

    /// Whether a run of these sets would measure what the baseline measured. To be asked before it runs.
    ///
    /// # Errors
    /// [`GateError::Different`] for other settings, a set that is missing, and a set with other queries.
    pub fn check(&self, settings: &EvalSettings, sets: &[Dataset]) -> Result<(), GateError> {
        let was = &self.baseline.settings;
        let shown = |value: &Option<usize>| value.map_or_else(|| "all".to_owned(), |count| count.to_string());
        let run = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        for (name, was, is) in [
            ("k", was.k.to_string(), settings.k.to_string()),
            ("top", was.top.to_string(), settings.top.to_string()),
            ("orders", was.orders.to_string(), settings.orders.to_string()),
            ("seed", was.seed.to_string(), settings.seed.to_string()),
            ("queries", shown(&was.queries), shown(&settings.queries)),
            ("run", run(&was.run), run(&settings.run)),
        ] {
            if was != is {
                return Err(self.different(format!("{name} was {was} and is {is}")));
            }
        }
        for was in &self.baseline.sets {
            let Some(set) = sets.iter().find(|set| set.name == was.name) else {
                return Err(self.different(format!("the set {} is not run now", was.name)));
            };
            if !set.queries.iter().map(|query| &query.id).eq(was.per_query.iter().map(|query| &query.id)) {
                let (was_count, count) = (was.per_query.len(), set.queries.len());
                return Err(self.different(format!(
                    "the set {} has other queries: there were {was_count}, now there are {count}",
                    was.name
                )));
            }
        }
        Ok(())
    }

    /// Every set of the baseline, then and now.
    ///
    /// # Errors
    /// [`GateError::Different`] for a set or a measure that only one of the two has.
    pub fn compare(&self, report: &Report) -> Result<Vec<Comparison>, GateError> {
        let metric =
            report.metrics.iter().find(|name| **name == self.metric || name.split('@').next() == Some(&self.metric));
        let metric = metric.ok_or_else(|| {
            self.different(format!("there is no measure {}, only {}", self.metric, report.metrics.join(", ")))
        })?;
        let compare = |was: &BaselineSet| {
            let missing = |when: &str| self.different(format!("{when} there is no {metric} of the set {}", was.name));
            let before = was.systems.reranked.get(metric).ok_or_else(|| missing("then"))?.mean;
            let now = report.sets.iter().find(|set| set.name == was.name);
            let now = now.and_then(|set| set.systems.reranked.get(metric)).ok_or_else(|| missing("now"))?.mean;
            let failed = before - now > self.max_drop + ROUNDING;
            Ok(Comparison { set: was.name.clone(), metric: metric.clone(), was: before, is: now, failed })
        };
        self.baseline.sets.iter().map(compare).collect()
    }

    fn different(&self, problem: String) -> GateError {
        GateError::Different { path: self.path.clone(), problem }
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

    /// A gate against a report whose relevant document got this score in the sets `a` and `b`.
    fn gate(score: f64, metric: &str, max_drop: f64) -> Gate {
        let json = serde_json::to_string(&report(&[("a", score), ("b", score)])).unwrap();
        Gate::read(file(&json).path(), metric, max_drop).unwrap()
    }

    #[test]
    fn a_set_that_fell_by_more_than_it_may_fails() {
        // The relevant document moves from rank 1 to rank 2: the reciprocal rank falls from 1 to 1/2.
        let now = report(&[("a", 0.9), ("b", 0.45), ("new", 0.0)]);
        let compared = gate(0.9, "mrr", 0.01).compare(&now).unwrap();
        let found: Vec<_> = compared.iter().map(|set| (set.set.as_str(), set.metric.as_str(), set.failed)).collect();
        assert_eq!(found, [("a", "mrr@10", false), ("b", "mrr@10", true)]);
        assert!((compared[1].was - 1.0).abs() < 1e-12 && (compared[1].is - 0.5).abs() < 1e-12);
        assert!((compared[1].drop() - 0.5).abs() < 1e-12);
    }

    #[test]
    fn a_drop_that_is_allowed_and_a_rise_pass() {
        let fell = gate(0.9, "mrr@10", 0.5).compare(&report(&[("a", 0.45), ("b", 0.9)])).unwrap();
        assert!(fell.iter().all(|set| !set.failed), "{fell:?}");
        let rose = gate(0.45, "ndcg", 0.0).compare(&report(&[("a", 0.9), ("b", 0.45)])).unwrap();
        assert!(rose.iter().all(|set| !set.failed) && rose[0].drop() < 0.0, "{rose:?}");
    }

    #[test]
    fn other_settings_sets_and_queries_are_an_error_and_no_pass() {
        let gate = gate(0.9, "ndcg", 0.01);
        let problem = |settings: &EvalSettings, sets: &[Dataset]| {
            let message = gate.check(settings, sets).unwrap_err().to_string();
            message.split_once("cannot be compared: ").unwrap().1.to_owned()
        };
        let sets = [set("a", 2), set("b", 2), set("new", 2)];
        gate.check(&settings(), &sets).unwrap();
        gate.check(&EvalSettings { instruction: Some("i".to_owned()), ..settings() }, &sets).unwrap();
        for (changed, message) in [
            (EvalSettings { k: 5, ..settings() }, "k was 10 and is 5"),
            (EvalSettings { top: 9, ..settings() }, "top was 4 and is 9"),
            (EvalSettings { orders: 1, ..settings() }, "orders was 2 and is 1"),
            (EvalSettings { seed: 2, ..settings() }, "seed was 1 and is 2"),
            (EvalSettings { queries: Some(3), ..settings() }, "queries was all and is 3"),
            (EvalSettings { run: Some("r".to_owned()), ..settings() }, "run was none and is r"),
        ] {
            assert_eq!(problem(&changed, &sets), message);
        }
        assert_eq!(problem(&settings(), &sets[..1]), "the set b is not run now");
        assert_eq!(
            problem(&settings(), &[set("a", 3), set("b", 2)]),
            "the set a has other queries: there were 2, now there are 3"
        );
    }

    #[test]
    fn what_is_no_report_is_refused() {
        for (content, message) in [
            ("{}", "it has no schema"),
            (r#"{"schema": 2}"#, "its schema is 2, not 1"),
            (r#"{"schema": 1}"#, "missing field `settings`"),
            ("[", "EOF while parsing a list at line 1 column 1"),
        ] {
            let error = Gate::read(file(content).path(), "ndcg", 0.01).unwrap_err().to_string();
            assert!(error.ends_with(&format!(" is no report: {message}")), "{error}");
        }
        let missing = Gate::read(Path::new("/no/such.json"), "ndcg", 0.01).unwrap_err().to_string();
        assert_eq!(missing, "cannot read the baseline /no/such.json");
    }

    #[test]
    fn a_measure_that_is_not_there_is_an_error() {
        let error = gate(0.9, "ndcg@5", 0.01).compare(&report(&[("a", 0.9), ("b", 0.9)])).unwrap_err().to_string();
        assert!(error.ends_with("there is no measure ndcg@5, only ndcg@10, mrr@10, hit@10, recall@10, map"), "{error}");
    }
}
