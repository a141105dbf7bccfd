//! Batch parallelism on a CPU: each thread takes some sequences of a batch through all layers by
//! itself, instead of all threads sharing each product.
//!
//! Only for sequences that need nothing of each other: encoders, without a shared prefix. Then no
//! thread waits for the others after each product, and the rows that a thread works on stay in its
//! own cache. The numbers equal those of the whole batch bit for bit, because no row's sums depend
//! on other rows.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::runtime::{ForwardPass, Positions, TokenTypes};

/// Most tokens of a part, unless one sequence has more.
const MAX_TOKENS: usize = 512;
/// Parts for each thread, so that all threads end at about the same time. A batch with fewer parts
/// is not split.
const PARTS_PER_THREAD: usize = 3;

/// As many threads as rayon's pool has, each a pool of its own: rayon's parallel loops on such a
/// thread run on it alone.
pub(super) struct BatchThreads(Vec<ThreadPool>);

/// Some sequences of a pass.
#[derive(Debug, PartialEq)]
pub(super) struct Part {
    /// The number of the pass in its batch.
    pub number: usize,
    /// The first of its sequences in that pass.
    pub first: usize,
    pub pass: ForwardPass,
}

impl BatchThreads {
    /// Starts the threads. Where the system has no more, batches are not split.
    pub fn new() -> Self {
        let name = |number: usize| move |_| format!("batch-{number}");
        let pool = |number| ThreadPoolBuilder::new().num_threads(1).thread_name(name(number)).build();
        Self((0..rayon::current_num_threads()).map(pool).collect::<Result<_, _>>().unwrap_or_default())
    }

    /// Splits the batch into parts for these threads, the largest first; `None` if some threads
    /// would get no work.
    pub fn split(&self, batch: &[ForwardPass]) -> Option<Vec<Part>> {
        let wanted = self.0.len() * PARTS_PER_THREAD;
        let tokens = batch.iter().map(ForwardPass::tokens).sum::<usize>();
        let most = (tokens / wanted.max(1)).min(MAX_TOKENS);
        let mut parts: Vec<Part> =
            batch.iter().enumerate().flat_map(|(number, pass)| parts_of(number, pass, most)).collect();
        if wanted == 0 || parts.len() < wanted {
            return None;
        }
        parts.sort_by_key(|part| usize::MAX - part.pass.tokens());
        Some(parts)
    }

    /// Calls `work` with each item, on all threads. The results are in the items' order.
    pub fn run<T: Sync, R: Send>(&self, items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
        let next = AtomicUsize::new(0);
        let take_items = || {
            let mut results = Vec::new();
            while let Some((place, item)) = {
                let place = next.fetch_add(1, Ordering::Relaxed);
                items.get(place).map(|item| (place, item))
            } {
                results.push((place, work(item)));
            }
            results
        };
        let mut results = thread::scope(|scope| {
            let start = |pool| scope.spawn(move || ThreadPool::install(pool, take_items));
            let threads: Vec<_> = self.0.iter().map(start).collect();
            let joined = threads.into_iter().map(thread::ScopedJoinHandle::join);
            joined.flat_map(|results| results.unwrap_or_else(|panic| resume_unwind(panic))).collect::<Vec<_>>()
        });
        results.sort_unstable_by_key(|(place, _)| *place);
        results.into_iter().map(|(_, result)| result).collect()
    }
}

/// Splits a pass between its sequences into parts of at most `most` tokens; a longer sequence is a
/// part of its own.
fn parts_of(number: usize, pass: &ForwardPass, most: usize) -> Vec<Part> {
    let is_apart = pass.prefix.is_empty() && pass.cross_document.count == 0;
    if !is_apart || !matches!(pass.output.at, Positions::Pooled(_)) {
        return vec![Part { number, first: 0, pass: pass.clone() }];
    }
    let mut parts = Vec::new();
    let mut first = 0;
    while first < pass.suffixes.len() {
        let mut tokens = 0;
        let fits = |suffix: &&Vec<u32>| {
            tokens += suffix.len();
            tokens <= most
        };
        let count = pass.suffixes[first..].iter().take_while(fits).count().max(1);
        let range = first..first + count;
        let token_types = match &pass.token_types {
            TokenTypes::Zero => TokenTypes::Zero,
            TokenTypes::Pairs(starts) => TokenTypes::Pairs(starts[range.clone()].to_vec()),
        };
        let suffixes = pass.suffixes[range].to_vec();
        let of_part = ForwardPass {
            prefix: Vec::new(),
            suffixes,
            token_types,
            cross_document: pass.cross_document.clone(),
            output: pass.output.clone(),
        };
        parts.push(Part { number, first, pass: of_part });
        first += count;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Head, OutputSpec, Pooling};

    fn pass(lengths: &[usize], output: OutputSpec) -> ForwardPass {
        ForwardPass {
            suffixes: lengths.iter().map(|&length| vec![length as u32; length]).collect(),
            token_types: TokenTypes::Pairs(lengths.to_vec()),
            ..ForwardPass::sequence(Vec::new(), output)
        }
    }

    #[test]
    fn a_pass_is_split_between_sequences_with_their_types() {
        let whole = pass(&[3, 4, 9, 1, 2], OutputSpec::pooled(Pooling::First, Head::Classifier));
        let parts = parts_of(7, &whole, 8);
        let found: Vec<_> = parts.iter().map(|part| (part.number, part.first, part.pass.token_types.clone())).collect();
        let pairs = |starts: &[usize]| TokenTypes::Pairs(starts.to_vec());
        assert_eq!(found, [(7, 0, pairs(&[3, 4])), (7, 2, pairs(&[9])), (7, 3, pairs(&[1, 2]))]);
        let joined: Vec<_> = parts.into_iter().flat_map(|part| part.pass.suffixes).collect();
        assert_eq!(joined, whole.suffixes);
        let listed = pass(&[3, 4], OutputSpec::listed(Vec::new(), Head::Hidden));
        assert_eq!(parts_of(0, &listed, 1).len(), 1, "positions name sequences by number");
    }

    #[test]
    fn a_batch_of_few_sequences_is_not_split() {
        let threads = BatchThreads::new();
        let output = || OutputSpec::pooled(Pooling::Mean, Head::Classifier);
        assert_eq!(threads.split(&[pass(&[100], output())]), None);
        let many = vec![10; 100 * threads.0.len()];
        let parts = threads.split(&[pass(&many, output())]).unwrap();
        assert!(parts.len() >= PARTS_PER_THREAD * threads.0.len());
        assert!(parts.is_sorted_by_key(|part| usize::MAX - part.pass.tokens()));
    }

    #[test]
    fn results_are_in_the_items_order_and_a_panic_reaches_the_caller() {
        let threads = BatchThreads::new();
        let items: Vec<usize> = (0..50).collect();
        assert!(threads.run(&items, |item| 2 * item).into_iter().eq((0..50).map(|item| 2 * item)));
        let panics = || threads.run(&items, |item| assert_ne!(*item, 5));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
    }
}
