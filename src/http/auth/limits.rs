//! How often a key may ask: a bucket of requests that refills steadily, in exact integers.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName, HeaderValue};

/// A full minute in nanoseconds. In this module a request costs so many units, and every nanosecond gives back as many
/// units as the limit has requests: nothing is ever rounded.
const REQUEST: u128 = 60_000_000_000;

/// Requests that a full bucket holds (`OpenAI`'s name, as the other two).
pub const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit-requests");
/// Requests that are left in it now.
pub const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining-requests");
/// How long until it is full again.
pub const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset-requests");

/// A token bucket: it holds a minute's worth of requests, and refills within a minute.
#[derive(Debug)]
pub struct Bucket {
    per_minute: u32,
    level: Mutex<Level>,
}

#[derive(Debug)]
struct Level {
    /// Units that are missing from a full bucket.
    missing: u128,
    /// When that was so.
    at: Instant,
}

/// What a key may still do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Requests a minute.
    pub limit: u32,
    /// Requests that could be made at once.
    pub remaining: u32,
    /// How long until the bucket is full.
    pub reset: Duration,
    /// For a request that is refused: how long until one would be taken.
    pub wait: Option<Duration>,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn new(per_minute: u32, now: Instant) -> Self {
        Self { per_minute, level: Mutex::new(Level { missing: 0, at: now }) }
    }

    /// Requests a minute.
    #[must_use]
    pub const fn per_minute(&self) -> u32 {
        self.per_minute
    }

    /// Takes one request out, or says how long to wait. A request that is refused costs nothing.
    pub fn take(&self, now: Instant) -> Standing {
        let rate = u128::from(self.per_minute);
        let capacity = rate * REQUEST;
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let refilled = now.saturating_duration_since(level.at).as_nanos() * rate;
        level.missing = level.missing.saturating_sub(refilled);
        level.at = level.at.max(now);

        let lacking = (level.missing + REQUEST).saturating_sub(capacity);
        if lacking == 0 {
            level.missing += REQUEST;
        }
        Standing {
            limit: self.per_minute,
            remaining: u32::try_from((capacity - level.missing) / REQUEST).unwrap_or(self.per_minute),
            reset: refill_time(level.missing, rate),
            wait: (lacking > 0).then(|| refill_time(lacking, rate)),
        }
    }
}

/// How long it takes to refill so many units: a minute at most.
fn refill_time(units: u128, rate: u128) -> Duration {
    Duration::from_nanos(units.div_ceil(rate) as u64)
}

impl Standing {
    /// Tells the client.
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.insert(LIMIT, HeaderValue::from(self.limit));
        headers.insert(REMAINING, HeaderValue::from(self.remaining));
        if let Ok(reset) = HeaderValue::from_str(&duration_text(self.reset)) {
            headers.insert(RESET, reset);
        }
    }
}

/// As `OpenAI` writes it (and Go reads it): `120ms`, `1.5s`; rounded up to milliseconds.
fn duration_text(duration: Duration) -> String {
    let milliseconds = duration.as_nanos().div_ceil(1_000_000);
    if milliseconds < 1000 { format!("{milliseconds}ms") } else { format!("{}s", milliseconds as f64 / 1000.0) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_full_bucket_gives_its_limit_at_once_and_then_one_at_a_time() {
        let start = Instant::now();
        let bucket = Bucket::new(30, start);
        for left in (0..30).rev() {
            let standing = bucket.take(start);
            assert_eq!((standing.remaining, standing.wait), (left, None));
        }
        assert_eq!(bucket.take(start).wait, Some(2 * SECOND));
        assert_eq!(bucket.take(start + Duration::from_nanos(1_999_999_999)).wait, Some(Duration::from_nanos(1)));
        assert_eq!(bucket.take(start + 2 * SECOND).wait, None);
        assert_eq!(bucket.take(start + 2 * SECOND).wait, Some(2 * SECOND));
    }

    #[test]
    fn a_request_that_is_refused_costs_nothing() {
        let start = Instant::now();
        let bucket = Bucket::new(1, start);
        assert_eq!(bucket.take(start).wait, None);
        for second in 0..60 {
            let standing = bucket.take(start + second * SECOND);
            assert_eq!(standing.wait, Some((60 - second) * SECOND));
            assert_eq!((standing.remaining, standing.reset), (0, (60 - second) * SECOND));
        }
        assert_eq!(bucket.take(start + 60 * SECOND).wait, None);
    }

    #[test]
    fn a_bucket_never_holds_more_than_its_limit() {
        let start = Instant::now();
        let bucket = Bucket::new(2, start);
        let later = start + Duration::from_secs(86_400 * 365);
        let standing = bucket.take(later);
        assert_eq!(standing, Standing { limit: 2, remaining: 1, reset: 30 * SECOND, wait: None });
        assert_eq!(bucket.take(later).remaining, 0);
        assert_eq!(bucket.take(later).wait, Some(30 * SECOND));
    }

    #[test]
    fn a_clock_that_seems_to_step_back_gives_nothing_away() {
        let start = Instant::now();
        let bucket = Bucket::new(1, start);
        assert_eq!(bucket.take(start + 50 * SECOND).wait, None);
        assert_eq!(bucket.take(start).wait, Some(60 * SECOND));
        assert_eq!(bucket.take(start + 109 * SECOND).wait, Some(SECOND));
        assert_eq!(bucket.take(start + 110 * SECOND).wait, None);
    }

    #[test]
    fn a_duration_is_written_as_clients_read_it() {
        for (nanoseconds, text) in [
            (0, "0ms"),
            (1, "1ms"),
            (99_000_001, "100ms"),
            (1_000_000_000, "1s"),
            (1_500_000_000, "1.5s"),
            (60_000_000_000, "60s"),
        ] {
            assert_eq!(duration_text(Duration::from_nanos(nanoseconds)), text);
        }
    }

    proptest! {
        /// Against counting: no minute ever sees more than the full bucket and what flowed in, and whoever waits as
        /// long as told is served.
        #[test]
        fn the_wait_is_exact_and_the_rate_is_kept(rate in 1_u32..1_000_000, pauses in prop::collection::vec(0_u64..10_000_000_000, 1..60)) {
            let start = Instant::now();
            let bucket = Bucket::new(rate, start);
            let mut now = start;
            let mut taken = 0_u128;
            for pause in pauses {
                now += Duration::from_nanos(pause);
                if let Some(wait) = bucket.take(now).wait {
                    prop_assert!(bucket.take(now + wait.saturating_sub(Duration::from_nanos(1))).wait.is_some());
                    now += wait;
                    prop_assert_eq!(bucket.take(now).wait, None);
                }
                taken += 1;
                let elapsed = now.duration_since(start).as_nanos();
                prop_assert!(taken * REQUEST <= u128::from(rate) * (REQUEST + elapsed));
            }
        }
    }
}
