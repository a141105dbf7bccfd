//! Compares the reports of several systems on the same queries: paired differences to the first
//! system, with p values corrected for the number of comparisons.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::price::PriceTable;
use super::report::{Estimate, Gain, Report, SCHEMA, SetReport};
use super::statistics::{holm, mean};
use super::summary::paired_gain;

/// A report cannot be read or compared.
#[derive(Debug, thiserror::Error)]
pub enum ComparisonError {
    /// The file cannot be read.
    #[error("cannot read the report {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        cause: io::Error,
    },
    /// The file is not a report of this version, or not on the queries of the first.
    #[error("the report {} cannot be compared: {problem}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The problem.
        problem: String,
    },
}

/// Several systems on the same sets.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SystemComparison {
    /// The measure.
    pub measure: String,
    /// The names of the systems; the first is the one that the others are compared with.
    pub systems: Vec<String>,
    /// The sets.
    pub sets: Vec<SetComparison>,
    /// Each system's mean over the sets.
    pub means: Vec<f64>,
    /// Quality against cost.
    pub prices: PriceTable,
}

/// Several systems on one set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SetComparison {
    /// The set's name.
    pub name: String,
    /// Number of queries.
    pub queries: usize,
    /// Each system's mean.
    pub estimates: Vec<Estimate>,
    /// The difference of each system but the first to the first, paired by query.
    pub differences: Vec<Difference>,
}

/// A paired difference.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Difference {
    /// The difference, its interval and its p value.
    #[serde(flatten)]
    pub gain: Gain,
    /// The p value after Holm's correction (Holm 1979) for all differences of the comparison.
    pub p_corrected: f64,
}

/// Reads reports and compares them by the primary measure of the first.
///
/// # Errors
/// [`ComparisonError`] if a file is unreadable, not a report of this version, or has other sets,
/// queries or measures than the first.
pub fn compare_reports(paths: &[PathBuf]) -> Result<SystemComparison, ComparisonError> {
    let reports = paths.iter().map(|path| read(path)).collect::<Result<Vec<Report>, _>>()?;
    let Some((first, others)) = reports.split_first() else {
        let problem = "at least one report is needed".to_owned();
        return Err(ComparisonError::Unusable { path: PathBuf::new(), problem });
    };
    for (path, report) in paths.iter().skip(1).zip(others) {
        let unusable = |problem| ComparisonError::Unusable { path: path.clone(), problem };
        check_same_queries(first, report, &first.primary).map_err(unusable)?;
    }
    Ok(compare(names(paths, &reports), first, others))
}

/// Compares the report of a system with others on the same queries, by its primary measure.
/// `systems` are the names of all.
#[must_use]
pub fn compare(systems: Vec<String>, first: &Report, others: &[Report]) -> SystemComparison {
    let measure = first.primary.clone();
    let mut sets: Vec<SetComparison> =
        first.sets.iter().map(|set| compare_set(set, others, &measure, first.settings.seed)).collect();
    let p: Vec<f64> = sets.iter().flat_map(|set| set.differences.iter().map(|found| found.gain.p)).collect();
    let all = sets.iter_mut().flat_map(|set| set.differences.iter_mut());
    for (difference, corrected) in all.zip(holm(&p)) {
        difference.p_corrected = corrected;
    }
    let over_sets = |system: usize| mean(&sets.iter().map(|set| set.estimates[system].mean).collect::<Vec<_>>());
    let means: Vec<f64> = (0..=others.len()).map(over_sets).collect();
    let prices = PriceTable::new(&systems, &means, std::iter::once(first).chain(others));
    SystemComparison { measure, systems, sets, means, prices }
}

fn read(path: &Path) -> Result<Report, ComparisonError> {
    let text =
        std::fs::read_to_string(path).map_err(|cause| ComparisonError::Unreadable { path: path.to_owned(), cause })?;
    let unusable = |problem: String| ComparisonError::Unusable { path: path.to_owned(), problem };
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| unusable(error.to_string()))?;
    match value.get("schema").and_then(serde_json::Value::as_u64) {
        Some(schema) if schema == u64::from(SCHEMA) => {}
        Some(schema) => return Err(unusable(format!("its schema is {schema}, not {SCHEMA}"))),
        None => return Err(unusable("the field schema is missing".to_owned())),
    }
    serde_json::from_value(value).map_err(|error| unusable(error.to_string()))
}

fn check_same_queries(first: &Report, other: &Report, measure: &str) -> Result<(), String> {
    if !other.metrics.iter().any(|name| name == measure) {
        return Err(format!("it lacks the measure {measure}; it has {}", other.metrics.join(", ")));
    }
    for set in &first.sets {
        let Some(found) = other.sets.iter().find(|other| other.name == set.name) else {
            return Err(format!("it lacks the set {}", set.name));
        };
        if !set.per_query.iter().map(|query| &query.id).eq(found.per_query.iter().map(|query| &query.id)) {
            let (here, there) = (found.queries, set.queries);
            return Err(format!("its {here} queries of the set {} are not the {there} of the first report", set.name));
        }
    }
    Ok(())
}

fn compare_set(set: &SetReport, others: &[Report], measure: &str, seed: u64) -> SetComparison {
    let values =
        |set: &SetReport| -> Vec<f64> { set.per_query.iter().map(|query| query.scores.reranked[measure]).collect() };
    let base = values(set);
    let (mut estimates, mut differences) = (vec![set.systems.reranked[measure]], Vec::new());
    let others = others.iter().filter_map(|report| report.sets.iter().find(|other| other.name == set.name));
    for other in others {
        let paired: Vec<f64> = values(other).iter().zip(&base).map(|(other, base)| other - base).collect();
        estimates.push(other.systems.reranked[measure]);
        differences.push(Difference { gain: paired_gain(&paired, seed), p_corrected: 1.0 });
    }
    SetComparison { name: set.name.clone(), queries: set.queries, estimates, differences }
}

/// The names of the systems; with the name of the file where several have the same.
fn names(paths: &[PathBuf], reports: &[Report]) -> Vec<String> {
    let mut count: HashMap<&str, usize> = HashMap::new();
    for report in reports {
        *count.entry(&report.system.name).or_default() += 1;
    }
    let name = |(path, report): (&PathBuf, &Report)| {
        let name = &report.system.name;
        if count[name.as_str()] == 1 { name.clone() } else { format!("{name} ({})", path.display()) }
    };
    paths.iter().zip(reports).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::report;
    use super::*;

    fn written(folder: &Path, name: &str, report: &Report) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, serde_json::to_string(report).unwrap()).unwrap();
        path
    }

    #[test]
    fn systems_are_compared_with_the_first_and_p_values_are_corrected() {
        let folder = tempfile::tempdir().unwrap();
        let good = written(folder.path(), "good.json", &report(&[("a", 0.9), ("b", 0.9)]));
        let bad = written(folder.path(), "bad.json", &report(&[("b", 0.45), ("a", 0.9)]));
        let found = compare_reports(&[good.clone(), bad.clone()]).unwrap();
        assert_eq!(found.systems, [format!("m ({})", good.display()), format!("m ({})", bad.display())]);
        let [a, b] = &found.sets[..] else { panic!() };
        assert!(
            a.differences[0].gain.estimate.mean.abs() < 1e-12 && (a.differences[0].p_corrected - 1.0).abs() < 1e-12
        );
        let fell = b.differences[0].gain;
        assert_eq!((fell.wins, fell.ties, fell.losses), (0, 0, 2));
        assert!((fell.estimate.mean - (1.0 / 3_f64.log2() - 1.0)).abs() < 1e-12);
        assert!((fell.p - 0.5).abs() < 1e-12 && (b.differences[0].p_corrected - 1.0).abs() < 1e-12);
        assert!((found.means[1] - f64::midpoint(1.0, 1.0 / 3_f64.log2())).abs() < 1e-12);
    }

    #[test]
    fn reports_on_other_sets_queries_or_measures_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let first = written(folder.path(), "first.json", &report(&[("a", 0.9), ("b", 0.9)]));
        let problem = |other: &Report| {
            let other = written(folder.path(), "other.json", other);
            let message = compare_reports(&[first.clone(), other]).unwrap_err().to_string();
            message.split_once("cannot be compared: ").unwrap().1.to_owned()
        };
        assert_eq!(problem(&report(&[("a", 0.9)])), "it lacks the set b");
        let mut other = report(&[("a", 0.9), ("b", 0.9)]);
        other.sets[0].per_query[0].id = "x".to_owned();
        assert_eq!(problem(&other), "its 2 queries of the set a are not the 2 of the first report");
        other.metrics = vec!["map".to_owned()];
        assert_eq!(problem(&other), "it lacks the measure ndcg@10; it has map");
        std::fs::write(folder.path().join("none.json"), "{}").unwrap();
        let none = compare_reports(&[folder.path().join("none.json")]).unwrap_err().to_string();
        assert!(none.ends_with("cannot be compared: the field schema is missing"), "{none}");
    }
}
