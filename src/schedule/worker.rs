//! The worker of a scheduler: takes passes off the queue, a batch at a time, and runs them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::batch_runner::BatchRunner;
use super::next_batch::NextBatch;
use super::shared::Shared;

/// Time between two looks whether the device is free for background passes.
const BACKGROUND_WAIT: Duration = Duration::from_millis(5);

/// Runs until the scheduler is closed. `_ended` is dropped last, after the runtime.
pub(super) async fn run(_ended: watch::Sender<()>, mut runner: BatchRunner, mut next: NextBatch, shared: Arc<Shared>) {
    let _guard = CloseOnExit(&shared);
    while !shared.closed.load(Ordering::Acquire) {
        if shared.queue().passes() == 0 {
            if shared.background_queue().passes() == 0 {
                shared.work_available.notified().await;
            } else {
                run_in_background(&mut runner, &mut next, &shared).await;
            }
            continue;
        }
        // Passes stay in the queue until the device is free: there, others may overtake them and
        // their request may remove them.
        let lease = next.prepare_while(shared.device.lease(), runner.max_tokens()).await;
        let max_tokens = runner.max_tokens();
        let batch = shared.queue().take_batch(max_tokens);
        let prepared = next.take(&batch).await;
        next.prepare_while(runner.run(batch, prepared, lease), max_tokens).await;
    }
    // Its thread holds the runtime.
    next.finish().await;
}

/// Runs one background pass if the device has no other work, or waits a little.
async fn run_in_background(runner: &mut BatchRunner, next: &mut NextBatch, shared: &Shared) {
    let lease = if shared.is_device_idle() { shared.device.try_lease() } else { None };
    let Some(lease) = lease else {
        // Requests of other models on the device end without a notice.
        let _waited = timeout(BACKGROUND_WAIT, shared.work_available.notified()).await;
        return;
    };
    // One token, so that the batch is a single pass: a request that arrives now waits for no more.
    let batch = shared.background_queue().take_batch(1);
    let max_tokens = runner.max_tokens();
    next.prepare_while(runner.run(batch, None, lease), max_tokens).await;
}

/// On exit the worker fails all queued passes; on panic it also marks the device lost.
struct CloseOnExit<'a>(&'a Shared);

impl Drop for CloseOnExit<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.device.mark_lost("the scheduler's worker panicked");
        }
        self.0.closed.store(true, Ordering::Release);
        let failed = self.0.queue().take_batch(usize::MAX);
        drop(failed);
        let failed = self.0.background_queue().take_batch(usize::MAX);
        drop(failed);
    }
}
