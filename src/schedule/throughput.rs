//! Measured throughput in tokens a second, from which waiting times and `Retry-After` are computed.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Tokens after which an older measurement counts for a third. The window is in tokens and not in
/// batches: a batch of one short pass takes about as long as one of a few hundred tokens, and says
/// little about throughput under load.
const WINDOW_TOKENS: f64 = 65_536.0;
/// The wait that is assumed before anything was measured.
const DEFAULT_WAIT: Duration = Duration::from_secs(1);
/// The longest wait that is computed, in seconds: a year.
const MAX_WAIT_SECONDS: f64 = 365.0 * 86_400.0;

/// An exponentially weighted average of tokens per second.
#[derive(Debug, Default)]
pub(super) struct Throughput(Mutex<Option<Measured>>);

#[derive(Debug, Clone, Copy)]
struct Measured {
    tokens: f64,
    seconds: f64,
}

impl Throughput {
    fn measured(&self) -> MutexGuard<'_, Option<Measured>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a finished batch.
    pub fn record(&self, tokens: usize, time: Duration) {
        let (tokens, seconds) = (tokens as f64, time.as_secs_f64());
        if tokens <= 0.0 || seconds <= 0.0 {
            return;
        }
        let mut measured = self.measured();
        let before = measured.unwrap_or(Measured { tokens: 0.0, seconds: 0.0 });
        let weight = (-tokens / WINDOW_TOKENS).exp();
        *measured =
            Some(Measured { tokens: before.tokens * weight + tokens, seconds: before.seconds * weight + seconds });
    }

    /// Tokens per second; `None` before the first batch.
    pub fn get(&self) -> Option<f64> {
        self.measured().map(|measured| measured.tokens / measured.seconds)
    }

    /// Time to read `tokens` tokens; `None` before the first batch.
    pub fn time_for(&self, tokens: usize) -> Option<Duration> {
        self.get().map(|rate| Duration::from_secs_f64((tokens as f64 / rate).min(MAX_WAIT_SECONDS)))
    }

    /// Time to read `tokens` tokens; one second before the first batch.
    pub fn time_for_or_default(&self, tokens: usize) -> Duration {
        self.time_for(tokens).unwrap_or(DEFAULT_WAIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_follow_the_measured_throughput() {
        let throughput = Throughput::default();
        assert_eq!(throughput.time_for_or_default(1_000_000), DEFAULT_WAIT);
        throughput.record(1000, Duration::from_millis(500));
        assert_eq!(throughput.time_for(10_000), Some(Duration::from_secs(5)));
        assert_eq!(throughput.time_for(1), Some(Duration::from_micros(500)));
        throughput.record(0, Duration::from_secs(1));
        assert_eq!(throughput.time_for_or_default(10_000), Duration::from_secs(5));
    }

    #[test]
    fn batches_count_by_their_tokens_and_older_ones_less() {
        let throughput = Throughput::default();
        throughput.record(16_000, Duration::from_secs(1));
        for _ in 0..100 {
            throughput.record(10, Duration::from_millis(1));
        }
        assert!(throughput.get().is_some_and(|rate| (15_000.0..16_000.0).contains(&rate)), "{throughput:?}");
        for _ in 0..100 {
            throughput.record(16_000, Duration::from_secs(2));
        }
        assert!(throughput.get().is_some_and(|rate| (8_000.0..8_001.0).contains(&rate)), "{throughput:?}");
    }
}
