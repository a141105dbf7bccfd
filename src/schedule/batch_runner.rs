//! Runs batches on the device. A batch that fails is bisected, so that only the culprit fails.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{JoinError, JoinHandle};
use tracing::Instrument;

use super::batch_limit::AdaptiveBatchLimit;
use super::device::DeviceLease;
use super::queued_pass::QueuedPass;
use super::settings::ScheduleSettings;
use super::shared::Shared;
use super::submission::{DeviceInterval, Submission};
use crate::runtime::{ForwardPass, Output, PreparedBatch, Runtime, RuntimeError};

type BatchResult = Result<Vec<Output>, RuntimeError>;

/// Runs the batches of one model.
pub(super) struct BatchRunner {
    runtime: Arc<dyn Runtime>,
    limit: AdaptiveBatchLimit,
    shared: Arc<Shared>,
}

impl BatchRunner {
    pub fn new(runtime: Arc<dyn Runtime>, shared: Arc<Shared>) -> Self {
        Self { runtime, limit: AdaptiveBatchLimit::default(), shared }
    }

    /// The most tokens that the next batch may have.
    pub fn max_tokens(&self) -> usize {
        self.limit.tokens(self.shared.settings().max_batch_tokens)
    }

    /// Runs a batch under a lease of the device, until each of its passes has a result. `prepared`
    /// is the same batch, if it was prepared.
    ///
    /// A batch that fails runs again in two halves, without the pass that the error names. Finding
    /// several culprits among `n` passes costs at most `n log n` passes, and a single one about a
    /// second run of the batch.
    pub async fn run(&mut self, batch: Vec<QueuedPass>, mut prepared: Option<PreparedBatch>, lease: DeviceLease) {
        let mut groups = vec![batch];
        let mut started = lease.acquired_at;
        while let Some(mut group) = groups.pop() {
            group.retain(|pass| !pass.is_abandoned());
            if group.is_empty() {
                continue;
            }
            if let Some(reason) = self.shared.device.lost_reason() {
                fail_all(group, &RuntimeError::DeviceLost(reason));
                continue;
            }
            let tokens = group.iter().map(|pass| pass.tokens).sum();
            // Without the passes that are abandoned by now it is another batch, as are its halves.
            let prepared = prepared.take().filter(|prepared| prepared.passes().len() == group.len());
            match self.run_group(&group, prepared, tokens).await {
                Ok(outputs) => {
                    self.record_success(&group, tokens, started.elapsed());
                    for (pass, output) in group.into_iter().zip(outputs) {
                        pass.reply(Ok(output));
                    }
                }
                Err(error) => groups.extend(self.bisect_failed_batch(error, group, tokens)),
            }
            started = Instant::now();
        }
    }

    fn record_success(&mut self, group: &[QueuedPass], tokens: usize, time: Duration) {
        if group.iter().all(|pass| pass.submission.reservation.is_measured) {
            self.shared.throughput.record(tokens, time);
            self.shared.device.throughput.record(tokens, time);
        }
        self.limit.record_success(self.shared.settings().max_batch_tokens, tokens);
    }

    /// The groups in which a failed batch runs again, the last one first. Replies to the culprit,
    /// or to every pass if the device is lost.
    fn bisect_failed_batch(
        &mut self,
        error: RuntimeError,
        mut group: Vec<QueuedPass>,
        tokens: usize,
    ) -> Vec<Vec<QueuedPass>> {
        match &error {
            RuntimeError::DeviceLost(reason) => {
                self.shared.device.mark_lost(reason);
                fail_all(group, &error);
                return Vec::new();
            }
            RuntimeError::OutOfMemory(reason) => {
                let limit = self.limit.reduce(self.shared.settings().max_batch_tokens, tokens);
                let passes = group.len();
                tracing::warn!(
                    reason,
                    passes,
                    tokens,
                    limit,
                    "device out of memory: smaller limit on a batch's tokens"
                );
            }
            RuntimeError::InvalidPass { .. }
            | RuntimeError::NonFinite { .. }
            | RuntimeError::Device(_)
            | RuntimeError::Panicked => {}
        }
        let culprit = if group.len() == 1 { Some(0) } else { error.culprit().filter(|pass| *pass < group.len()) };
        if let Some(culprit) = culprit {
            group.remove(culprit).reply(Err(error));
        }
        split_by_tokens(group)
    }

    /// Runs a group once, with the spans and the times of its submissions.
    async fn run_group(&self, group: &[QueuedPass], prepared: Option<PreparedBatch>, tokens: usize) -> BatchResult {
        let is_prepared = prepared.is_some();
        let span = tracing::debug_span!(parent: None, "batch", passes = group.len(), tokens, is_prepared);
        let submissions = by_submission(group);
        for (submission, passes, tokens) in submissions.values() {
            submission.start_forward(&span, *passes, *tokens);
        }
        let started = Instant::now();
        let result = self.forward(group, prepared).instrument(span.clone()).await;
        let ended = Instant::now();
        let time = ended - started;
        self.shared.batches.record(group.len(), tokens, time, self.runtime.prefix_cache());
        for (submission, passes, tokens) in submissions.values() {
            let interval = DeviceInterval { started, ended, tokens: *tokens };
            submission.end_forward(interval, if result.is_ok() { 0 } else { *passes });
        }
        let (requests, seconds) = (submissions.len(), time.as_secs_f64());
        match &result {
            Ok(_) => tracing::debug!(parent: &span, requests, seconds, "batch done"),
            Err(error) => tracing::debug!(parent: &span, requests, seconds, %error, "batch failed"),
        }
        result
    }

    /// Runs a group on a blocking thread. A panic fails the group and not the worker; its message
    /// may hold a request's text and stays with the panic hook. The group keeps its passes, to run
    /// again.
    async fn forward(&self, group: &[QueuedPass], prepared: Option<PreparedBatch>) -> BatchResult {
        let count = group.len();
        let runtime = Arc::clone(&self.runtime);
        let task = if let Some(prepared) = prepared {
            tokio::task::spawn_blocking(move || runtime.run_prepared(prepared))
        } else {
            let passes: Vec<ForwardPass> = group.iter().map(|queued| ForwardPass::clone(&queued.pass)).collect();
            tokio::task::spawn_blocking(move || runtime.run(&passes))
        };
        match self.join_within_limits(task).await? {
            Ok(Ok(outputs)) if outputs.len() == count => Ok(outputs),
            Ok(Ok(outputs)) => {
                Err(RuntimeError::Device(format!("the runtime returned {} outputs for {count} passes", outputs.len())))
            }
            Ok(Err(error)) => Err(error),
            Err(failure) => {
                Err(failure.try_into_panic().map_or(RuntimeError::Panicked, |panic| RuntimeError::from_panic(&*panic)))
            }
        }
    }

    /// Waits for a batch. After `stall_seconds` the device counts as stalled until the batch comes
    /// back, after `hang_seconds` as lost.
    async fn join_within_limits(
        &self,
        mut task: JoinHandle<BatchResult>,
    ) -> Result<Result<BatchResult, JoinError>, RuntimeError> {
        let settings = self.shared.settings();
        let started = Instant::now();
        // A stall limit that is not below the hang limit never takes effect.
        let is_below_hang = |stall: &Duration| settings.hang_limit().is_none_or(|hang| *stall < hang);
        let Some(limit) = settings.stall_limit().filter(is_below_hang) else {
            return join_before_hang(task, &settings, started).await;
        };
        if let Ok(joined) = tokio::time::timeout(limit, &mut task).await {
            return Ok(joined);
        }
        let _stall = self.shared.device.mark_stalled();
        tracing::error!(seconds = limit.as_secs(), "device stalled: not ready until the batch comes back");
        let joined = join_before_hang(task, &settings, started).await?;
        tracing::warn!(seconds = started.elapsed().as_secs(), "the batch came back: ready again");
        Ok(joined)
    }
}

/// Waits for a batch that started at `started`, at most until `hang_seconds` have passed since. The
/// batch cannot be stopped: its thread is left behind.
async fn join_before_hang<T>(
    task: JoinHandle<T>,
    settings: &ScheduleSettings,
    started: Instant,
) -> Result<Result<T, JoinError>, RuntimeError> {
    let Some(limit) = settings.hang_limit() else { return Ok(task.await) };
    let left = limit.saturating_sub(started.elapsed());
    tokio::time::timeout(left, task).await.map_err(|_elapsed| {
        RuntimeError::DeviceLost(format!("a batch has not come back for {} s (schedule.hang_seconds)", limit.as_secs()))
    })
}

/// The submissions of a group by their sequence, with their passes and tokens in it.
fn by_submission(group: &[QueuedPass]) -> BTreeMap<u64, (Arc<Submission>, usize, usize)> {
    let mut found = BTreeMap::new();
    for queued in group {
        let sequence = queued.submission.reservation.sequence();
        let (_, passes, tokens) =
            found.entry(sequence).or_insert_with(|| (Arc::clone(&queued.submission), 0_usize, 0_usize));
        *passes += 1;
        *tokens += queued.tokens;
    }
    found
}

fn fail_all(group: Vec<QueuedPass>, error: &RuntimeError) {
    for pass in group {
        pass.reply(Err(error.clone()));
    }
}

/// Two groups of about as many tokens, the second half first; empty ones are left out.
fn split_by_tokens(mut group: Vec<QueuedPass>) -> Vec<Vec<QueuedPass>> {
    let total: usize = group.iter().map(|pass| pass.tokens).sum();
    let mut before = 0;
    let middle = group.iter().position(|pass| {
        before += pass.tokens;
        2 * before >= total
    });
    // Neither half may be the whole group, or it would run again for ever.
    let middle = middle.map_or(0, |index| (index + 1).min(group.len().saturating_sub(1)));
    let second = group.split_off(middle);
    [second, group].into_iter().filter(|half| !half.is_empty()).collect()
}
