//! The next batch, prepared on the CPU while the device is busy, so that the device does not wait
//! for it.
//!
//! Preparing changes no order. The passes stay in the queue, where others may overtake them and
//! their request may remove them, and the worker takes a batch when the device is free, as it would
//! without preparation. If that is the batch that was prepared, it starts at once. If not, the
//! preparation is discarded, and the runtime lays out the batch as a part of its run.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use tokio::task::JoinHandle;

use super::queued_pass::QueuedPass;
use super::shared::Shared;
use crate::runtime::{ForwardPass, PreparedBatch, Runtime};

type Passes = Vec<Arc<ForwardPass>>;

/// Prepares the batch that would run if the device became free now.
pub(super) struct NextBatch {
    runtime: Arc<dyn Runtime>,
    shared: Arc<Shared>,
    /// False on a CPU: there the batch that runs would lose the time.
    is_enabled: bool,
    /// A batch that a blocking thread prepares.
    running: Option<(Passes, JoinHandle<PreparedBatch>)>,
    /// The batch that was prepared last; without its preparation if that panicked.
    prepared: Option<(Passes, Option<PreparedBatch>)>,
}

impl NextBatch {
    pub fn new(runtime: Arc<dyn Runtime>, shared: Arc<Shared>) -> Self {
        let is_enabled = runtime.facts().device != "cpu";
        Self { runtime, shared, is_enabled, running: None, prepared: None }
    }

    /// Waits until the device is no longer `busy`. Meanwhile, prepares the next batch of at most
    /// `max_tokens` tokens, again whenever passes were queued.
    pub async fn prepare_while<T>(&mut self, busy: impl Future<Output = T>, max_tokens: usize) -> T {
        if !self.is_enabled {
            return busy.await;
        }
        let mut busy = pin!(busy);
        tokio::select! {
            biased;
            result = &mut busy => result,
            never = self.follow_queue(max_tokens) => match never {},
        }
    }

    /// May be dropped at any time.
    async fn follow_queue(&mut self, max_tokens: usize) -> Infallible {
        loop {
            self.finish().await;
            let passes: Passes =
                self.shared.queue().peek_batch(max_tokens).into_iter().map(|queued| Arc::clone(&queued.pass)).collect();
            let is_known = self.prepared.as_ref().is_some_and(|(prepared, _)| is_same(prepared, passes.iter()));
            if passes.is_empty() || is_known {
                // The worker looks at everything that this notifies of before it waits for it
                // again.
                self.shared.work_available.notified().await;
                continue;
            }
            let (runtime, batch) = (Arc::clone(&self.runtime), passes.clone());
            let prepare = move || runtime.prepare(batch.iter().map(|pass| ForwardPass::clone(pass)).collect());
            self.running = Some((passes, tokio::task::spawn_blocking(prepare)));
        }
    }

    /// Waits until no batch is being prepared. May be dropped at any time.
    pub async fn finish(&mut self) {
        let Some((_, task)) = &mut self.running else { return };
        let prepared = task.await;
        // Where preparing panics, the run does too, and its error is reported.
        self.prepared = self.running.take().map(|(passes, _)| (passes, prepared.ok()));
    }

    /// The preparation of this batch, if there is one.
    pub async fn take(&mut self, batch: &[QueuedPass]) -> Option<PreparedBatch> {
        let is_of = |passes: &Passes| is_same(passes, batch.iter().map(|queued| &queued.pass));
        if self.running.as_ref().is_some_and(|(passes, _)| is_of(passes)) {
            self.finish().await;
        }
        self.prepared.take().filter(|(passes, _)| is_of(passes))?.1
    }
}

fn is_same<'a>(passes: &Passes, others: impl ExactSizeIterator<Item = &'a Arc<ForwardPass>>) -> bool {
    passes.len() == others.len() && passes.iter().zip(others).all(|(pass, other)| Arc::ptr_eq(pass, other))
}
