//! Distributions of the batches that ran: their passes, tokens and time on the device.
//!
//! Batches count when they come back, so work for requests whose client has left is included.
//! Recording a batch takes one lock.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::runtime::PrefixCacheStatistics;

const PASSES: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];
const TOKENS: [f64; 10] = [128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16_384.0, 32_768.0, 131_072.0];
const SECONDS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// A histogram with fixed buckets.
#[derive(Debug, Clone, PartialEq)]
pub struct Distribution {
    /// Upper bounds of the buckets, ascending.
    bounds: &'static [f64],
    /// Values per bucket; the last bucket has no upper bound.
    counts: Vec<u64>,
    sum: f64,
}

impl Distribution {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    fn record(&mut self, value: f64) {
        self.counts[self.bounds.partition_point(|bound| *bound < value)] += 1;
        self.sum += value;
    }

    /// Each bound, ascending, with the number of values that are at most that large.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let running = self.counts.iter().scan(0, |total, count| {
            *total += count;
            Some(*total)
        });
        self.bounds.iter().copied().zip(running)
    }

    /// The number of values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of the values.
    #[must_use]
    pub const fn sum(&self) -> f64 {
        self.sum
    }
}

/// The batches that ran on one model.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchStatistics {
    /// Passes per batch.
    pub passes: Distribution,
    /// Tokens per batch.
    pub tokens: Distribution,
    /// Seconds that a batch took on the device.
    pub seconds: Distribution,
    /// Prefix-cache statistics, as the runtime counted them after the last batch.
    pub prefixes: PrefixCacheStatistics,
}

impl Default for BatchStatistics {
    fn default() -> Self {
        let [passes, tokens, seconds] = [&PASSES[..], &TOKENS, &SECONDS].map(Distribution::new);
        Self { passes, tokens, seconds, prefixes: PrefixCacheStatistics::default() }
    }
}

/// Collects [`BatchStatistics`].
#[derive(Debug, Default)]
pub(super) struct BatchRecorder(Mutex<BatchStatistics>);

impl BatchRecorder {
    pub fn record(&self, passes: usize, tokens: usize, time: Duration, prefixes: PrefixCacheStatistics) {
        let mut statistics = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        statistics.passes.record(passes as f64);
        statistics.tokens.record(tokens as f64);
        statistics.seconds.record(time.as_secs_f64());
        statistics.prefixes = prefixes;
    }

    pub fn statistics(&self) -> BatchStatistics {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_for_its_bound_and_all_larger_ones() {
        let recorder = BatchRecorder::default();
        for (passes, tokens) in [(1, 100), (2, 128), (3, 200_000)] {
            let prefixes = PrefixCacheStatistics { hit_tokens: tokens as u64, ..PrefixCacheStatistics::default() };
            recorder.record(passes, tokens, Duration::from_millis(10), prefixes);
        }
        let BatchStatistics { passes, tokens, seconds, prefixes } = recorder.statistics();
        assert_eq!(passes.cumulative().take(4).collect::<Vec<_>>(), [(1.0, 1), (2.0, 2), (4.0, 3), (8.0, 3)]);
        assert_eq!((tokens.cumulative().next(), tokens.cumulative().last()), (Some((128.0, 2)), Some((131_072.0, 2))));
        assert_eq!((tokens.count(), seconds.count()), (3, 3));
        assert!((tokens.sum() - 200_228.0).abs() < 1e-9 && (seconds.sum() - 0.03).abs() < 1e-9);
        assert_eq!(prefixes.hit_tokens, 200_000, "the runtime's latest statistics replace earlier ones");
    }
}
