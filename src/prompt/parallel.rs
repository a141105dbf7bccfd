//! Tokenizes the texts of one request on several threads.
//!
//! The calling thread works through the texts and borrows helper threads for as long as that takes.
//! The process has a fixed number of helpers. A caller that finds none free works alone, so a
//! request with long texts slows a request with short ones down but never blocks it. A
//! work-stealing pool would block it: a worker that waits for its own last text takes up another
//! request's texts meanwhile.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;

/// Bytes of text for each thread: less takes less time than starting a thread saves.
const BYTES_PER_THREAD: usize = 8 * 1024;

/// Helper threads that no request uses now.
static FREE_HELPERS: LazyLock<AtomicUsize> =
    LazyLock::new(|| AtomicUsize::new(thread::available_parallelism().map_or(0, |cores| cores.get() - 1)));

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
    if helpers.0 == 0 {
        return items.into_iter().map(work).collect();
    }
    let items = Mutex::new(items.into_iter().enumerate());
    let next_item = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
    let take_items = || {
        let mut results = Vec::new();
        while let Some((index, item)) = next_item() {
            results.push((index, work(item)));
        }
        results
    };
    let mut results = thread::scope(|scope| {
        let start =
            |number| thread::Builder::new().name(format!("tokenize-helper-{number}")).spawn_scoped(scope, take_items);
        // Where the system has no thread left, the others do its share.
        let threads: Vec<_> = (0..helpers.0).filter_map(|number| start(number).ok()).collect();
        let mut results = take_items();
        for thread in threads {
            results.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        results
    });
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
