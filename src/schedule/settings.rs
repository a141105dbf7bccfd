//! Limits of admission, batching and time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Admission and batching (`[schedule]` in the configuration).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleSettings {
    /// Requests in flight, of all models; more are rejected with a time to retry.
    pub max_queued_requests: usize,
    /// Tokens that the device has yet to read for requests in flight, of all models.
    pub max_queued_tokens: usize,
    /// Seconds that a request may have to wait at the measured throughput; 0 for no limit.
    pub max_wait_seconds: u64,
    /// Tokens in one batch. A longer pass runs alone.
    pub max_batch_tokens: usize,
    /// Seconds from the arrival of a request to its answer; 0 for no limit.
    pub timeout_seconds: u64,
    /// Seconds that a batch may take before the server is not ready; 0 for no limit.
    pub stall_seconds: u64,
    /// Seconds that a batch may take before the device counts as lost; 0 for no limit.
    pub hang_seconds: u64,
}

impl ScheduleSettings {
    /// [`ScheduleSettings::timeout_seconds`]; `None` for no limit.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        seconds(self.timeout_seconds)
    }

    /// [`ScheduleSettings::stall_seconds`]; `None` for no limit.
    #[must_use]
    pub fn stall_limit(&self) -> Option<Duration> {
        seconds(self.stall_seconds)
    }

    /// [`ScheduleSettings::hang_seconds`]; `None` for no limit.
    #[must_use]
    pub fn hang_limit(&self) -> Option<Duration> {
        seconds(self.hang_seconds)
    }

    /// [`ScheduleSettings::max_wait_seconds`]; `None` for no limit.
    #[must_use]
    pub fn max_wait(&self) -> Option<Duration> {
        seconds(self.max_wait_seconds)
    }

    /// Eight requests, 100 000 tokens, batches of 100 tokens, and no time limits.
    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Self {
            max_queued_requests: 8,
            max_queued_tokens: 100_000,
            max_wait_seconds: 0,
            max_batch_tokens: 100,
            timeout_seconds: 0,
            stall_seconds: 0,
            hang_seconds: 0,
        }
    }
}

fn seconds(value: u64) -> Option<Duration> {
    (value > 0).then(|| Duration::from_secs(value))
}
