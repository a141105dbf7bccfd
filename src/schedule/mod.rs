//! Which request runs when: admission control, a fair queue per model, and batches by tokens.
//!
//! 1. [`AdmissionControl`] admits or rejects a request before any work is done for it. The limits
//!    hold for the process. An admitted request holds an [`AdmissionPermit`], and counts as in
//!    flight until its last work has ended, on the device too.
//! 2. [`Scheduler::run`] puts the request's passes into the model's queue (`fair_queue`), which
//!    orders them by priority, fairly between clients, and short before long.
//! 3. The scheduler's `worker` waits for the device, takes passes of all requests up to the limit
//!    on a batch's tokens, and runs them (`batch_runner`). A batch is never delayed to fill up.
//!    Passes of cancelled requests leave the queue immediately. While a GPU is busy, the CPU
//!    prepares the batch that would run next (`next_batch`).

mod admission;
mod batch_limit;
mod batch_runner;
mod batch_statistics;
mod client;
mod device;
mod fair_queue;
mod in_flight;
mod next_batch;
mod permit;
mod queued_pass;
mod retry_pacing;
mod scheduler;
mod settings;
mod shared;
mod submission;
#[cfg(test)]
mod tests;
mod throughput;
mod worker;

pub use admission::AdmissionControl;
pub use batch_statistics::{BatchStatistics, Distribution};
pub use client::Client;
pub use permit::{AdmissionPermit, AdmissionRequest};
pub use scheduler::{Forecast, QueueStatus, Scheduler};
pub use settings::ScheduleSettings;
pub use submission::{CompletedPasses, DeviceInterval};
