//! Keeps long work off the async threads: parsing, copying, serializing and freeing large values.

use super::error::ApiError;

/// Runs work on a blocking thread.
///
/// # Errors
/// [`ApiError::Panicked`].
pub async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|_panicked| ApiError::Panicked)
}

/// A value that is freed on a blocking thread, also if the request that holds it is cancelled.
pub struct FreeOffThread<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> FreeOffThread<T> {
    pub const fn new(value: T) -> Self {
        Self(Some(value))
    }

    /// Takes the value; the caller then frees it.
    pub const fn take(&mut self) -> Option<T> {
        self.0.take()
    }
}

impl<T: Send + 'static> Drop for FreeOffThread<T> {
    fn drop(&mut self) {
        // Outside a runtime, where the process ends, it is freed here.
        if let (Some(value), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn_blocking(move || drop(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread::{self, ThreadId};

    use super::*;

    struct ReportThread(mpsc::Sender<ThreadId>);

    impl Drop for ReportThread {
        fn drop(&mut self) {
            self.0.send(thread::current().id()).unwrap();
        }
    }

    #[tokio::test]
    async fn a_value_is_freed_on_another_thread_unless_it_was_taken() {
        let (sender, freed) = mpsc::channel();
        drop(FreeOffThread::new(ReportThread(sender.clone())));
        let thread = tokio::task::spawn_blocking(move || freed.recv().unwrap()).await.unwrap();
        assert_ne!(thread, thread::current().id());

        let (sender, freed) = mpsc::channel();
        let taken = FreeOffThread::new(ReportThread(sender)).take();
        assert!(freed.try_recv().is_err(), "it was freed though it was taken");
        drop(taken);
        assert_eq!(freed.recv().unwrap(), thread::current().id());
    }
}
