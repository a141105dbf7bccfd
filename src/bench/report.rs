//! Samples to figures. The field names are the JSON's.

use serde::Serialize;

use super::measure::{Measured, Sample};
use super::workload::Case;
use crate::eval::statistics::{mean, quantile};

/// The JSON's version.
pub const SCHEMA: u32 = 1;

/// Everything that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// This program's version.
    pub podium: String,
    /// When it was made.
    pub created_unix_seconds: u64,
    /// What was measured.
    pub system: SystemFacts,
    /// Where.
    pub machine: MachineFacts,
    /// How.
    pub settings: Settings,
    /// Case by case.
    pub cases: Vec<CaseReport>,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct SystemFacts {
    /// The model's name.
    pub name: String,
    /// Its prompt family, if it runs here.
    pub family: Option<String>,
    /// Where it runs, if it runs here.
    pub device: Option<String>,
    /// Type of its weights in memory, if it runs here.
    pub dtype: Option<String>,
    /// Its parameters, if it runs here.
    pub parameters: Option<usize>,
    /// The endpoint, if it is one.
    pub url: Option<String>,
    /// Bytes resident after loading.
    pub resident_bytes: Option<u64>,
}

/// Where it was measured.
#[derive(Debug, Clone, Serialize)]
pub struct MachineFacts {
    /// Threads that matrix products and attention may use.
    pub threads: usize,
    /// Large matrix products on this device in the type of the weights, one before each round, in operations per second;
    /// none for an endpoint.
    pub product_rates: Vec<f64>,
    /// The fastest of them.
    pub product_rate: Option<f64>,
}

/// How it was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    /// Requests that each client sent in each case, if that was set.
    pub runs: Option<usize>,
    /// Seconds of each case, if that was set.
    pub seconds: Option<f64>,
    /// Rounds through all cases.
    pub rounds: usize,
    /// Requests of each case that did not count.
    pub warm_up: usize,
    /// Seed of the texts.
    pub seed: u64,
    /// `auto`, `listwise` or `pointwise`.
    pub mode: String,
    /// The instruction of every request.
    pub instruction: Option<String>,
    /// Where requests came from; `None` where they were made up.
    pub requests: Option<String>,
}

/// One case.
#[derive(Debug, Clone, Serialize)]
pub struct CaseReport {
    /// `in-process`, `http` or `url`.
    pub route: &'static str,
    /// Documents of a request (the mean, for requests from a file).
    pub documents: f64,
    /// Tokens of a document as they were asked for: `128`, `20-400`.
    pub tokens_asked: Option<String>,
    /// Tokens read of a document, if the reranker tells: the mean.
    pub tokens_per_document: Option<f64>,
    /// Tokens through the model for a request, if the reranker tells: the mean.
    pub tokens_per_request: Option<f64>,
    /// Clients at once.
    pub concurrency: usize,
    /// Requests that were answered.
    pub requests: usize,
    /// From first request to last answer, over all rounds.
    pub seconds: f64,
    /// Requests a second.
    pub requests_per_second: f64,
    /// Documents a second.
    pub documents_per_second: f64,
    /// Tokens through the model a second, if the reranker tells.
    pub tokens_per_second: Option<f64>,
    /// A request's time.
    pub latency_ms: Latency,
    /// Where it went: means, if the reranker tells.
    pub parts_ms: Option<Parts>,
    /// Operations of the model a second.
    pub operations_per_second: Option<f64>,
    /// Those over what a large product achieves on this machine.
    pub product_share: Option<f64>,
    /// The process's peak of memory, weights included.
    pub peak_bytes: Option<u64>,
    /// Documents that were cut, over all requests.
    pub truncated_documents: usize,
    /// Requests that were repeated because the reranker was busy.
    pub retries: usize,
}

/// A request's time in milliseconds. A percentile is there where at least one sample lies beyond it.
#[derive(Debug, Clone, Serialize)]
pub struct Latency {
    /// The least.
    pub min: f64,
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: Option<f64>,
    /// Of 20 samples or more.
    pub p95: Option<f64>,
    /// Of 100 samples or more.
    pub p99: Option<f64>,
    /// The most.
    pub max: f64,
    /// Every sample.
    pub samples: Vec<f64>,
}

/// Where a request's time went: means in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Parts {
    /// Waiting for the device.
    pub queue: f64,
    /// Tokenising and rendering.
    pub tokenize: f64,
    /// The model.
    pub forward: f64,
    /// Everything else: scoring, and the way there and back.
    pub other: f64,
}

impl Latency {
    /// Of samples in milliseconds.
    #[must_use]
    pub fn of(samples: Vec<f64>) -> Self {
        let percentile = |share| supported(samples.len(), share).then(|| quantile(&samples, share));
        Self {
            min: quantile(&samples, 0.0),
            mean: mean(&samples),
            p50: percentile(0.5),
            p95: percentile(0.95),
            p99: percentile(0.99),
            max: quantile(&samples, 1.0),
            samples,
        }
    }
}

/// Whether at least one of so many samples is expected beyond a percentile.
fn supported(samples: usize, share: f64) -> bool {
    samples as f64 * (1.0 - share) > 1.0 - 1e-9
}

impl CaseReport {
    /// The figures of a case on a machine of this product rate.
    #[must_use]
    pub fn of(case: &Case, measured: &Measured, product_rate: Option<f64>) -> Self {
        let samples = &measured.samples;
        let per_second = |count: f64| if measured.seconds > 0.0 { count / measured.seconds } else { 0.0 };
        let sum = |count: &dyn Fn(&Sample) -> Option<usize>| -> Option<f64> {
            samples.iter().map(count).sum::<Option<usize>>().map(|sum| sum as f64)
        };
        let (requests, documents) =
            (samples.len().max(1) as f64, sum(&|sample| Some(sample.documents)).unwrap_or_default());
        let prompt_tokens = sum(&|sample| sample.prompt_tokens);
        let operations_per_second = measured.operations.map(|operations| per_second(operations as f64));
        Self {
            route: case.route.as_str(),
            documents: documents / requests,
            tokens_asked: case.length.map(|length| length.to_string()),
            tokens_per_document: sum(&|sample| sample.document_tokens).map(|tokens| tokens / documents.max(1.0)),
            tokens_per_request: prompt_tokens.map(|tokens| tokens / requests),
            concurrency: case.concurrency,
            requests: samples.len(),
            seconds: measured.seconds,
            requests_per_second: per_second(samples.len() as f64),
            documents_per_second: per_second(documents),
            tokens_per_second: prompt_tokens.map(per_second),
            latency_ms: Latency::of(samples.iter().map(|sample| sample.latency.as_secs_f64() * 1e3).collect()),
            parts_ms: parts(samples),
            operations_per_second,
            product_share: operations_per_second.zip(product_rate).map(|(achieved, rate)| achieved / rate),
            peak_bytes: measured.peak_bytes,
            truncated_documents: samples.iter().map(|sample| sample.truncated).sum(),
            retries: samples.iter().map(|sample| sample.retries).sum(),
        }
    }
}

fn parts(samples: &[Sample]) -> Option<Parts> {
    let told: Vec<_> = samples.iter().map(|sample| Some((sample.timing?, sample.latency))).collect::<Option<_>>()?;
    let part = |part: &dyn Fn(&crate::rerank::Timing) -> std::time::Duration| {
        mean(&told.iter().map(|(timing, _)| part(timing).as_secs_f64() * 1e3).collect::<Vec<_>>())
    };
    let (queue, tokenize, forward) =
        (part(&|timing| timing.queue), part(&|timing| timing.tokenize), part(&|timing| timing.forward));
    let latency = mean(&told.iter().map(|(_, latency)| latency.as_secs_f64() * 1e3).collect::<Vec<_>>());
    (!told.is_empty()).then(|| Parts {
        queue,
        tokenize,
        forward,
        other: (latency - queue - tokenize - forward).max(0.0),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::workload::{Length, Route};
    use super::*;
    use crate::rerank::{RerankRequest, Timing};

    #[test]
    fn a_percentile_is_there_only_where_a_sample_lies_beyond_it() {
        let of = |count: usize| Latency::of((1..=count).map(|value| value as f64).collect());
        assert_eq!((of(1).p50, of(2).p50), (None, Some(1.5)));
        assert_eq!((of(19).p95, of(99).p99), (None, None));
        let hundred = of(101);
        assert_eq!((hundred.p50, hundred.p95, hundred.p99), (Some(51.0), Some(96.0), Some(100.0)));
        assert_eq!((hundred.min, hundred.mean, hundred.max), (1.0, 51.0, 101.0));
        assert!(of(20).p95.is_some() && of(100).p99.is_some());
    }

    #[test]
    fn rates_are_over_the_time_of_all_rounds() {
        let timing = Timing {
            queue: Duration::from_millis(1),
            tokenize: Duration::from_millis(2),
            forward: Duration::from_millis(6),
            total: Duration::from_millis(9),
        };
        let sample = Sample {
            latency: Duration::from_millis(10),
            timing: Some(timing),
            documents: 4,
            prompt_tokens: Some(50),
            document_tokens: Some(40),
            truncated: 1,
            retries: 2,
        };
        let case = Case {
            length: Some(Length { low: 10, high: 10 }),
            concurrency: 1,
            route: Route::InProcess,
            requests: Arc::new(vec![RerankRequest::new("q", vec!["d".to_owned()])]),
        };
        let measured =
            Measured { samples: vec![sample; 4], seconds: 0.5, operations: Some(2_000), peak_bytes: Some(7) };
        let report = CaseReport::of(&case, &measured, Some(8_000.0));
        assert_eq!((report.requests_per_second, report.documents_per_second), (8.0, 32.0));
        assert_eq!((report.tokens_per_second, report.tokens_per_document), (Some(400.0), Some(10.0)));
        assert_eq!((report.operations_per_second, report.product_share), (Some(4_000.0), Some(0.5)));
        let parts = report.parts_ms.unwrap();
        assert!((parts.other - 1.0).abs() < 1e-9 && (parts.forward - 6.0).abs() < 1e-9, "{parts:?}");
        assert_eq!((report.truncated_documents, report.retries), (4, 8));
        let untold = Measured { samples: vec![Sample { timing: None, prompt_tokens: None, ..sample }], ..measured };
        let report = CaseReport::of(&case, &untold, None);
        assert_eq!((report.parts_ms, report.tokens_per_second, report.product_share), (None, None, None));
    }
}
