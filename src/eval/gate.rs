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
