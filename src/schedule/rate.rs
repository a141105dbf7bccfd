//! How fast the device is, measured: the basis of an honest `Retry-After`.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How many tokens it takes until what was measured before them counts for a third. By tokens and not by batches: a
/// batch of one short pass takes about as long as one of a few hundred tokens, and says little of the rate under load.
const WINDOW_TOKENS: f64 = 65_536.0;
/// What a refused caller is told before anything was measured.
const UNKNOWN: Duration = Duration::from_secs(1);
/// The longest time that is told, in seconds: a year.
const LONGEST: f64 = 365.0 * 86_400.0;

/// Tokens per second: those of the last batches over their time, older ones fading.
#[derive(Debug, Default)]
pub(super) struct Rate(Mutex<Option<Measured>>);

#[derive(Debug, Clone, Copy)]
struct Measured {
    tokens: f64,
    seconds: f64,
}

impl Rate {
    fn measured(&self) -> MutexGuard<'_, Option<Measured>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a finished batch into account.
    pub fn record(&self, tokens: usize, time: Duration) {
        let (tokens, seconds) = (tokens as f64, time.as_secs_f64());
        if tokens <= 0.0 || seconds <= 0.0 {
            return;
        }
        let mut measured = self.measured();
        let before = measured.unwrap_or(Measured { tokens: 0.0, seconds: 0.0 });
        let fade = (-tokens / WINDOW_TOKENS).exp();
        *measured = Some(Measured { tokens: before.tokens * fade + tokens, seconds: before.seconds * fade + seconds });
    }

    /// As if nothing had been measured.
    pub fn forget(&self) {
        *self.measured() = None;
    }

    /// Tokens per second, once something was measured.
    pub fn get(&self) -> Option<f64> {
        self.measured().map(|measured| measured.tokens / measured.seconds)
    }

    /// How long `tokens` tokens take, as far as that is known.
    pub fn seconds_for(&self, tokens: usize) -> Option<Duration> {
        self.get().map(|rate| Duration::from_secs_f64((tokens as f64 / rate).min(LONGEST)))
    }

    /// How long to wait until `tokens` tokens are read; a second before anything was measured.
    pub fn time_for(&self, tokens: usize) -> Duration {
        self.seconds_for(tokens).unwrap_or(UNKNOWN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_follows_the_measured_rate() {
        let rate = Rate::default();
        assert_eq!(rate.time_for(1_000_000), UNKNOWN);
        rate.record(1000, Duration::from_millis(500));
        assert_eq!(rate.time_for(10_000), Duration::from_secs(5));
        assert_eq!(rate.time_for(1), Duration::from_micros(500));
        rate.record(0, Duration::from_secs(1));
        assert_eq!(rate.time_for(10_000), Duration::from_secs(5));
    }

    #[test]
    fn batches_count_by_their_tokens_and_old_ones_fade() {
        let rate = Rate::default();
        rate.record(16_000, Duration::from_secs(1));
        for _ in 0..100 {
            rate.record(10, Duration::from_millis(1));
        }
        assert!(rate.get().is_some_and(|rate| (15_000.0..16_000.0).contains(&rate)), "{rate:?}");
        for _ in 0..100 {
            rate.record(16_000, Duration::from_secs(2));
        }
        assert!(rate.get().is_some_and(|rate| (8_000.0..8_001.0).contains(&rate)), "{rate:?}");
    }
}
