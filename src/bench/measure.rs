//! Measures cases: first a warm-up, then several rounds through all cases, so that a slow phase of
//! the machine affects all of them alike.
//!
//! The clients of a case are a closed loop: each sends its next request when it has the response to
//! the last.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::memory;
use super::workload::{Case, Route};
use crate::eval::system::{System, SystemError};
use crate::rerank::Timing;
use crate::runtime::LoadError;

/// When a case is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopAfter {
    /// After each client has sent this number of requests.
    Requests(usize),
    /// After this time. Requests that were sent within it are completed.
    Time(Duration),
}

/// The settings of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// When each case is complete, over all rounds.
    pub stop_after: StopAfter,
    /// Number of rounds that each case is split into.
    pub rounds: usize,
    /// Number of requests of each case before the first round; they are not measured.
    pub warm_up: usize,
}

impl Plan {
    /// Number of rounds with at least one request for each client.
    #[must_use]
    pub fn rounds(&self) -> usize {
        match self.stop_after {
            StopAfter::Requests(runs) => self.rounds.min(runs),
            StopAfter::Time(_) => self.rounds,
        }
    }

    /// The part of the case that round number `round` measures.
    fn round_share(&self, round: usize) -> StopAfter {
        match self.stop_after {
            StopAfter::Requests(runs) => {
                let rounds = self.rounds();
                StopAfter::Requests(runs / rounds + usize::from(round < runs % rounds))
            }
            StopAfter::Time(time) => StopAfter::Time(time / self.rounds as u32),
        }
    }

    /// Total number of requests, warm-up included; `None` if the cases are limited by time.
    #[must_use]
    pub fn requests(&self, cases: &[Case]) -> Option<usize> {
        let StopAfter::Requests(runs) = self.stop_after else { return None };
        Some(cases.iter().map(|case| self.warm_up + case.concurrency * runs).sum())
    }
}

/// One successful request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Time from request to response.
    pub latency: Duration,
    /// Time of each stage, if the reranker reports it.
    pub timing: Option<Timing>,
    /// Number of documents.
    pub documents: usize,
    /// Tokens that passed through the model, if the reranker reports them.
    pub prompt_tokens: Option<usize>,
    /// Tokens read of all documents, if the reranker reports them.
    pub document_tokens: Option<usize>,
    /// Number of truncated documents.
    pub truncated: usize,
    /// Number of retries because the reranker was busy.
    pub retries: usize,
}

/// The measurements of a case, from all rounds.
#[derive(Debug, Clone, Default)]
pub struct CaseSamples {
    /// One for each request.
    pub samples: Vec<Sample>,
    /// Time from the first request to the last response of a round, summed over rounds.
    pub seconds: f64,
    /// Floating-point operations of the model, if counted.
    pub operations: Option<u64>,
    /// Peak resident memory of the process, the maximum over rounds.
    pub peak_bytes: Option<u64>,
}

/// The systems to measure, by route.
#[derive(Default)]
pub struct Systems {
    /// A model in this process, called directly.
    pub in_process: Option<Arc<System>>,
    /// A server in this process.
    pub http: Option<Arc<System>>,
    /// An external endpoint.
    pub url: Option<Arc<System>>,
    /// Counter of the floating-point operations in this process.
    pub operations: Option<Arc<AtomicU64>>,
}

impl Systems {
    /// The system of a route, if it is measured.
    #[must_use]
    pub fn system_for(&self, route: Route) -> Option<&Arc<System>> {
        match route {
            Route::InProcess => self.in_process.as_ref(),
            Route::Http => self.http.as_ref(),
            Route::Url => self.url.as_ref(),
        }
    }
}

/// A failed request; it ends the measurement.
#[derive(Debug, thiserror::Error)]
#[error("request with {documents} documents, route {}, {concurrency} clients", route.as_str())]
pub struct RequestFailure {
    /// Number of documents in the request.
    pub documents: usize,
    /// The route of the request.
    pub route: Route,
    /// Number of clients.
    pub concurrency: usize,
    /// The error.
    #[source]
    pub cause: SystemError,
}

/// The reason why a measurement failed.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// A request failed.
    #[error(transparent)]
    Request(#[from] RequestFailure),
    /// The device failed between rounds.
    #[error(transparent)]
    Device(#[from] LoadError),
}

/// Measures all cases. Calls `before_round` before each round and `after_request` after each
/// response.
///
/// # Errors
/// The first failed request, or an error of `before_round`.
pub fn measure(
    runtime: &tokio::runtime::Runtime,
    systems: &Systems,
    cases: &[Case],
    plan: &Plan,
    mut before_round: impl FnMut(usize) -> Result<(), LoadError>,
    after_request: &(dyn Fn() + Sync),
) -> Result<Vec<CaseSamples>, MeasureError> {
    let mut measured = vec![CaseSamples::default(); cases.len()];
    for case in cases {
        if plan.warm_up > 0 {
            let single_client = Case { concurrency: 1, ..case.clone() };
            run_round(runtime, systems, &single_client, StopAfter::Requests(plan.warm_up), 0, after_request)?;
        }
    }
    for round in 0..plan.rounds() {
        before_round(round)?;
        for (case, measured) in cases.iter().zip(&mut measured) {
            let reset = case.route != Route::Url && memory::reset_peak();
            let counted = systems.operations.as_ref().filter(|_| case.route != Route::Url);
            let before = counted.map(|count| count.load(Ordering::Relaxed));
            let started = Instant::now();
            let first = measured.samples.len();
            measured.samples.extend(run_round(runtime, systems, case, plan.round_share(round), first, after_request)?);
            measured.seconds += started.elapsed().as_secs_f64();
            if let (Some(count), Some(before)) = (counted, before) {
                *measured.operations.get_or_insert(0) += count.load(Ordering::Relaxed) - before;
            }
            if reset {
                measured.peak_bytes = measured.peak_bytes.max(memory::peak_bytes());
            }
        }
    }
    Ok(measured)
}

/// Runs the clients of a case until each has sent its requests or the time is over. Together they
/// send the case's requests in order, starting with number `first`.
fn run_round(
    runtime: &tokio::runtime::Runtime,
    systems: &Systems,
    case: &Case,
    stop_after: StopAfter,
    first: usize,
    after_request: &(dyn Fn() + Sync),
) -> Result<Vec<Sample>, RequestFailure> {
    let Some(system) = systems.system_for(case.route) else { return Ok(Vec::new()) };
    let next = Arc::new(AtomicUsize::new(first));
    let (done, mut answers) = tokio::sync::mpsc::unbounded_channel();
    runtime.block_on(async {
        let mut clients = JoinSet::new();
        for _ in 0..case.concurrency {
            let (system, requests) = (Arc::clone(system), Arc::clone(&case.requests));
            let (next, done) = (Arc::clone(&next), done.clone());
            clients.spawn(async move {
                let started = Instant::now();
                let mut sent = 0;
                let continues = |sent: usize| match stop_after {
                    StopAfter::Requests(count) => sent < count,
                    StopAfter::Time(time) => sent == 0 || started.elapsed() < time,
                };
                while continues(sent) {
                    let request = &requests[next.fetch_add(1, Ordering::Relaxed) % requests.len()];
                    let documents = request.documents.len();
                    let answer = system.rerank(request.clone()).await;
                    let failed = answer.is_err();
                    // The receiver is gone only after a failure.
                    let _ = done.send((documents, answer));
                    sent += 1;
                    if failed {
                        return;
                    }
                }
            });
        }
        drop(done);
        let mut samples = Vec::new();
        while let Some((documents, answer)) = answers.recv().await {
            let answer = answer.map_err(|cause| RequestFailure {
                documents,
                route: case.route,
                concurrency: case.concurrency,
                cause,
            })?;
            let read = answer.documents.iter().map(|document| document.tokens_read).sum();
            samples.push(Sample {
                latency: answer.latency,
                timing: answer.timing,
                documents,
                prompt_tokens: answer.prompt_tokens,
                document_tokens: read,
                truncated: answer.documents.iter().filter(|document| document.truncated == Some(true)).count(),
                retries: answer.retries,
            });
            after_request();
        }
        // Panics if a client panicked.
        clients.join_all().await;
        Ok(samples)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_share_the_requests_or_the_time_and_none_is_empty() {
        let plan = |stop_after, rounds| Plan { stop_after, rounds, warm_up: 0 };
        let shares =
            |plan: &Plan| -> Vec<StopAfter> { (0..plan.rounds()).map(|round| plan.round_share(round)).collect() };
        let runs =
            |counts: &[usize]| -> Vec<StopAfter> { counts.iter().map(|&count| StopAfter::Requests(count)).collect() };
        assert_eq!(shares(&plan(StopAfter::Requests(7), 3)), runs(&[3, 2, 2]));
        assert_eq!(shares(&plan(StopAfter::Requests(2), 5)), runs(&[1, 1]));
        let halves = [StopAfter::Time(Duration::from_secs(2)); 2];
        assert_eq!(shares(&plan(StopAfter::Time(Duration::from_secs(4)), 2)), halves);
    }
}
