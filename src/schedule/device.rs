//! A device that models run on: who may use it now, how fast it is, and whether it still works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::throughput::Throughput;

/// One device of the process. The schedulers of all models on it share it.
#[derive(Debug)]
pub(super) struct Device {
    pub name: Arc<str>,
    /// Throughput of all models on the device together.
    pub throughput: Throughput,
    /// One permit: batches run one at a time, whichever scheduler sends them.
    lease: Arc<Semaphore>,
    /// Why the device is lost; `None` while it works.
    lost: watch::Sender<Option<String>>,
    is_stalled: AtomicBool,
}

/// Exclusive use of a device, until dropped.
#[derive(Debug)]
pub(super) struct DeviceLease {
    pub acquired_at: Instant,
    _permit: Option<OwnedSemaphorePermit>,
}

/// Marks the device as stalled until dropped.
pub(super) struct Stall<'a>(&'a Device);

impl Drop for Stall<'_> {
    fn drop(&mut self) {
        self.0.is_stalled.store(false, Ordering::Release);
    }
}

impl Device {
    /// A device that works and was never measured.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            throughput: Throughput::default(),
            lease: Arc::new(Semaphore::new(1)),
            lost: watch::Sender::default(),
            is_stalled: AtomicBool::new(false),
        }
    }

    /// Waits for exclusive use. Schedulers get it in the order in which they ask.
    pub async fn lease(&self) -> DeviceLease {
        // The semaphore is never closed.
        let permit = Arc::clone(&self.lease).acquire_owned().await.ok();
        DeviceLease { acquired_at: Instant::now(), _permit: permit }
    }

    /// Exclusive use, if the device is free.
    pub fn try_lease(&self) -> Option<DeviceLease> {
        let permit = Arc::clone(&self.lease).try_acquire_owned().ok()?;
        Some(DeviceLease { acquired_at: Instant::now(), _permit: Some(permit) })
    }

    /// Marks the device as lost, for good. The first reason stays.
    pub fn mark_lost(&self, reason: &str) {
        let is_news = self.lost.send_if_modified(|lost| {
            let is_news = lost.is_none();
            lost.get_or_insert_with(|| reason.to_owned());
            is_news
        });
        if is_news {
            tracing::error!(device = &*self.name, reason, "device lost: no batch runs on it any more");
        }
    }

    /// Why the device is lost, if it is.
    pub fn lost_reason(&self) -> Option<String> {
        self.lost.borrow().clone()
    }

    /// Waits until the device is lost and returns the reason; `None` if the device is dropped
    /// first.
    pub fn until_lost(&self) -> impl Future<Output = Option<String>> + Send + use<> {
        let mut lost = self.lost.subscribe();
        async move { lost.wait_for(Option::is_some).await.ok().and_then(|lost| lost.clone()) }
    }

    /// Marks the device as stalled: a batch has been running for too long.
    pub fn mark_stalled(&self) -> Stall<'_> {
        self.is_stalled.store(true, Ordering::Release);
        Stall(self)
    }

    /// Whether a batch has been running for too long.
    pub fn is_stalled(&self) -> bool {
        self.is_stalled.load(Ordering::Acquire)
    }
}
