//! Blocks of rows: what happens to each row by itself happens to a block of rows at a time.
//!
//! Where the widest product of a small block fits in a core's own cache, each thread takes blocks of its own, through
//! several products without waiting for the others. Otherwise, and where there are few rows, the blocks are large, come
//! one after the other, and the threads share each product.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

use super::gemm::ROWS;
use super::linear::Input;
use super::{CpuLayers, KEPT_BYTES};

/// Rows of a block that the threads share: enough for a product, few enough for a cache.
pub(in crate::runtime::packed) const BLOCK_ROWS: usize = 768;
/// The widest product of a block that one thread has for itself takes at most this many bytes.
const OWN_BLOCK_BYTES: usize = 768 << 10;
/// Fewest rows of a thread's own block where there are many, and where there are few.
const MIN_OWN_ROWS: usize = 96;
const MIN_FEW_ROWS: usize = 4 * ROWS;

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

fn row_blocks(rows: usize, widest: usize, threads: usize) -> RowBlocks {
    let most = OWN_BLOCK_BYTES / (widest * size_of::<f32>());
    if threads == 1 {
        return RowBlocks { rows: most.clamp(MIN_OWN_ROWS, BLOCK_ROWS), own: true };
    }
    if most < MIN_OWN_ROWS || rows < threads * MIN_FEW_ROWS {
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
    fn threads_have_blocks_of_their_own_where_these_fit_in_a_cache() {
        let shared = RowBlocks { rows: BLOCK_ROWS, own: false };
        let own = |rows| RowBlocks { rows, own: true };
        assert_eq!(row_blocks(6400, 1280, 2), own(156), "150 fit: 42 blocks");
        assert_eq!(row_blocks(120, 1280, 2), own(60));
        assert_eq!(row_blocks(120, 1280, 4), shared, "30 rows a thread");
        assert_eq!(row_blocks(6400, 9728, 2), shared, "20 fit");
        assert_eq!(row_blocks(6400, 9728, 1), own(MIN_OWN_ROWS));
        assert_eq!(row_blocks(50, 64, 1), own(BLOCK_ROWS));
    }
}
