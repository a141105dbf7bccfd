//! The request limit of one API key, and the headers that report it.
//!
//! [`governor`] keeps the limit (GCRA): a full minute's requests may come at once, and each request
//! becomes available again after `60 s / limit`.

use std::num::NonZeroU32;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use governor::clock::{Clock, MonotonicClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

/// Header: requests per minute (`OpenAI`'s name, as the next two).
pub const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit-requests");
/// Header: requests that are left now.
pub const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining-requests");
/// Header: time until all requests of the limit are available again.
pub const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset-requests");

/// Counts the requests of one key against its limit.
#[derive(Debug)]
pub struct RequestLimiter<C: Clock = MonotonicClock> {
    requests_per_minute: NonZeroU32,
    /// Time after which one used request is available again.
    refill_interval: Duration,
    limiter: RateLimiter<NotKeyed, InMemoryState, C, StateInformationMiddleware>,
}

impl<C: Clock> RequestLimiter<C> {
    /// A limiter of which nothing is used yet.
    pub fn new(requests_per_minute: NonZeroU32, clock: C) -> Self {
        let quota = Quota::per_minute(requests_per_minute);
        Self {
            requests_per_minute,
            refill_interval: quota.replenish_interval(),
            limiter: RateLimiter::direct_with_clock(quota, clock).with_middleware(),
        }
    }

    /// The limit.
    pub const fn requests_per_minute(&self) -> u32 {
        self.requests_per_minute.get()
    }

    /// Uses one request if one is left. A rejected request uses nothing.
    pub fn try_acquire(&self) -> RateLimitStatus {
        let limit = self.requests_per_minute.get();
        match self.limiter.check() {
            Ok(snapshot) => {
                let remaining = snapshot.remaining_burst_capacity();
                // governor reports whole requests, so this rounds up to the next whole refill
                // interval.
                let reset = self.refill_interval * limit.saturating_sub(remaining);
                RateLimitStatus { limit, remaining, reset, retry_after: None }
            }
            Err(not_until) => {
                let wait = not_until.wait_time_from(self.limiter.clock().now());
                let reset = wait + self.refill_interval * (limit - 1);
                RateLimitStatus { limit, remaining: 0, reset, retry_after: Some(wait) }
            }
        }
    }
}

/// State of a key's limit after one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimitStatus {
    /// Requests per minute.
    pub limit: u32,
    /// Requests that are left now.
    pub remaining: u32,
    /// Time after which the full limit is available again, rounded up to whole refill intervals.
    pub reset: Duration,
    /// Set if the request is rejected: time until the next one is accepted.
    pub retry_after: Option<Duration>,
}

impl RateLimitStatus {
    /// Adds the three rate-limit headers.
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.insert(LIMIT, HeaderValue::from(self.limit));
        headers.insert(REMAINING, HeaderValue::from(self.remaining));
        if let Ok(reset) = HeaderValue::from_str(&format_duration(self.reset)) {
            headers.insert(RESET, reset);
        }
    }
}

/// A duration as `OpenAI` writes it and Go parses it: `120ms`, `1.5s`; rounded up to milliseconds.
fn format_duration(duration: Duration) -> String {
    let milliseconds = duration.as_nanos().div_ceil(1_000_000);
    if milliseconds < 1000 { format!("{milliseconds}ms") } else { format!("{}s", milliseconds as f64 / 1000.0) }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limiter(requests_per_minute: u32) -> (RequestLimiter<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (RequestLimiter::new(NonZeroU32::new(requests_per_minute).unwrap(), clock.clone()), clock)
    }

    #[test]
    fn a_full_limit_can_be_used_at_once_and_then_one_request_per_interval() {
        let (limiter, clock) = limiter(30);
        for used in 1..=30 {
            let expected =
                RateLimitStatus { limit: 30, remaining: 30 - used, reset: used * 2 * SECOND, retry_after: None };
            assert_eq!(limiter.try_acquire(), expected);
        }
        let rejected = limiter.try_acquire();
        assert_eq!((rejected.retry_after, rejected.reset), (Some(2 * SECOND), 60 * SECOND));
        clock.advance(Duration::from_nanos(1_999_999_999));
        assert_eq!(limiter.try_acquire().retry_after, Some(Duration::from_nanos(1)));
        clock.advance(Duration::from_nanos(1));
        assert_eq!(limiter.try_acquire().retry_after, None);
        assert_eq!(limiter.try_acquire().retry_after, Some(2 * SECOND));
    }

    #[test]
    fn a_rejected_request_uses_nothing() {
        let (limiter, clock) = limiter(1);
        assert_eq!(limiter.try_acquire().retry_after, None);
        for second in 0..60 {
            let left = (60 - second) * SECOND;
            let expected = RateLimitStatus { limit: 1, remaining: 0, reset: left, retry_after: Some(left) };
            assert_eq!(limiter.try_acquire(), expected);
            clock.advance(SECOND);
        }
        assert_eq!(limiter.try_acquire().retry_after, None);
    }

    #[test]
    fn unused_time_adds_no_more_than_the_limit() {
        let (limiter, clock) = limiter(2);
        clock.advance(Duration::from_secs(86_400 * 365));
        let first = RateLimitStatus { limit: 2, remaining: 1, reset: 30 * SECOND, retry_after: None };
        assert_eq!(limiter.try_acquire(), first);
        assert_eq!(limiter.try_acquire().remaining, 0);
        assert_eq!(limiter.try_acquire().retry_after, Some(30 * SECOND));
    }

    #[test]
    fn waiting_for_the_reported_reset_makes_the_full_limit_available() {
        let (limiter, clock) = limiter(7);
        limiter.try_acquire();
        clock.advance(5 * SECOND);
        let reset = limiter.try_acquire().reset;
        assert!(reset <= 60 * SECOND, "{reset:?}");
        clock.advance(reset);
        assert_eq!(limiter.try_acquire().remaining, 6);
    }

    #[test]
    fn a_duration_is_written_in_milliseconds_or_seconds_and_rounded_up() {
        for (nanoseconds, text) in [
            (0, "0ms"),
            (1, "1ms"),
            (99_000_001, "100ms"),
            (1_000_000_000, "1s"),
            (1_500_000_000, "1.5s"),
            (60_000_000_000, "60s"),
        ] {
            assert_eq!(format_duration(Duration::from_nanos(nanoseconds)), text);
        }
    }
}
