//! Blocks of the prefix cache, in and out of the layers' matrices of keys and values.

use std::ops::Range;

use rayon::prelude::*;

use super::super::prefix_cache::BLOCK;

/// A block is `[layers, 2, kv_heads, BLOCK, dim]`: keys and values of each layer in turn.
pub(super) struct Blocks<'a> {
    cached: &'a [&'a [f32]],
    rows: Vec<Range<usize>>,
    kv_heads: usize,
    dim: usize,
    stored: Vec<Vec<f32>>,
    /// Layers that were exchanged.
    layers: usize,
}

impl<'a> Blocks<'a> {
    /// `cached` are the blocks that the batch uses, `rows` those that the cache stores of it.
    pub(super) fn new(cached: &'a [&'a [f32]], rows: &[Range<usize>], (kv_heads, dim): (usize, usize)) -> Self {
        Self { cached, rows: rows.to_vec(), kv_heads, dim, stored: vec![Vec::new(); rows.len()], layers: 0 }
    }

    /// From the next layer on, the rows to store are these.
    pub(super) fn move_rows(&mut self, rows: &[Range<usize>]) {
        self.rows = rows.to_vec();
    }

    /// Rows that the blocks in use take in a layer's matrices.
    pub(super) fn cached_rows(&self) -> usize {
        self.cached.len() * BLOCK
    }

    /// Copies the rows to store out of the next layer's keys and values, and the cached ones behind
    /// the batch's own rows. The matrices are `[kv_heads, rows + cached rows, dim]`.
    pub(super) fn exchange(&mut self, rows: usize, keys: &mut [f32], values: &mut [f32]) {
        let (of_head, of_block) = ((rows + self.cached_rows()) * self.dim, BLOCK * self.dim);
        for (number, matrix) in [keys, values].into_iter().enumerate() {
            for (rows, stored) in self.rows.iter().zip(&mut self.stored) {
                for head in matrix.chunks_exact(of_head) {
                    stored.extend_from_slice(&head[rows.start * self.dim..rows.end * self.dim]);
                }
            }
            let first = (2 * self.layers + number) * self.kv_heads;
            matrix.par_chunks_exact_mut(of_head).enumerate().for_each(|(head, target)| {
                let targets = target[rows * self.dim..].chunks_exact_mut(of_block);
                for (target, block) in targets.zip(self.cached) {
                    target.copy_from_slice(&block[(first + head) * of_block..][..of_block]);
                }
            });
        }
        self.layers += 1;
    }

    /// The blocks to store.
    pub(super) fn into_stored(self) -> Vec<Vec<f32>> {
        self.stored
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_blocks_of_one_batch_lie_behind_the_rows_of_the_next() {
        let (heads, dim, layers, rows) = (2, 3, 2, BLOCK + 4);
        let of = |layer: usize, first: usize| -> Vec<f32> {
            (0..heads * rows * dim).map(|place| (10_000 * layer + first + place) as f32).collect()
        };
        let wanted = [4..4 + BLOCK, 0..BLOCK];
        let mut bringing = Blocks::new(&[], &wanted, (heads, dim));
        for layer in 0..layers {
            bringing.exchange(rows, &mut of(layer, 0), &mut of(layer, 5_000));
        }
        let stored = bringing.into_stored();
        let cached: Vec<&[f32]> = stored.iter().map(Vec::as_slice).collect();
        let mut using = Blocks::new(&cached, &[], (heads, dim));
        let of_head = (1 + using.cached_rows()) * dim;
        assert_eq!(of_head, (1 + 2 * BLOCK) * dim);
        for layer in 0..layers {
            let (mut keys, mut values) = (vec![-1.; heads * of_head], vec![-1.; heads * of_head]);
            using.exchange(1, &mut keys, &mut values);
            for (found, brought) in [(keys, of(layer, 0)), (values, of(layer, 5_000))] {
                for (found, brought) in found.chunks(of_head).zip(brought.chunks(rows * dim)) {
                    let (own, cached) = found.split_at(dim);
                    assert_eq!(own, [-1.; 3], "the batch's own row is left alone");
                    assert_eq!(cached, [&brought[4 * dim..], &brought[..BLOCK * dim]].concat());
                }
            }
        }
    }
}
