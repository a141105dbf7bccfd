//! Threads for texts. They are not those of the model's products, which texts would otherwise keep waiting: a text is never
//! interrupted, and the operating system shares the processor between the two.

use std::sync::LazyLock;

use rayon::prelude::*;

/// Texts of fewer bytes in all are read faster by one thread than by several: a few milliseconds.
const SEVERAL_THREADS_BYTES: usize = 8 * 1024;

static READERS: LazyLock<rayon::ThreadPool> = LazyLock::new(|| {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|number| format!("reader-{number}"));
    pool.build().expect("threads can be started")
});

/// What `work` makes of each item, in order: on the caller's thread if there are few `bytes` of text in them, on several
/// otherwise.
pub(super) fn map<I, T, R>(items: I, bytes: usize, work: impl Fn(T) -> R + Send + Sync) -> Vec<R>
where
    I: IntoIterator<Item = T> + IntoParallelIterator<Item = T> + Send,
    T: Send,
    R: Send,
    I::Iter: IndexedParallelIterator,
{
    if bytes < SEVERAL_THREADS_BYTES {
        return items.into_iter().map(work).collect();
    }
    READERS.install(|| items.into_par_iter().map(work).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_order_and_the_products_threads_take_no_part() {
        let numbers: Vec<usize> = (0..100).collect();
        let name = || std::thread::current().name().map(str::to_owned);
        let own = name();
        for (bytes, is_reader) in [(0, false), (SEVERAL_THREADS_BYTES, true)] {
            let made = map(&numbers, bytes, |number| (2 * number, name()));
            for (number, (double, thread)) in made.into_iter().enumerate() {
                assert_eq!(double, 2 * number);
                assert_eq!(thread.as_deref().is_some_and(|name| name.starts_with("reader-")), is_reader);
                assert!(is_reader || thread == own);
            }
        }
    }
}
