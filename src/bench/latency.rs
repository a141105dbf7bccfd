//! Statistics of latencies.

use serde::Serialize;

use crate::eval::statistics::{mean, quantile};

/// Latency in milliseconds. A percentile is `None` unless at least one sample is expected above it.
#[derive(Debug, Clone, Serialize)]
pub struct Latency {
    /// The minimum.
    pub min: f64,
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: Option<f64>,
    /// The 95th percentile of 20 samples or more.
    pub p95: Option<f64>,
    /// The 99th percentile of 100 samples or more.
    pub p99: Option<f64>,
    /// The maximum.
    pub max: f64,
    /// Every sample.
    pub samples: Vec<f64>,
}

impl Latency {
    /// Computes the statistics of samples in milliseconds.
    #[must_use]
    pub fn from_samples(samples: Vec<f64>) -> Self {
        let percentile = |share| has_enough_samples(samples.len(), share).then(|| quantile(&samples, share));
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

/// Whether at least one of this number of samples is expected above the percentile.
fn has_enough_samples(samples: usize, share: f64) -> bool {
    samples as f64 * (1.0 - share) > 1.0 - 1e-9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_needs_an_expected_sample_above_it() {
        let latency = |count: usize| Latency::from_samples((1..=count).map(|value| value as f64).collect());
        assert_eq!((latency(1).p50, latency(2).p50), (None, Some(1.5)));
        assert_eq!((latency(19).p95, latency(99).p99), (None, None));
        let hundred = latency(101);
        assert_eq!((hundred.p50, hundred.p95, hundred.p99), (Some(51.0), Some(96.0), Some(100.0)));
        assert_eq!((hundred.min, hundred.mean, hundred.max), (1.0, 51.0, 101.0));
        assert!(latency(20).p95.is_some() && latency(100).p99.is_some());
    }
}
