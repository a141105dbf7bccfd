//! Who runs when: admission, the queue, and batches by token budget.

mod settings;

pub use settings::ScheduleSettings;

/// What waits and runs at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueStatus {
    /// Requests accepted and not yet answered.
    pub requests: usize,
    /// Passes waiting for the device.
    pub waiting_passes: usize,
    /// Tokens of those passes.
    pub waiting_tokens: usize,
    /// Whether new requests are refused because the server is shutting down.
    pub draining: bool,
}
