//! How much may wait, and how much runs at once.

use serde::{Deserialize, Serialize};

/// Admission and batching (`[schedule]` in the configuration).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleSettings {
    /// Requests that may be accepted and unfinished at once; the next one is told to try again.
    pub max_queued_requests: usize,
    /// Tokens that go to the device in one batch. A longer pass runs alone.
    pub max_batch_tokens: usize,
    /// Seconds that an accepted request may take in all; 0 is no limit.
    pub timeout_seconds: u64,
}
