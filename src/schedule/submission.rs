//! The passes that a request submits together: when the device works on them, and their spans.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::Span;

use super::permit::Reservation;
use crate::runtime::Output;

/// The time of one batch that held passes of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceInterval {
    /// When the batch went to the device.
    pub started: Instant,
    /// When it came back.
    pub ended: Instant,
    /// Tokens of the request in it.
    pub tokens: usize,
}

/// Passes that have run.
#[derive(Debug)]
pub struct CompletedPasses {
    /// One per pass, in order.
    pub outputs: Vec<Output>,
    /// When the passes were queued.
    pub queued_at: Instant,
    /// The batches that held passes of this request, in order. They do not overlap; between them
    /// the device ran batches of other requests.
    pub device_intervals: Vec<DeviceInterval>,
}

impl CompletedPasses {
    /// Time in which the device ran batches with passes of this request.
    #[must_use]
    pub fn forward_time(&self) -> Duration {
        self.device_intervals.iter().map(|interval| interval.ended.saturating_duration_since(interval.started)).sum()
    }

    /// Time in which it did not, from the first pass being queued to the last one being done.
    #[must_use]
    pub fn queue_time(&self) -> Duration {
        let last_end = self.device_intervals.last().map_or(self.queued_at, |interval| interval.ended);
        last_end.saturating_duration_since(self.queued_at).saturating_sub(self.forward_time())
    }
}

/// Kept by the passes of one submission. Its spans are children of the span in which the passes
/// were submitted: `queue` while all of them wait, `forward` while the device runs some of them.
#[derive(Debug)]
pub(super) struct Submission {
    pub reservation: Arc<Reservation>,
    pub queued_at: Instant,
    parent: Span,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    waiting_passes: usize,
    device_intervals: Vec<DeviceInterval>,
    /// The stage that the passes are in. Ends when it is replaced.
    stage: Span,
}

/// A count for a span. Traces have signed integers only; an unsigned one would become text.
fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Submission {
    /// A submission within the current span.
    pub fn new(reservation: &Arc<Reservation>, passes: usize) -> Arc<Self> {
        let parent = Span::current();
        let stage = tracing::info_span!(parent: &parent, "queue", podium.passes = signed(passes));
        Arc::new(Self {
            reservation: Arc::clone(reservation),
            queued_at: Instant::now(),
            parent,
            state: Mutex::new(State { waiting_passes: passes, device_intervals: Vec::new(), stage }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a batch with `passes` passes of this submission goes to the device.
    pub fn start_forward(&self, batch: &Span, passes: usize, tokens: usize) {
        let forward = tracing::info_span!(
            parent: &self.parent,
            "forward",
            podium.passes = signed(passes),
            podium.tokens = signed(tokens)
        );
        forward.follows_from(batch);
        let mut state = self.state();
        state.waiting_passes = state.waiting_passes.saturating_sub(passes);
        state.stage = forward;
    }

    /// Notes that the batch came back. `failed_passes` of its passes run again, or fail.
    pub fn end_forward(&self, interval: DeviceInterval, failed_passes: usize) {
        let mut state = self.state();
        let seconds = interval.ended.saturating_duration_since(interval.started).as_secs_f64();
        tracing::debug!(parent: &state.stage, seconds, failed_passes, "passes came back");
        state.device_intervals.push(interval);
        state.waiting_passes += failed_passes;
        state.stage = match state.waiting_passes {
            0 => Span::none(),
            passes => tracing::info_span!(parent: &self.parent, "queue", podium.passes = signed(passes)),
        };
    }

    pub fn take_device_intervals(&self) -> Vec<DeviceInterval> {
        std::mem::take(&mut self.state().device_intervals)
    }
}
