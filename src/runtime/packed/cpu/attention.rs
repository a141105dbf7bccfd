//! Attention on a CPU: tiles of queries against tiles of keys with an online softmax, in f32.
//!
//! For each tile of queries the running maximum, the running sum and the unnormalised output are
//! kept, and rescaled when a later tile of keys raises the maximum (Milakov and Gimelshein 2018;
//! Dao et al. 2022). Query heads that share a key head form one tall tile, so keys and values are
//! read once per group and never repeated in memory. Memory beyond the output: one tile per thread.

#![expect(clippy::inline_always, reason = "what `dispatch` compiles per instruction set must be inlined into it")]

use gemm::Parallelism;
use rayon::prelude::*;

use super::super::layout::Span;
use super::rows::{exp, vectorised};

/// Keys of one tile.
const KEY_TILE: usize = 128;
/// Query rows times heads of a group, of one tile, about.
const QUERY_TILE: usize = 64;
/// Lanes that loops are unrolled by, so that the compiler can keep them in vector registers.
const LANES: usize = 16;

/// Keys or values: the row of `head` at `row` starts at `row * row_distance + head * head_distance`.
#[derive(Clone, Copy)]
pub(in crate::runtime::packed) struct Heads<'a> {
    pub values: &'a [f32],
    pub row_distance: usize,
    pub head_distance: usize,
}

/// What attention reads, all f32.
pub(in crate::runtime::packed) struct Attention<'a> {
    /// `[queries, heads, dim]`.
    pub q: &'a [f32],
    pub k: Heads<'a>,
    pub v: Heads<'a>,
    pub heads: usize,
    pub kv_heads: usize,
    pub dim: usize,
}

/// Some consecutive queries of one span and the part of the output that is theirs.
struct QueryTile<'a> {
    span: &'a Span,
    /// The tile's first query, counted from the span's.
    first: usize,
    output: &'a mut [f32],
}

/// What one thread needs while it works on a tile of queries.
struct Scratch {
    queries: Vec<f32>,
    scores: Vec<f32>,
    output: Vec<f32>,
    maximum: Vec<f32>,
    sum: Vec<f32>,
}

impl Attention<'_> {
    /// Writes `[queries, heads * dim]` to `output`; `spans` cover the queries in order.
    pub fn run(&self, spans: &[Span], output: &mut [f32]) {
        let group = self.heads / self.kv_heads;
        let tile_rows = (QUERY_TILE / group).max(8);
        let width = self.heads * self.dim;
        let mut tiles = Vec::new();
        let mut rest = output;
        for span in spans {
            for first in (0..span.queries.len()).step_by(tile_rows) {
                let rows = tile_rows.min(span.queries.len() - first);
                let (own, after) = rest.split_at_mut(rows * width);
                tiles.push(QueryTile { span, first, output: own });
                rest = after;
            }
        }
        let scratch = || {
            let height = tile_rows * group;
            Scratch {
                queries: vec![0.; height * self.dim],
                scores: vec![0.; height * KEY_TILE],
                output: vec![0.; height * self.dim],
                maximum: vec![0.; height],
                sum: vec![0.; height],
            }
        };
        tiles.into_par_iter().for_each_init(scratch, |scratch, tile| {
            for kv_head in 0..self.kv_heads {
                self.tile(tile.span, tile.first, kv_head, scratch, tile.output);
            }
        });
    }

    /// One tile of queries from the span's query `first` on, for the heads that read `kv_head`.
    fn tile(&self, span: &Span, first: usize, kv_head: usize, scratch: &mut Scratch, output: &mut [f32]) {
        let (dim, width) = (self.dim, self.heads * self.dim);
        let group = self.heads / self.kv_heads;
        let rows = output.len() / width;
        let height = rows * group;
        let heads_offset = kv_head * group * dim;

        let scale = (dim as f32).sqrt().recip();
        for row in 0..rows {
            let start = (span.queries.start + first + row) * width + heads_offset;
            let source = &self.q[start..start + group * dim];
            for (target, value) in scratch.queries[row * group * dim..][..group * dim].iter_mut().zip(source) {
                *target = value * scale;
            }
        }
        scratch.output[..height * dim].fill(0.);
        scratch.maximum[..height].fill(f32::NEG_INFINITY);
        scratch.sum[..height].fill(0.);

        for range in &span.seen {
            for start in range.clone().step_by(KEY_TILE) {
                let keys = KEY_TILE.min(range.end - start);
                self.key_tile(scratch, kv_head, height, start, keys, |_| keys);
            }
        }
        // Query `first + row` sees `first + row + 1` of the causal keys.
        let causal = if span.causal.is_empty() { 0 } else { first + rows };
        for start in (0..causal).step_by(KEY_TILE) {
            let keys = KEY_TILE.min(causal - start);
            self.key_tile(scratch, kv_head, height, span.causal.start + start, keys, |row| {
                (first + row / group + 1).saturating_sub(start).min(keys)
            });
        }

        for row in 0..rows {
            let target = &mut output[row * width + heads_offset..][..group * dim];
            for head in 0..group {
                let line = row * group + head;
                let normaliser = scratch.sum[line].recip();
                let source = &scratch.output[line * dim..][..dim];
                for (target, value) in target[head * dim..][..dim].iter_mut().zip(source) {
                    *target = value * normaliser;
                }
            }
        }
    }

    /// Adds `keys` keys from row `start` to the tile; line `i` sees the first `visible(i)` of them.
    fn key_tile(
        &self,
        scratch: &mut Scratch,
        kv_head: usize,
        height: usize,
        start: usize,
        keys: usize,
        visible: impl Fn(usize) -> usize,
    ) {
        let dim = self.dim;
        let from = |heads: &Heads<'_>| start * heads.row_distance + kv_head * heads.head_distance;
        // scores [height, keys] = queries [height, dim] * keys^T [dim, keys]
        product(
            (height, keys, dim),
            (&mut scratch.scores, KEY_TILE),
            (&scratch.queries, dim),
            (&self.k.values[from(&self.k)..], 1, self.k.row_distance),
            false,
        );
        let softmax = OnlineSoftmax {
            scores: &mut scratch.scores[..height * KEY_TILE],
            output: &mut scratch.output[..height * dim],
            maximum: &mut scratch.maximum[..height],
            sum: &mut scratch.sum[..height],
            keys,
            visible,
        };
        vectorised(|| softmax.run());
        // output [height, dim] += weights [height, keys] * values [keys, dim]
        product(
            (height, dim, keys),
            (&mut scratch.output, dim),
            (&scratch.scores, KEY_TILE),
            (&self.v.values[from(&self.v)..], self.v.row_distance, 1),
            true,
        );
    }
}

/// `target [m, n] (+)= left [m, k] * right [k, n]`; `target` and `left` are given with the distance
/// between rows (columns are adjacent), `right` with the distances between rows and between columns.
fn product(
    (m, n, k): (usize, usize, usize),
    (target, target_row): (&mut [f32], usize),
    (left, left_row): (&[f32], usize),
    (right, right_row, right_column): (&[f32], usize, usize),
    accumulate: bool,
) {
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    assert!((m - 1) * target_row + n <= target.len() && target_row >= n);
    assert!((m - 1) * left_row + k <= left.len());
    assert!((k - 1) * right_row + (n - 1) * right_column < right.len());
    // SAFETY: every element that gemm touches is at row * row_distance + column * column_distance of
    // its matrix, which the assertions above keep inside the slices; `target` is borrowed mutably, so
    // it overlaps neither source; rows of `target` do not overlap since their distance is at least n.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            target.as_mut_ptr(),
            1,
            target_row.cast_signed(),
            accumulate,
            left.as_ptr(),
            1,
            left_row.cast_signed(),
            right.as_ptr(),
            right_column.cast_signed(),
            right_row.cast_signed(),
            1.0f32,
            1.0f32,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// Turns a tile of scores into weights against the running maximum, rescaling what was summed
/// before. `scores` has rows of [`KEY_TILE`], of which `keys` are in use.
struct OnlineSoftmax<'a, V> {
    scores: &'a mut [f32],
    output: &'a mut [f32],
    maximum: &'a mut [f32],
    sum: &'a mut [f32],
    keys: usize,
    visible: V,
}

impl<V: Fn(usize) -> usize> OnlineSoftmax<'_, V> {
    #[inline(always)]
    fn run(self) {
        let dim = self.output.len() / self.maximum.len();
        let lines = self.scores.chunks_exact_mut(KEY_TILE).zip(self.output.chunks_exact_mut(dim));
        for (line, (scores, output)) in lines.enumerate() {
            let visible = (self.visible)(line);
            let (scores, hidden) = scores[..self.keys].split_at_mut(visible);
            hidden.fill(0.);
            if visible == 0 {
                continue;
            }
            let old = self.maximum[line];
            let new = largest(scores).max(old);
            let kept = exp(old - new);
            self.maximum[line] = new;
            self.sum[line] = self.sum[line] * kept + exponentials(scores, new);
            if kept < 1. {
                for value in output {
                    *value *= kept;
                }
            }
        }
    }
}

#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
}

/// Replaces each value by `exp(value - maximum)` and returns their sum.
#[inline(always)]
fn exponentials(values: &mut [f32], maximum: f32) -> f32 {
    let mut sums = [0f32; LANES];
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *value = exp(*value - maximum);
            *sum += *value;
        }
    }
    let mut total: f32 = sums.iter().sum();
    for value in rest {
        *value = exp(*value - maximum);
        total += *value;
    }
    total
}
