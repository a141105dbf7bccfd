//! What went to the device, as distributions: how large batches are, and how long they take.
//!
//! Counted where batches run, so that work whose client has left by then is in it too. A batch costs one lock.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::runtime::PrefixCacheStatistics;

const PASSES: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];
const TOKENS: [f64; 10] = [128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16_384.0, 32_768.0, 131_072.0];
const SECONDS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// How many values were how large.
#[derive(Debug, Clone, PartialEq)]
pub struct Distribution {
    bounds: &'static [f64],
    /// One for each bound, and one for what is above the last.
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

    /// Each bound, ascending, with how many values were at most that.
    pub fn up_to(&self) -> impl Iterator<Item = (f64, u64)> {
        let running = self.counts.iter().scan(0, |total, count| {
            *total += count;
            Some(*total)
        });
        self.bounds.iter().copied().zip(running)
    }

    /// How many values there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What they add up to.
    #[must_use]
    pub const fn sum(&self) -> f64 {
        self.sum
    }
}

/// The batches that have run.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchStatistics {
    /// Passes in a batch.
    pub passes: Distribution,
    /// Tokens in a batch.
    pub tokens: Distribution,
    /// How long a batch kept the device, in seconds.
    pub seconds: Distribution,
    /// What the batches took from earlier ones.
    pub prefixes: PrefixCacheStatistics,
}

impl Default for BatchStatistics {
    fn default() -> Self {
        let [passes, tokens, seconds] = [&PASSES[..], &TOKENS, &SECONDS].map(Distribution::new);
        Self { passes, tokens, seconds, prefixes: PrefixCacheStatistics::default() }
    }
}

/// Where the worker counts.
#[derive(Debug, Default)]
pub(super) struct Batches(Mutex<BatchStatistics>);

impl Batches {
    pub(super) fn record(&self, passes: usize, tokens: usize, time: Duration, prefixes: PrefixCacheStatistics) {
        let mut statistics = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        statistics.passes.record(passes as f64);
        statistics.tokens.record(tokens as f64);
        statistics.seconds.record(time.as_secs_f64());
        statistics.prefixes = prefixes;
    }

    pub(super) fn statistics(&self) -> BatchStatistics {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_for_its_bound_and_all_above() {
        let batches = Batches::default();
        for (passes, tokens) in [(1, 100), (2, 128), (3, 200_000)] {
            let prefixes = PrefixCacheStatistics { hit_tokens: tokens as u64, ..PrefixCacheStatistics::default() };
            batches.record(passes, tokens, Duration::from_millis(10), prefixes);
        }
        let BatchStatistics { passes, tokens, seconds, prefixes } = batches.statistics();
        assert_eq!(passes.up_to().take(4).collect::<Vec<_>>(), [(1.0, 1), (2.0, 2), (4.0, 3), (8.0, 3)]);
        assert_eq!((tokens.up_to().next(), tokens.up_to().last()), (Some((128.0, 2)), Some((131_072.0, 2))));
        assert_eq!((tokens.count(), seconds.count()), (3, 3));
        assert!((tokens.sum() - 200_228.0).abs() < 1e-9 && (seconds.sum() - 0.03).abs() < 1e-9);
        assert_eq!(prefixes.hit_tokens, 200_000, "the runtime counts, and its last word holds");
    }
}
