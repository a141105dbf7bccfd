//! Tokenizes the texts of one request on several threads.
//!
//! The calling thread works through the texts and reserves free helper threads for as long as that
//! takes. The process has a fixed number of helpers, one fewer than cores. A caller that finds none
//! free works alone, so a request with long texts slows a request with short ones down but never
//! blocks it. In a work-stealing pool it would: a worker that waits for its own last text takes up
//! another request's texts meanwhile. So the calling thread does not belong to the pool, and a task
//! runs there only on a reserved thread.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;

use rayon::{ThreadPool, ThreadPoolBuilder};

/// Bytes of text for each thread: less takes less time than waking a thread saves.
const BYTES_PER_THREAD: usize = 8 * 1024;

/// The helper threads. They stay: a new thread for each request would begin without the memory that
/// the allocator keeps for a thread. `None` on one core, or if the system cannot start them.
static POOL: LazyLock<Option<ThreadPool>> = LazyLock::new(|| {
    let count = thread::available_parallelism().map_or(0, |cores| cores.get() - 1);
    let name = |number| format!("tokenize-helper-{number}");
    (count > 0).then(|| ThreadPoolBuilder::new().num_threads(count).thread_name(name).build().ok()).flatten()
});

/// Helper threads that no request uses now.
static FREE_HELPERS: LazyLock<AtomicUsize> =
    LazyLock::new(|| AtomicUsize::new(POOL.as_ref().map_or(0, ThreadPool::current_num_threads)));

/// Helper threads that are reserved until this is dropped.
struct Helpers(usize);

impl Helpers {
    /// Reserves at most `wanted` of the free helpers, without waiting.
    fn reserve(wanted: usize) -> Self {
        let mut reserved = 0;
        let take = |free: usize| {
            reserved = free.min(wanted);
            Some(free - reserved)
        };
        // The closure always returns a value.
        let _ = FREE_HELPERS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        Self(reserved)
    }
}

impl Drop for Helpers {
    fn drop(&mut self) {
        FREE_HELPERS.fetch_add(self.0, Ordering::Relaxed);
    }
}

/// Applies `work` to each item and returns the results in the items' order. `bytes` is the size of
/// all texts together: it decides how many threads are worth it.
pub(super) fn map<T: Send, R: Send>(items: Vec<T>, bytes: usize, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let wanted = (bytes / BYTES_PER_THREAD).min(items.len().saturating_sub(1));
    let helpers = Helpers::reserve(wanted);
    let Some(pool) = POOL.as_ref().filter(|_| helpers.0 > 0) else {
        return items.into_iter().map(work).collect();
    };
    let results = Mutex::new(Vec::with_capacity(items.len()));
    let items = Mutex::new(items.into_iter().enumerate());
    let next_item = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
    let take_items = || {
        let mut own = Vec::new();
        while let Some((index, item)) = next_item() {
            own.push((index, work(item)));
        }
        results.lock().unwrap_or_else(PoisonError::into_inner).append(&mut own);
    };
    pool.in_place_scope(|scope| {
        for _ in 0..helpers.0 {
            scope.spawn(|_| take_items());
        }
        take_items();
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_unstable_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_the_items_order() {
        for bytes in [0, 100 * BYTES_PER_THREAD] {
            let doubled = map((0..100).collect(), bytes, |number: usize| 2 * number);
            assert!(doubled.into_iter().eq((0..100).map(|number| 2 * number)));
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_helpers_are_given_back() {
        let result = std::panic::catch_unwind(|| {
            map((0..8).collect(), 100 * BYTES_PER_THREAD, |number: usize| assert_ne!(number, 5));
        });
        assert!(result.is_err());
        // The other tests of this process reserve helpers too, and give them back.
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        while FREE_HELPERS.load(Ordering::Relaxed) < cores - 1 {
            thread::yield_now();
        }
    }
}
