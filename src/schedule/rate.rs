//! How fast the device is, measured: the basis of an honest `Retry-After`.

use std::sync::Mutex;
use std::time::Duration;

/// The weight of the latest batch in the running average.
const WEIGHT: f64 = 0.2;
/// What a refused caller is told before anything was measured.
const UNKNOWN: Duration = Duration::from_secs(1);
/// The longest time that is told, in seconds: a year.
const LONGEST: f64 = 365.0 * 86_400.0;

/// Tokens per second, as an exponentially weighted average over batches.
#[derive(Debug, Default)]
pub(super) struct Rate(Mutex<Option<f64>>);

impl Rate {
    /// Takes a finished batch into account.
    pub fn record(&self, tokens: usize, time: Duration) {
        let seconds = time.as_secs_f64();
        if tokens == 0 || seconds <= 0. {
            return;
        }
        let sample = tokens as f64 / seconds;
        let mut rate = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *rate = Some(rate.map_or(sample, |rate| rate + WEIGHT * (sample - rate)));
    }

    /// Tokens per second, once something was measured.
    pub fn get(&self) -> Option<f64> {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// How long `tokens` tokens take, as far as that is known.
    pub fn seconds_for(&self, tokens: usize) -> Option<Duration> {
        self.get().map(|rate| Duration::from_secs_f64((tokens as f64 / rate).min(LONGEST)))
    }

    /// How long to wait until `tokens` tokens are read; at least a second, so that nobody hammers, and at most an hour.
    pub fn time_for(&self, tokens: usize) -> Duration {
        let time = self.seconds_for(tokens).unwrap_or(UNKNOWN);
        time.clamp(Duration::from_secs(1), Duration::from_secs(3600))
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
        assert_eq!(rate.time_for(1), Duration::from_secs(1));
        rate.record(0, Duration::from_secs(1));
        assert_eq!(rate.time_for(10_000), Duration::from_secs(5));
    }
}
