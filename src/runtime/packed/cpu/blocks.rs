//! Keys and values that are kept from one batch to the next, in and out of the layers' matrices.

use std::ops::Range;

use rayon::prelude::*;

use super::super::prefixes::BLOCK;

/// A block is `[layers, 2, kv_heads, BLOCK, dim]`: keys and values of each layer in turn.
pub(super) struct Blocks<'a> {
    held: &'a [&'a [f32]],
    rows: &'a [Range<usize>],
    kv_heads: usize,
    dim: usize,
    kept: Vec<Vec<f32>>,
    /// Layers that have been here.
    layers: usize,
}

impl<'a> Blocks<'a> {
    /// `held` are the blocks that the batch uses, `rows` those that it is to bring.
    pub(super) fn new(held: &'a [&'a [f32]], rows: &'a [Range<usize>], (kv_heads, dim): (usize, usize)) -> Self {
        Self { held, rows, kv_heads, dim, kept: vec![Vec::new(); rows.len()], layers: 0 }
    }

    /// Rows that the blocks in use take in a layer's matrices.
    pub(super) fn held_rows(&self) -> usize {
        self.held.len() * BLOCK
    }

    /// Takes what is to be kept from the keys and values of the next layer, and puts what is held behind the batch's own
    /// rows. The matrices are `[kv_heads, rows + held rows, dim]`.
    pub(super) fn exchange(&mut self, rows: usize, keys: &mut [f32], values: &mut [f32]) {
        let (of_head, of_block) = ((rows + self.held_rows()) * self.dim, BLOCK * self.dim);
        for (number, matrix) in [keys, values].into_iter().enumerate() {
            for (rows, kept) in self.rows.iter().zip(&mut self.kept) {
                for head in matrix.chunks_exact(of_head) {
                    kept.extend_from_slice(&head[rows.start * self.dim..rows.end * self.dim]);
                }
            }
            let first = (2 * self.layers + number) * self.kv_heads;
            matrix.par_chunks_exact_mut(of_head).enumerate().for_each(|(head, target)| {
                let targets = target[rows * self.dim..].chunks_exact_mut(of_block);
                for (target, block) in targets.zip(self.held) {
                    target.copy_from_slice(&block[(first + head) * of_block..][..of_block]);
                }
            });
        }
        self.layers += 1;
    }

    /// The blocks that are to be kept.
    pub(super) fn into_kept(self) -> Vec<Vec<f32>> {
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_from_one_batch_stands_behind_the_rows_of_the_next() {
        let (heads, dim, layers, rows) = (2, 3, 2, BLOCK + 4);
        let of = |layer: usize, first: usize| -> Vec<f32> {
            (0..heads * rows * dim).map(|place| (10_000 * layer + first + place) as f32).collect()
        };
        let wanted = [4..4 + BLOCK, 0..BLOCK];
        let mut bringing = Blocks::new(&[], &wanted, (heads, dim));
        for layer in 0..layers {
            bringing.exchange(rows, &mut of(layer, 0), &mut of(layer, 5_000));
        }
        let kept = bringing.into_kept();
        let held: Vec<&[f32]> = kept.iter().map(Vec::as_slice).collect();
        let mut using = Blocks::new(&held, &[], (heads, dim));
        let of_head = (1 + using.held_rows()) * dim;
        assert_eq!(of_head, (1 + 2 * BLOCK) * dim);
        for layer in 0..layers {
            let (mut keys, mut values) = (vec![-1.; heads * of_head], vec![-1.; heads * of_head]);
            using.exchange(1, &mut keys, &mut values);
            for (found, brought) in [(keys, of(layer, 0)), (values, of(layer, 5_000))] {
                for (found, brought) in found.chunks(of_head).zip(brought.chunks(rows * dim)) {
                    let (own, held) = found.split_at(dim);
                    assert_eq!(own, [-1.; 3], "the batch's own row is left alone");
                    assert_eq!(held, [&brought[4 * dim..], &brought[..BLOCK * dim]].concat());
                }
            }
        }
    }
}
