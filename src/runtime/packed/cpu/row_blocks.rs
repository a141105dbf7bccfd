//! Blocks of rows: what happens to each row by itself happens to a block of rows at a time.
//!
//! Each thread takes blocks of its own through several products without waiting for the others; where a block's widest
//! product fits in a core's own cache, what one product writes the next one reads from there. With few rows for each thread
//! a block is large instead, the blocks come one after the other, and the threads share each product.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

use super::gemm::ROWS;
use super::linear::Input;
use super::{CpuLayers, KEPT_BYTES};

/// Rows of a block that the threads share: enough for a product, few enough for a cache.
const BLOCK_ROWS: usize = 768;
/// The widest product of a thread's own block takes at most this many bytes, if that leaves it [`MIN_CACHED_ROWS`].
const OWN_BLOCK_BYTES: usize = 768 << 10;
const MIN_CACHED_ROWS: usize = 96;
/// Rows of an own block of wider products: so many that reading their weights takes little of the time.
const WIDE_ROWS: usize = 192;
/// Fewest rows for each thread that are worth own blocks of narrow products.
const MIN_ROWS_PER_THREAD: usize = 4 * ROWS;

/// How rows are divided.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct RowBlocks {
    /// Rows of a block; the last may have fewer.
    pub rows: usize,
    /// Whether each block is one thread's.
    own: bool,
}

/// Buffers of the products of one block.
#[derive(Default)]
pub(super) struct BlockBuffers {
    pub input: Input,
    /// The MLP's inner rows.
    pub inner: Input,
    /// The result of a product.
    pub output: Vec<f32>,
}

/// Buffers that no block uses, kept for the next ones.
#[derive(Default)]
pub(super) struct BlockMemory(Mutex<Vec<BlockBuffers>>);

impl CpuLayers {
    /// How so many rows are divided for the threads of this pool.
    pub(super) fn row_blocks(&self, rows: usize) -> RowBlocks {
        let (mlp, attention) = (&self.spec.mlp, self.spec.query_width() + 2 * self.spec.key_width());
        let widest = attention.max(mlp.intermediate * if mlp.gated { 2 } else { 1 });
        row_blocks(rows, widest, rayon::current_num_threads())
    }
}

/// The most rows that are in blocks at the same time, where the widest product of a row has so many columns.
pub(in crate::runtime::packed) fn most_block_rows(widest: usize) -> usize {
    BLOCK_ROWS.max(rayon::current_num_threads() * most_own_rows(widest))
}

/// Most rows of a thread's own block.
fn most_own_rows(widest: usize) -> usize {
    if fits_in_cache(widest) { (OWN_BLOCK_BYTES / (widest * size_of::<f32>())).min(BLOCK_ROWS) } else { WIDE_ROWS }
}

fn fits_in_cache(widest: usize) -> bool {
    MIN_CACHED_ROWS * widest * size_of::<f32>() <= OWN_BLOCK_BYTES
}

fn row_blocks(rows: usize, widest: usize, threads: usize) -> RowBlocks {
    let most = most_own_rows(widest);
    if threads == 1 {
        return RowBlocks { rows: most, own: true };
    }
    let min_per_thread = if fits_in_cache(widest) { MIN_ROWS_PER_THREAD } else { WIDE_ROWS };
    if rows < threads * min_per_thread {
        return RowBlocks { rows: BLOCK_ROWS, own: false };
    }
    // As many blocks for each thread.
    let blocks = rows.div_ceil(most).next_multiple_of(threads);
    RowBlocks { rows: rows.div_ceil(blocks).next_multiple_of(ROWS), own: true }
}

impl BlockMemory {
    fn free(&self) -> MutexGuard<'_, Vec<BlockBuffers>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the tasks of some blocks of rows.
    pub fn run<T: Send>(&self, blocks: RowBlocks, tasks: Vec<T>, work: impl Fn(T, &mut BlockBuffers) + Sync) {
        let work = |task| {
            let mut buffers = self.free().pop().unwrap_or_default();
            work(task, &mut buffers);
            if buffers.bytes() <= KEPT_BYTES {
                self.free().push(buffers);
            }
        };
        if blocks.own {
            tasks.into_par_iter().for_each(work);
        } else {
            tasks.into_iter().for_each(work);
        }
    }
}

impl BlockBuffers {
    fn bytes(&self) -> usize {
        self.output.len() * size_of::<f32>() + self.input.bytes() + self.inner.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_have_blocks_of_their_own_where_there_are_enough_rows() {
        let shared = RowBlocks { rows: BLOCK_ROWS, own: false };
        let own = |rows| RowBlocks { rows, own: true };
        assert_eq!(row_blocks(6400, 1280, 2), own(156), "153 fit: 42 blocks");
        assert_eq!(row_blocks(120, 1280, 2), own(60));
        assert_eq!(row_blocks(120, 1280, 4), shared, "30 rows a thread");
        assert_eq!(row_blocks(1060, 9728, 2), own(180));
        assert_eq!(row_blocks(1060, 9728, 8), shared, "133 rows a thread");
        assert_eq!(row_blocks(6400, 9728, 1), own(WIDE_ROWS));
        assert_eq!(row_blocks(50, 64, 1), own(BLOCK_ROWS));
    }
}
