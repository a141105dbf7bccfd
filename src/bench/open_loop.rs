//! Open-loop load: requests arrive at random times at a given rate, however busy the system is.
//!
//! Gaps between arrivals are exponentially distributed (a Poisson process). A latency begins at the
//! planned arrival, so that a slow system cannot delay the measurement of its own slowness
//! (coordinated omission). A rejected request is not sent again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use tokio::task::JoinSet;

use super::latency::Latency;
use super::workload::Case;
use crate::eval::system::{System, SystemError};

/// The load of one measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Requests per second; above 0.
    pub rate: f64,
    /// For how long requests arrive.
    pub duration: Duration,
    /// Seed of the arrival times.
    pub seed: u64,
}

/// Outcomes of the requests of a load.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcomes {
    /// Time from the planned arrival to the response, of each completed request.
    pub completed: Vec<Duration>,
    /// Number of requests that the system rejected because it was busy.
    pub rejected: usize,
    /// Time from the first planned arrival to the last response.
    pub elapsed: Duration,
}

/// The report of one rate.
#[derive(Debug, Clone, Serialize)]
pub struct RateReport {
    /// `in-process`, `http` or `url`.
    pub route: &'static str,
    /// Documents in a request; the mean for requests from a file.
    pub documents: f64,
    /// Requested tokens of a document.
    pub tokens_asked: Option<String>,
    /// Requests that arrived per second, as asked.
    pub rate: f64,
    /// Number of requests that arrived.
    pub requests: usize,
    /// Number of requests that were rejected because the system was busy.
    pub rejected: usize,
    /// Completed requests per second, until the last response.
    pub completed_per_second: f64,
    /// Share of all requests that were completed within the objective.
    pub within_objective: f64,
    /// Requests per second that were completed within the objective: the goodput.
    pub goodput: f64,
    /// Latency from the planned arrival; of completed requests only.
    pub latency_ms: Latency,
}

/// The highest measured rate that meets the objective.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Capacity {
    /// `in-process`, `http` or `url`.
    pub route: &'static str,
    /// Documents in a request; the mean for requests from a file.
    pub documents: f64,
    /// Requested tokens of a document.
    pub tokens_asked: Option<String>,
    /// Requests per second; `None` if no measured rate meets the objective.
    pub requests_per_second: Option<f64>,
    /// Number of replicas for the target rate, if one was given.
    pub replicas: Option<usize>,
}

/// The objective: the 99th percentile of all requests lies below this latency.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Objective {
    /// In milliseconds.
    pub p99_ms: f64,
}

impl Objective {
    /// Whether the report meets the objective: of 100 requests at least 99 were completed in time.
    #[must_use]
    pub fn is_met(self, report: &RateReport) -> bool {
        report.requests > 0 && report.within_objective >= 0.99
    }
}

/// The times at which requests arrive, from the start.
#[must_use]
pub fn arrivals(load: &Load) -> Vec<Duration> {
    let mut generator = Xoshiro256PlusPlus::seed_from_u64(load.seed);
    let (mut times, mut at) = (Vec::new(), 0.0);
    loop {
        // In (0, 1], so that the logarithm is finite.
        let uniform = 1.0 - generator.random::<f64>();
        at -= uniform.ln() / load.rate;
        if at >= load.duration.as_secs_f64() {
            return times;
        }
        times.push(Duration::from_secs_f64(at));
    }
}

/// Sends the requests of a case as they arrive, and waits for all responses.
///
/// # Errors
/// The first failed request; a rejected one has not failed.
pub async fn run(
    system: &Arc<System>,
    case: &Case,
    load: &Load,
    after_request: &(dyn Fn() + Sync),
) -> Result<Outcomes, SystemError> {
    let started = Instant::now();
    let mut running = JoinSet::new();
    let mut outcomes = Outcomes::default();
    let mut collect = |found: Result<Option<Duration>, SystemError>| -> Result<(), SystemError> {
        match found? {
            Some(latency) => outcomes.completed.push(latency),
            None => outcomes.rejected += 1,
        }
        after_request();
        Ok(())
    };
    for (number, at) in arrivals(load).into_iter().enumerate() {
        let arrival = started + at;
        tokio::time::sleep_until(arrival.into()).await;
        let request = case.requests[number % case.requests.len()].clone();
        let system = Arc::clone(system);
        running.spawn(async move {
            let answer = system.rerank_once(request).await?;
            Ok(answer.map(|_| arrival.elapsed()))
        });
        while let Some(done) = running.try_join_next() {
            collect(done.unwrap_or_else(|failure| std::panic::resume_unwind(failure.into_panic())))?;
        }
    }
    while let Some(done) = running.join_next().await {
        collect(done.unwrap_or_else(|failure| std::panic::resume_unwind(failure.into_panic())))?;
    }
    outcomes.elapsed = started.elapsed();
    Ok(outcomes)
}

impl RateReport {
    /// Computes the report of a load.
    #[must_use]
    pub fn new(case: &Case, load: &Load, outcomes: &Outcomes, objective: Objective) -> Self {
        let requests = outcomes.completed.len() + outcomes.rejected;
        let milliseconds: Vec<f64> = outcomes.completed.iter().map(|latency| latency.as_secs_f64() * 1e3).collect();
        let in_time = milliseconds.iter().filter(|latency| **latency <= objective.p99_ms).count();
        let per_second = |count: usize| count as f64 / outcomes.elapsed.max(load.duration).as_secs_f64();
        Self {
            route: case.route.as_str(),
            documents: case.mean_documents(),
            tokens_asked: case.length.map(|length| length.to_string()),
            rate: load.rate,
            requests,
            rejected: outcomes.rejected,
            completed_per_second: per_second(outcomes.completed.len()),
            within_objective: if requests == 0 { 0.0 } else { in_time as f64 / requests as f64 },
            goodput: per_second(in_time),
            latency_ms: Latency::from_samples(milliseconds),
        }
    }
}

/// The rates to measure for a system that completes `throughput` requests per second when clients
/// wait for their responses.
#[must_use]
pub fn rates_around(throughput: f64) -> Vec<f64> {
    [0.1, 0.2, 0.3, 0.5, 0.7, 0.85, 1.0, 1.2].map(|share| (share * throughput * 100.0).round() / 100.0).to_vec()
}

/// The capacity of every case, in the order of the reports. `target` is the rate to serve.
#[must_use]
pub fn capacities(reports: &[RateReport], objective: Objective, target: Option<f64>) -> Vec<Capacity> {
    let same = |left: &RateReport, right: &RateReport| {
        left.route == right.route
            && left.tokens_asked == right.tokens_asked
            && (left.documents - right.documents).abs() < 1e-9
    };
    let capacity = |reports: &[RateReport]| {
        let met = reports.iter().filter(|report| objective.is_met(report));
        let best = met.map(|report| report.rate).reduce(f64::max);
        Capacity {
            route: reports[0].route,
            documents: reports[0].documents,
            tokens_asked: reports[0].tokens_asked.clone(),
            requests_per_second: best,
            replicas: target.zip(best).map(|(target, best)| (target / best).ceil() as usize),
        }
    };
    reports.chunk_by(same).map(capacity).collect()
}

impl Case {
    /// Documents in a request, the mean over its requests.
    #[must_use]
    pub fn mean_documents(&self) -> f64 {
        let documents: usize = self.requests.iter().map(|request| request.documents.len()).sum();
        documents as f64 / self.requests.len().max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::workload::{Length, Route};
    use crate::rerank::RerankRequest;

    fn case() -> Case {
        Case {
            length: Some(Length { low: 8, high: 8 }),
            concurrency: 1,
            route: Route::InProcess,
            requests: Arc::new(vec![RerankRequest::new("q", vec!["a".to_owned(), "b".to_owned()])]),
        }
    }

    #[test]
    fn arrivals_have_the_rate_and_the_spread_of_a_poisson_process() {
        let load = Load { rate: 50.0, duration: Duration::from_secs(200), seed: 1 };
        let times = arrivals(&load);
        // 10,000 are expected, with a standard deviation of 100.
        assert!((9_600..10_400).contains(&times.len()), "{}", times.len());
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1].as_secs_f64() - pair[0].as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // The standard deviation of an exponential distribution is its mean.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "{mean} {variance}");
        assert_eq!(times, arrivals(&load));
        assert_ne!(times, arrivals(&Load { seed: 2, ..load }));
    }

    fn report(rate: f64, milliseconds: &[u64], rejected: usize) -> RateReport {
        let outcomes = Outcomes {
            completed: milliseconds.iter().map(|time| Duration::from_millis(*time)).collect(),
            rejected,
            elapsed: Duration::from_secs(4),
        };
        let load = Load { rate, duration: Duration::from_secs(2), seed: 1 };
        RateReport::new(&case(), &load, &outcomes, Objective { p99_ms: 300.0 })
    }

    #[test]
    fn rejected_and_late_requests_are_not_goodput() {
        let report = report(2.0, &[100, 300, 301, 900], 4);
        assert_eq!((report.requests, report.rejected), (8, 4));
        assert!((report.within_objective - 0.25).abs() < 1e-12);
        assert!((report.goodput - 0.5).abs() < 1e-12 && (report.completed_per_second - 1.0).abs() < 1e-12);
    }

    #[test]
    fn the_capacity_is_the_highest_rate_with_99_of_100_requests_in_time() {
        let fast = vec![10; 99];
        let reports = [
            report(5.0, &fast, 0),
            report(8.0, &fast, 1),
            report(9.0, &fast, 2),
            report(10.0, &[&fast[..], &[900; 9]].concat(), 0),
        ];
        let objective = Objective { p99_ms: 300.0 };
        let [found] = &capacities(&reports, objective, Some(40.0))[..] else { panic!() };
        assert_eq!((found.requests_per_second, found.replicas), (Some(8.0), Some(5)));
        let [none] = &capacities(&reports[2..], objective, Some(40.0))[..] else { panic!() };
        assert_eq!((none.requests_per_second, none.replicas), (None, None));
    }
}
