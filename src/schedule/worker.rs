//! The worker of a scheduler: takes passes off the queue, a batch at a time, and runs them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::watch;

use super::batch_runner::BatchRunner;
use super::shared::Shared;

/// Runs until the scheduler is closed. `_ended` is dropped last, after the runtime.
pub(super) async fn run(_ended: watch::Sender<()>, mut runner: BatchRunner, shared: Arc<Shared>) {
    let _guard = CloseOnExit(&shared);
    while !shared.closed.load(Ordering::Acquire) {
        if shared.queue().passes() == 0 {
            shared.work_available.notified().await;
            continue;
        }
        // Passes stay in the queue until the device is free: there, others may overtake them and
        // their request may remove them.
        let lease = shared.device.lease().await;
        let batch = shared.queue().take_batch(runner.max_tokens());
        runner.run(batch, lease).await;
    }
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
    }
}
