//! Compares a run with an earlier JSON report, case by case.

use std::io;
use std::path::{Path, PathBuf};

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use super::report::{CaseReport, Report, SCHEMA};
use crate::eval::statistics::quantile;

/// Number of resamples for the interval of a ratio.
const RESAMPLES: usize = 2_000;

/// Ratios within this distance of 1 are not called a difference, however sure they are.
const MARGIN: f64 = 0.02;

/// The parts of an earlier report that are compared.
#[derive(Debug, Clone, Deserialize)]
pub struct Baseline {
    machine: BaselineMachine,
    system: BaselineSystem,
    cases: Vec<BaselineCase>,
}

#[derive(Debug, Clone, Deserialize)]
struct BaselineMachine {
    product_rate: Option<f64>,
    processor: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct BaselineSystem {
    name: String,
}

#[derive(Debug, Clone, Deserialize)]
struct BaselineCase {
    route: String,
    documents: f64,
    tokens_asked: Option<String>,
    concurrency: usize,
    latency_ms: BaselineLatency,
}

#[derive(Debug, Clone, Deserialize)]
struct BaselineLatency {
    samples: Vec<f64>,
}

/// The earlier report cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    /// The file cannot be read.
    #[error("cannot read the report {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        cause: io::Error,
    },
    /// The file is not a report of this version.
    #[error("{} is not a bench report of this version: {problem}", path.display())]
    NotAReport {
        /// The file.
        path: PathBuf,
        /// The problem.
        problem: String,
    },
}

/// Whether a case became faster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The whole interval lies below 1, and the ratio is below .98.
    Faster,
    /// Neither faster nor slower.
    Same,
    /// The whole interval lies above 1, and the ratio is above 1.02.
    Slower,
}

/// A case in both reports.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CaseComparison {
    /// `in-process`, `http` or `url`.
    pub route: String,
    /// Documents in a request.
    pub documents: f64,
    /// Requested tokens of a document.
    pub tokens_asked: Option<String>,
    /// Number of clients.
    pub concurrency: usize,
    /// Median latency before, in milliseconds.
    pub before_ms: f64,
    /// Median latency now, in milliseconds.
    pub now_ms: f64,
    /// `now_ms` / `before_ms`.
    pub ratio: f64,
    /// The 95 % interval of the ratio, by the bootstrap over requests.
    pub interval: (f64, f64),
    /// Whether it became faster.
    pub verdict: Verdict,
}

/// A run beside an earlier one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BenchComparison {
    /// The model of the earlier report.
    pub before: String,
    /// The cases of both reports.
    pub cases: Vec<CaseComparison>,
    /// Number of cases of this run that the earlier report lacks.
    pub only_now: usize,
    /// Differences that make the reports less comparable: another processor, another speed of the
    /// machine.
    pub remarks: Vec<String>,
}

impl Baseline {
    /// Reads a report.
    ///
    /// # Errors
    /// [`BaselineError`] if the file is unreadable or not a report of this version.
    pub fn read(path: &Path) -> Result<Self, BaselineError> {
        let text = std::fs::read_to_string(path)
            .map_err(|cause| BaselineError::Unreadable { path: path.to_owned(), cause })?;
        let invalid = |problem: String| BaselineError::NotAReport { path: path.to_owned(), problem };
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
        match value.get("schema").and_then(serde_json::Value::as_u64) {
            Some(schema) if schema == u64::from(SCHEMA) => {}
            Some(schema) => return Err(invalid(format!("its schema is {schema}, not {SCHEMA}"))),
            None => return Err(invalid("the field schema is missing".to_owned())),
        }
        serde_json::from_value(value).map_err(|error| invalid(error.to_string()))
    }

    /// Compares the latencies of every case that both reports have.
    #[must_use]
    pub fn compare(&self, report: &Report) -> BenchComparison {
        let found = |case: &CaseReport| {
            self.cases.iter().find(|before| {
                before.route == case.route
                    && before.tokens_asked == case.tokens_asked
                    && before.concurrency == case.concurrency
                    && (before.documents - case.documents).abs() < 1e-9
            })
        };
        let pairs: Vec<_> = report.cases.iter().map(|case| (case, found(case))).collect();
        let cases = pairs.iter().filter_map(|(case, before)| {
            Some(compare_case(case, &before.as_ref()?.latency_ms.samples, report.settings.seed))
        });
        BenchComparison {
            before: self.system.name.clone(),
            cases: cases.collect(),
            only_now: pairs.iter().filter(|(_, before)| before.is_none()).count(),
            remarks: self.remarks(report),
        }
    }

    fn remarks(&self, report: &Report) -> Vec<String> {
        let mut remarks = Vec::new();
        if self.machine.processor != report.machine.processor {
            let name =
                |processor: &Option<String>| processor.clone().unwrap_or_else(|| "an unknown processor".to_owned());
            let (before, now) = (name(&self.machine.processor), name(&report.machine.processor));
            remarks.push(format!("another machine: {before} before, {now} now"));
        }
        if let (Some(before), Some(now)) = (self.machine.product_rate, report.machine.product_rate)
            && (now / before - 1.0).abs() > 0.1
        {
            remarks.push(format!(
                "the machine's own speed differs: a large product ran at {:.0} GFLOP/s before, {:.0} now",
                before / 1e9,
                now / 1e9
            ));
        }
        remarks
    }
}

fn compare_case(case: &CaseReport, before: &[f64], seed: u64) -> CaseComparison {
    let now = &case.latency_ms.samples;
    let (before_ms, now_ms) = (quantile(before, 0.5), quantile(now, 0.5));
    let interval = ratio_interval(before, now, seed);
    let ratio = if before_ms > 0.0 { now_ms / before_ms } else { 1.0 };
    let verdict = if interval.1 < 1.0 && ratio < 1.0 - MARGIN {
        Verdict::Faster
    } else if interval.0 > 1.0 && ratio > 1.0 + MARGIN {
        Verdict::Slower
    } else {
        Verdict::Same
    };
    CaseComparison {
        route: case.route.to_owned(),
        documents: case.documents,
        tokens_asked: case.tokens_asked.clone(),
        concurrency: case.concurrency,
        before_ms,
        now_ms,
        ratio,
        interval,
        verdict,
    }
}

/// The 95 % interval of the ratio of two medians: both lists are resampled (percentile bootstrap).
fn ratio_interval(before: &[f64], now: &[f64], seed: u64) -> (f64, f64) {
    if before.is_empty() || now.is_empty() {
        return (1.0, 1.0);
    }
    let mut generator = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut resampled_median = |values: &[f64]| {
        let drawn: Vec<f64> = values.iter().map(|_| values[generator.random_range(0..values.len())]).collect();
        quantile(&drawn, 0.5)
    };
    let ratios: Vec<f64> = (0..RESAMPLES).map(|_| resampled_median(now) / resampled_median(before).max(1e-9)).collect();
    (quantile(&ratios, 0.025), quantile(&ratios, 0.975))
}

#[cfg(test)]
mod tests {
    use super::super::latency::Latency;
    use super::*;

    fn case(samples: Vec<f64>) -> CaseReport {
        CaseReport {
            route: "http",
            documents: 4.0,
            tokens_asked: Some("8".to_owned()),
            tokens_per_document: None,
            tokens_per_request: None,
            concurrency: 1,
            requests: samples.len(),
            seconds: 1.0,
            requests_per_second: 1.0,
            documents_per_second: 1.0,
            tokens_per_second: None,
            latency_ms: Latency::from_samples(samples),
            parts_ms: None,
            operations_per_second: None,
            product_share: None,
            peak_bytes: None,
            truncated_documents: 0,
            retries: 0,
        }
    }

    #[test]
    fn a_difference_needs_a_sure_interval_and_two_percent() {
        let around = |middle: f64| -> Vec<f64> { (0..40).map(|n| middle + f64::from(n % 5) - 2.0).collect() };
        let verdict = |before: f64, now: f64| compare_case(&case(around(now)), &around(before), 1).verdict;
        assert_eq!(verdict(100.0, 80.0), Verdict::Faster);
        assert_eq!(verdict(80.0, 100.0), Verdict::Slower);
        assert_eq!(verdict(100.0, 100.0), Verdict::Same);
        assert_eq!(verdict(1000.0, 1010.0), Verdict::Same, "1 % is no difference");
        let noisy: Vec<f64> = (0..40).map(|n| if n % 2 == 0 { 50.0 } else { 150.0 }).collect();
        assert_eq!(compare_case(&case(noisy.clone()), &around(100.0), 1).verdict, Verdict::Same);
        let found = compare_case(&case(around(50.0)), &around(100.0), 1);
        assert!((found.ratio - 0.5).abs() < 1e-9 && found.interval.0 <= 0.5 && found.interval.1 >= 0.5, "{found:?}");
    }

    #[test]
    fn a_file_that_is_not_a_report_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), r#"{"schema": 99}"#).unwrap();
        let error = Baseline::read(file.path()).unwrap_err().to_string();
        assert!(error.ends_with("is not a bench report of this version: its schema is 99, not 2"), "{error}");
    }
}
