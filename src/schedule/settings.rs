//! How much may wait, and how much runs at once.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Admission and batching (`[schedule]` in the configuration).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleSettings {
    /// Requests that may be accepted and unfinished at once; the next one is told to try again.
    pub max_queued_requests: usize,
    /// Tokens that accepted requests may have before them, all together.
    pub max_queued_tokens: usize,
    /// Seconds that a request may have to wait at the measured rate; 0 is no limit.
    pub max_wait_seconds: u64,
    /// Tokens that go to the device in one batch. A longer pass runs alone.
    pub max_batch_tokens: usize,
    /// Seconds that an accepted request may take in all; 0 is no limit.
    pub timeout_seconds: u64,
    /// Seconds that a batch may be on the device before the server calls itself unready; 0 is no limit.
    pub stall_seconds: u64,
}

impl ScheduleSettings {
    /// [`ScheduleSettings::timeout_seconds`] as a duration; none is no limit.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        (self.timeout_seconds > 0).then(|| Duration::from_secs(self.timeout_seconds))
    }

    /// [`ScheduleSettings::stall_seconds`] as a duration; none is no limit.
    #[must_use]
    pub fn stall_limit(&self) -> Option<Duration> {
        (self.stall_seconds > 0).then(|| Duration::from_secs(self.stall_seconds))
    }

    /// [`ScheduleSettings::max_wait_seconds`] as a duration; none is no limit.
    #[must_use]
    pub fn max_wait(&self) -> Option<Duration> {
        (self.max_wait_seconds > 0).then(|| Duration::from_secs(self.max_wait_seconds))
    }
}
