//! The state that a scheduler shares with its worker.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::batch_statistics::BatchRecorder;
use super::device::Device;
use super::fair_queue::FairQueue;
use super::permit::{ModelRequests, Reservation};
use super::queued_pass::QueuedPass;
use super::settings::ScheduleSettings;
use super::throughput::Throughput;

/// One model's queue, device and measurements.
#[derive(Debug)]
pub(super) struct Shared {
    pub requests: Arc<ModelRequests>,
    pub device: Arc<Device>,
    /// Throughput of this model alone; `Device::throughput` covers all models on the device.
    pub throughput: Throughput,
    pub batches: BatchRecorder,
    queue: Mutex<FairQueue<QueuedPass>>,
    /// Passes that run only while the device has no other work.
    background_queue: Mutex<FairQueue<QueuedPass>>,
    /// Notified when work is queued or the scheduler is dropped.
    pub work_available: Notify,
    pub closed: AtomicBool,
    pub draining: AtomicBool,
}

impl Shared {
    pub fn new(requests: Arc<ModelRequests>, device: Arc<Device>) -> Self {
        Self {
            requests,
            device,
            throughput: Throughput::default(),
            batches: BatchRecorder::default(),
            queue: Mutex::default(),
            background_queue: Mutex::default(),
            work_available: Notify::new(),
            closed: AtomicBool::new(false),
            draining: AtomicBool::new(false),
        }
    }

    pub fn settings(&self) -> ScheduleSettings {
        self.requests.admission.settings()
    }

    pub fn queue(&self) -> MutexGuard<'_, FairQueue<QueuedPass>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn background_queue(&self) -> MutexGuard<'_, FairQueue<QueuedPass>> {
        self.background_queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queue for the passes of a request.
    pub fn queue_for(&self, reservation: &Reservation) -> MutexGuard<'_, FairQueue<QueuedPass>> {
        if reservation.is_background { self.background_queue() } else { self.queue() }
    }

    /// Whether no request in flight has tokens left for the device.
    pub fn is_device_idle(&self) -> bool {
        self.requests.admission.state().in_flight.is_idle(&self.device.name)
    }

    /// Makes the worker end after its current batch.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.work_available.notify_one();
    }
}
