//! Measuring: warm up, then round by round through all cases, so that a slow minute of the machine hits every case.
//!
//! A case's clients are a closed loop: each sends its next request when it has the answer to the last.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::memory;
use super::workload::{Case, Route};
use crate::eval::system::{System, SystemError};
use crate::rerank::Timing;
use crate::runtime::LoadError;

/// How long every case is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// Requests that each client sends.
    Runs(usize),
    /// Time; a client's last request is begun within it.
    Time(Duration),
}

/// How everything is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Per case, in all rounds together.
    pub budget: Budget,
    /// Parts that the budget is split into.
    pub rounds: usize,
    /// Requests of each case that do not count, before the first round.
    pub warm_up: usize,
}

impl Plan {
    /// Rounds that have anything to do.
    #[must_use]
    pub fn rounds(&self) -> usize {
        match self.budget {
            Budget::Runs(runs) => self.rounds.min(runs),
            Budget::Time(_) => self.rounds,
        }
    }

    /// The part of the budget that round number `round` has.
    fn share(&self, round: usize) -> Budget {
        match self.budget {
            Budget::Runs(runs) => {
                let rounds = self.rounds();
                Budget::Runs(runs / rounds + usize::from(round < runs % rounds))
            }
            Budget::Time(time) => Budget::Time(time / self.rounds as u32),
        }
    }

    /// Requests that will be sent, if that is known.
    #[must_use]
    pub fn requests(&self, cases: &[Case]) -> Option<usize> {
        let Budget::Runs(runs) = self.budget else { return None };
        Some(cases.iter().map(|case| self.warm_up + case.concurrency * runs).sum())
    }
}

/// One answered request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// From request to answer.
    pub latency: Duration,
    /// Where the time went, if the reranker tells.
    pub timing: Option<Timing>,
    /// Documents asked about.
    pub documents: usize,
    /// Tokens sent through the model, if the reranker tells.
    pub prompt_tokens: Option<usize>,
    /// Tokens read of all documents, if the reranker tells.
    pub document_tokens: Option<usize>,
    /// Documents that were cut.
    pub truncated: usize,
    /// How often the request was repeated because the reranker was busy.
    pub retries: usize,
}

/// A case's samples from all rounds.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// One per request.
    pub samples: Vec<Sample>,
    /// From the first request to the last answer of every round, summed.
    pub seconds: f64,
    /// Floating-point operations of the model, if they are counted.
    pub operations: Option<u64>,
    /// The process's highest peak of memory in any round.
    pub peak_bytes: Option<u64>,
}

/// What answers, by route.
#[derive(Default)]
pub struct Systems {
    /// The reranker in this process.
    pub in_process: Option<Arc<System>>,
    /// The server in this process.
    pub http: Option<Arc<System>>,
    /// The endpoint.
    pub url: Option<Arc<System>>,
    /// Where operations in this process are counted.
    pub operations: Option<Arc<AtomicU64>>,
}

impl Systems {
    fn by(&self, route: Route) -> Option<&Arc<System>> {
        match route {
            Route::InProcess => self.in_process.as_ref(),
            Route::Http => self.http.as_ref(),
            Route::Url => self.url.as_ref(),
        }
    }
}

/// A request that was not answered ends the measurement.
#[derive(Debug, thiserror::Error)]
#[error("{documents} documents by {}, {concurrency} at once", route.as_str())]
pub struct RequestFailure {
    /// Documents of the request.
    pub documents: usize,
    /// How it travelled.
    pub route: Route,
    /// Clients at work.
    pub concurrency: usize,
    /// What happened.
    #[source]
    pub cause: SystemError,
}

/// Why a measurement ended early.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// A request was not answered.
    #[error(transparent)]
    Request(#[from] RequestFailure),
    /// The device failed between the rounds.
    #[error(transparent)]
    Device(#[from] LoadError),
}

/// Measures all cases; `before_round` is called before each round, `after_request` after each answer.
///
/// # Errors
/// The first request that fails, and what `before_round` says.
pub fn measure(
    runtime: &tokio::runtime::Runtime,
    systems: &Systems,
    cases: &[Case],
    plan: &Plan,
    mut before_round: impl FnMut(usize) -> Result<(), LoadError>,
    after_request: &(dyn Fn() + Sync),
) -> Result<Vec<Measured>, MeasureError> {
    let mut measured = vec![Measured::default(); cases.len()];
    for case in cases {
        if plan.warm_up > 0 {
            let alone = Case { concurrency: 1, ..case.clone() };
            run(runtime, systems, &alone, Budget::Runs(plan.warm_up), 0, after_request)?;
        }
    }
    for round in 0..plan.rounds() {
        before_round(round)?;
        for (case, measured) in cases.iter().zip(&mut measured) {
            let own = case.route != Route::Url && memory::reset_peak();
            let counted = systems.operations.as_ref().filter(|_| case.route != Route::Url);
            let before = counted.map(|count| count.load(Ordering::Relaxed));
            let started = Instant::now();
            let first = measured.samples.len();
            measured.samples.extend(run(runtime, systems, case, plan.share(round), first, after_request)?);
            measured.seconds += started.elapsed().as_secs_f64();
            if let (Some(count), Some(before)) = (counted, before) {
                *measured.operations.get_or_insert(0) += count.load(Ordering::Relaxed) - before;
            }
            if own {
                measured.peak_bytes = measured.peak_bytes.max(memory::peak_bytes());
            }
        }
    }
    Ok(measured)
}

/// One case's clients, until each has sent its requests or the time is over. The case's requests are taken in turn from
/// number `first` on.
fn run(
    runtime: &tokio::runtime::Runtime,
    systems: &Systems,
    case: &Case,
    budget: Budget,
    first: usize,
    after_request: &(dyn Fn() + Sync),
) -> Result<Vec<Sample>, RequestFailure> {
    let Some(system) = systems.by(case.route) else { return Ok(Vec::new()) };
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
                let more = |sent: usize| match budget {
                    Budget::Runs(runs) => sent < runs,
                    Budget::Time(time) => sent == 0 || started.elapsed() < time,
                };
                while more(sent) {
                    let request = &requests[next.fetch_add(1, Ordering::Relaxed) % requests.len()];
                    let documents = request.documents.len();
                    let answer = system.rerank(request.clone()).await;
                    let failed = answer.is_err();
                    // Nobody listens any more only after a failure.
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
        // A client's panic is ours.
        clients.join_all().await;
        Ok(samples)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_share_the_budget_and_none_is_empty() {
        let plan = |budget, rounds| Plan { budget, rounds, warm_up: 0 };
        let shares = |plan: &Plan| -> Vec<Budget> { (0..plan.rounds()).map(|round| plan.share(round)).collect() };
        let runs = |counts: &[usize]| -> Vec<Budget> { counts.iter().map(|&count| Budget::Runs(count)).collect() };
        assert_eq!(shares(&plan(Budget::Runs(7), 3)), runs(&[3, 2, 2]));
        assert_eq!(shares(&plan(Budget::Runs(2), 5)), runs(&[1, 1]));
        let halves = [Budget::Time(Duration::from_secs(2)); 2];
        assert_eq!(shares(&plan(Budget::Time(Duration::from_secs(4)), 2)), halves);
    }
}
