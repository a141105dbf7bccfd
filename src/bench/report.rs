//! The report: computes figures from samples. Field names are those of the JSON.

use serde::Serialize;

use super::latency::Latency;
use super::measure::{CaseSamples, Sample};
use super::open_loop::{Capacity, RateReport};
use super::workload::Case;
use crate::eval::statistics::mean;

/// The version of the JSON format.
pub const SCHEMA: u32 = 2;

/// The report of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Podium's version.
    pub podium: String,
    /// The revision of its source code, if `PODIUM_REVISION` was set when it was built.
    pub revision: Option<&'static str>,
    /// When the report was created.
    pub created_unix_seconds: u64,
    /// The reranker that was measured.
    pub system: SystemFacts,
    /// The machine.
    pub machine: MachineFacts,
    /// The settings of the measurement.
    pub settings: Settings,
    /// One report for each case with clients that wait for their responses.
    pub cases: Vec<CaseReport>,
    /// Requests that arrived at given rates; `None` without them.
    pub open_loop: Option<OpenLoopReport>,
}

/// Requests that arrived at given rates.
#[derive(Debug, Clone, Serialize)]
pub struct OpenLoopReport {
    /// The objective: the 99th percentile of the latency, in milliseconds.
    pub objective_p99_ms: f64,
    /// For how many seconds requests arrived at each rate.
    pub seconds: f64,
    /// The rate to serve, if one was given.
    pub target_rate: Option<f64>,
    /// One report for each case and rate.
    pub rates: Vec<RateReport>,
    /// The capacity of each case.
    pub capacities: Vec<Capacity>,
}

/// The reranker that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct SystemFacts {
    /// The model's name.
    pub name: String,
    /// Its prompt family; `None` for an endpoint.
    pub family: Option<String>,
    /// Its device; `None` for an endpoint.
    pub device: Option<String>,
    /// Type of its weights in memory; `None` for an endpoint.
    pub dtype: Option<String>,
    /// Number of parameters; `None` for an endpoint.
    pub parameters: Option<usize>,
    /// The URL of an endpoint, without secrets.
    pub url: Option<String>,
    /// Resident memory after loading, in bytes.
    pub resident_bytes: Option<u64>,
}

/// The machine.
#[derive(Debug, Clone, Serialize)]
pub struct MachineFacts {
    /// The processor's name, where the system tells it.
    pub processor: Option<String>,
    /// Instruction sets that the kernels use, of those that the processor has.
    pub instruction_sets: Vec<&'static str>,
    /// Number of logical processors.
    pub logical_processors: usize,
    /// The driver of NVIDIA GPUs, where there is one.
    pub gpu_driver: Option<String>,
    /// Number of threads for matrix products and attention.
    pub threads: usize,
    /// Rates of a large matrix product on this device, in the type of the weights and in operations
    /// per second. One is measured before each round; none for an endpoint.
    pub product_rates: Vec<f64>,
    /// The highest of these rates.
    pub product_rate: Option<f64>,
}

/// The settings of the measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    /// Requests of each client in each case, if set.
    pub runs: Option<usize>,
    /// Duration of each case in seconds, if set.
    pub seconds: Option<f64>,
    /// Number of rounds through all cases.
    pub rounds: usize,
    /// Number of requests of each case before the measurement.
    pub warm_up: usize,
    /// Seed of the generated texts.
    pub seed: u64,
    /// `auto`, `listwise` or `pointwise`.
    pub mode: String,
    /// The instruction of every request.
    pub instruction: Option<String>,
    /// The file of the requests; `None` for generated ones.
    pub requests: Option<String>,
}

/// The report of one case.
#[derive(Debug, Clone, Serialize)]
pub struct CaseReport {
    /// `in-process`, `http` or `url`.
    pub route: &'static str,
    /// Documents in a request; the mean for requests from a file.
    pub documents: f64,
    /// Requested tokens of a document, such as `128` or `20-400`.
    pub tokens_asked: Option<String>,
    /// Mean number of tokens read of a document, if the reranker reports it.
    pub tokens_per_document: Option<f64>,
    /// Mean number of tokens through the model for a request, if the reranker reports it.
    pub tokens_per_request: Option<f64>,
    /// Number of clients.
    pub concurrency: usize,
    /// Number of successful requests.
    pub requests: usize,
    /// Time from the first request to the last response, summed over rounds.
    pub seconds: f64,
    /// Requests per second.
    pub requests_per_second: f64,
    /// Documents per second.
    pub documents_per_second: f64,
    /// Tokens through the model per second, if the reranker reports them.
    pub tokens_per_second: Option<f64>,
    /// Latency of a request.
    pub latency_ms: Latency,
    /// Mean time of each stage, if the reranker reports it.
    pub parts_ms: Option<Parts>,
    /// Floating-point operations of the model per second.
    pub operations_per_second: Option<f64>,
    /// `operations_per_second` divided by the machine's `product_rate`.
    pub product_share: Option<f64>,
    /// Peak resident memory of the process, weights included.
    pub peak_bytes: Option<u64>,
    /// Number of truncated documents, over all requests.
    pub truncated_documents: usize,
    /// Number of retries because the reranker was busy.
    pub retries: usize,
}

/// Mean time of each stage of a request, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Parts {
    /// Waiting for the device.
    pub queue: f64,
    /// Tokenising and rendering.
    pub tokenize: f64,
    /// Running the model.
    pub forward: f64,
    /// Everything else: scoring, and HTTP where it is used.
    pub other: f64,
}

impl CaseReport {
    /// Computes the report of a case on a machine with this product rate.
    #[must_use]
    pub fn new(case: &Case, measured: &CaseSamples, product_rate: Option<f64>) -> Self {
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
            latency_ms: Latency::from_samples(
                samples.iter().map(|sample| sample.latency.as_secs_f64() * 1e3).collect(),
            ),
            parts_ms: stage_means(samples),
            operations_per_second,
            product_share: operations_per_second.zip(product_rate).map(|(achieved, rate)| achieved / rate),
            peak_bytes: measured.peak_bytes,
            truncated_documents: samples.iter().map(|sample| sample.truncated).sum(),
            retries: samples.iter().map(|sample| sample.retries).sum(),
        }
    }
}

fn stage_means(samples: &[Sample]) -> Option<Parts> {
    let reported: Vec<_> =
        samples.iter().map(|sample| Some((sample.timing?, sample.latency))).collect::<Option<_>>()?;
    let part = |part: &dyn Fn(&crate::rerank::Timing) -> std::time::Duration| {
        mean(&reported.iter().map(|(timing, _)| part(timing).as_secs_f64() * 1e3).collect::<Vec<_>>())
    };
    let (queue, tokenize, forward) =
        (part(&|timing| timing.queue), part(&|timing| timing.tokenize), part(&|timing| timing.forward));
    let latency = mean(&reported.iter().map(|(_, latency)| latency.as_secs_f64() * 1e3).collect::<Vec<_>>());
    (!reported.is_empty()).then(|| Parts {
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
    fn rates_are_computed_over_the_time_of_all_rounds() {
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
            CaseSamples { samples: vec![sample; 4], seconds: 0.5, operations: Some(2_000), peak_bytes: Some(7) };
        let report = CaseReport::new(&case, &measured, Some(8_000.0));
        assert_eq!((report.requests_per_second, report.documents_per_second), (8.0, 32.0));
        assert_eq!((report.tokens_per_second, report.tokens_per_document), (Some(400.0), Some(10.0)));
        assert_eq!((report.operations_per_second, report.product_share), (Some(4_000.0), Some(0.5)));
        let parts = report.parts_ms.unwrap();
        assert!((parts.other - 1.0).abs() < 1e-9 && (parts.forward - 6.0).abs() < 1e-9, "{parts:?}");
        assert_eq!((report.truncated_documents, report.retries), (4, 8));
        let unreported =
            CaseSamples { samples: vec![Sample { timing: None, prompt_tokens: None, ..sample }], ..measured };
        let report = CaseReport::new(&case, &unreported, None);
        assert_eq!((report.parts_ms, report.tokens_per_second, report.product_share), (None, None, None));
    }
}
