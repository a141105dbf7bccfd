//! Whether the device behind a scheduler can be counted on: it runs, it hangs, or it is gone.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// What is known of the device.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Why nothing runs any more.
    lost: watch::Sender<Option<String>>,
    stalled: AtomicBool,
}

/// A batch that has been running for too long. Dropped when it comes back.
pub(super) struct Stall<'a>(&'a Health);

impl Drop for Stall<'_> {
    fn drop(&mut self) {
        self.0.stalled.store(false, Ordering::Release);
    }
}

impl Health {
    /// The device is gone. The first reason stays.
    pub fn lose(&self, reason: &str) {
        let is_news = self.lost.send_if_modified(|lost| {
            let is_news = lost.is_none();
            lost.get_or_insert_with(|| reason.to_owned());
            is_news
        });
        if is_news {
            tracing::error!(reason, "the device is lost: nothing runs any more");
        }
    }

    /// Why the device is gone, if it is.
    pub fn lost(&self) -> Option<String> {
        self.lost.borrow().clone()
    }

    /// Waits until the device is gone, and says why; nothing where everyone who could tell is gone first.
    pub fn until_lost(&self) -> impl Future<Output = Option<String>> + Send + use<> {
        let mut lost = self.lost.subscribe();
        async move { lost.wait_for(Option::is_some).await.ok().and_then(|lost| lost.clone()) }
    }

    /// A batch does not come back.
    pub fn stall(&self) -> Stall<'_> {
        self.stalled.store(true, Ordering::Release);
        Stall(self)
    }

    /// Whether a batch does not come back.
    pub fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire)
    }
}
