//! Attention on a CPU: tiles of queries against tiles of keys with an online softmax, in products of f32 or bf16.
//!
//! For each tile of queries the running maximum, the running sum and the unnormalised output are kept, and rescaled when
//! a later tile of keys raises the maximum (Milakov and Gimelshein 2018; Dao et al. 2022). Query heads that share a key
//! head form one tall tile, so keys and values are read once per group and never repeated in memory.
//!
//! Keys and values are first laid out as the inner loop reads them, once for each range of rows that some span sees: in
//! panels, of 32 keys by all dimensions and of 32 dimensions by all values, so that it walks through memory in order. Runs
//! of few queries do without and take one dot product after the other. Memory is linear in the rows; nothing is ever
//! quadratic.

#![expect(clippy::inline_always, reason = "what `dispatch` compiles per instruction set must be inlined into it")]

use std::collections::HashMap;
use std::ops::Range;

use half::bf16;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::super::layout::Span;
use super::rows::{dot, exp, vectorised};
use super::tile::{COLUMNS, Element, Left, ROWS, TileProduct, multiplies_bf16};

/// Keys of one tile.
const KEY_TILE: usize = 4 * COLUMNS;
/// Query rows times heads of a group, of one tile, about.
const QUERY_TILE: usize = 4 * ROWS;
/// Runs with fewer lines (queries times heads of a group) than this are not worth laying out keys for.
const FEW_LINES: usize = ROWS;
/// Lanes that loops are unrolled by, so that the compiler can keep them in vector registers.
const LANES: usize = 16;

/// Keys or values: the row of `head` at `row` starts at `row * row_distance + head * head_distance`.
#[derive(Clone, Copy)]
pub(in crate::runtime::packed) struct Heads<'a> {
    pub values: &'a [f32],
    pub row_distance: usize,
    pub head_distance: usize,
}

impl<'a> Heads<'a> {
    /// The values from a row of a head on.
    fn from(&self, row: usize, head: usize) -> &'a [f32] {
        &self.values[row * self.row_distance + head * self.head_distance..]
    }
}

/// What attention reads, all f32.
pub(in crate::runtime::packed) struct Attention<'a> {
    /// `[queries, heads, dim]`.
    pub q: &'a [f32],
    pub k: Heads<'a>,
    pub v: Heads<'a>,
    pub heads: usize,
    pub kv_heads: usize,
    /// A multiple of [`Attention::DIM_MULTIPLE`].
    pub dim: usize,
}

/// Keys and values in panels. A range of rows has, for each head, `[keys / 32, dim, 32]` and `[dim / 32, keys, 32]`, its
/// length rounded up to a multiple of 32 in both.
struct Panels<E> {
    keys: Vec<E>,
    values: Vec<E>,
    /// Where a range's panels start.
    starts: HashMap<Range<usize>, usize>,
}

/// Some consecutive queries of one span and the part of the output that is theirs.
struct QueryTile<'a> {
    span: &'a Span,
    /// The tile's first query, counted from the span's.
    first: usize,
    output: &'a mut [f32],
}

/// What one thread needs while it works on a tile of queries.
struct Scratch<E> {
    queries: Vec<E>,
    scores: Vec<f32>,
    /// The scores as weights, where they are not multiplied as they are.
    weights: Vec<E>,
    output: Vec<f32>,
    maximum: Vec<f32>,
    sum: Vec<f32>,
    kept: Vec<f32>,
}

impl Attention<'_> {
    /// What the width of a head must be a multiple of.
    pub const DIM_MULTIPLE: usize = COLUMNS;

    /// Writes `[queries, heads * dim]` to `output`; `spans` cover the queries in order. With `narrow`, products are of bf16,
    /// where the processor has them.
    pub fn run(&self, spans: &[Span], narrow: bool, output: &mut [f32]) {
        if narrow && multiplies_bf16() {
            self.run_in::<bf16>(spans, output);
        } else {
            self.run_in::<f32>(spans, output);
        }
    }

    fn run_in<E: Element>(&self, spans: &[Span], output: &mut [f32]) {
        let group = self.heads / self.kv_heads;
        let panels: Panels<E> = self.lay_out(spans.iter().filter(|span| span.queries.len() * group >= FEW_LINES));
        let tile_rows = (QUERY_TILE / group).max(1);
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
        let height = (tile_rows * group).next_multiple_of(ROWS);
        let scratch = || Scratch {
            queries: vec![E::default(); height * self.dim],
            scores: vec![0.; height * KEY_TILE],
            weights: vec![E::default(); height * KEY_TILE],
            output: vec![0.; height * self.dim],
            maximum: vec![0.; height],
            sum: vec![0.; height],
            kept: vec![0.; height],
        };
        tiles.into_par_iter().for_each_init(scratch, |scratch, tile| {
            if tile.span.queries.len() * group < FEW_LINES {
                return self.few(tile.span, tile.output);
            }
            for kv_head in 0..self.kv_heads {
                self.tile(tile.span, tile.first, kv_head, &panels, scratch, tile.output);
            }
        });
    }

    /// The keys and values that `spans` see, in panels.
    fn lay_out<'s, E: Element>(&self, spans: impl Iterator<Item = &'s Span>) -> Panels<E> {
        let mut ranges: Vec<&Range<usize>> = Vec::new();
        let mut starts = HashMap::new();
        let mut length = 0;
        for range in spans.flat_map(|span| span.seen.iter().chain([&span.causal])) {
            if !range.is_empty() && !starts.contains_key(range) {
                starts.insert(range.clone(), length);
                ranges.push(range);
                length += range.len().next_multiple_of(COLUMNS) * self.dim * self.kv_heads;
            }
        }
        let (mut keys, mut values) = (vec![E::default(); length], vec![E::default(); length]);
        let (mut keys_left, mut values_left) = (keys.as_mut_slice(), values.as_mut_slice());
        let mut tasks = Vec::new();
        for range in ranges {
            let of_head = range.len().next_multiple_of(COLUMNS) * self.dim;
            for head in 0..self.kv_heads {
                let (own_keys, own_values);
                (own_keys, keys_left) = keys_left.split_at_mut(of_head);
                (own_values, values_left) = values_left.split_at_mut(of_head);
                tasks.push((head, range, own_keys, own_values));
            }
        }
        tasks.into_par_iter().for_each(|(head, range, keys, values)| {
            let padded = range.len().next_multiple_of(COLUMNS);
            keys.par_chunks_mut(COLUMNS * self.dim).enumerate().for_each(|(number, panel)| {
                for (column, row) in range.clone().skip(number * COLUMNS).take(COLUMNS).enumerate() {
                    scatter(&self.k.from(row, head)[..self.dim], 1., &mut panel[column * E::UNIT..], COLUMNS);
                }
            });
            values.par_chunks_mut(padded * COLUMNS).enumerate().for_each(|(number, panel)| {
                for (place, row) in range.clone().enumerate() {
                    let value = &self.v.from(row, head)[number * COLUMNS..][..COLUMNS];
                    let units = panel[place / E::UNIT * COLUMNS * E::UNIT..].chunks_exact_mut(E::UNIT);
                    for (unit, value) in units.zip(value) {
                        unit[place % E::UNIT] = E::narrow(*value);
                    }
                }
            });
        });
        Panels { keys, values, starts }
    }

    /// One tile of queries from the span's query `first` on, for the heads that read `kv_head`.
    fn tile<E: Element>(
        &self,
        span: &Span,
        first: usize,
        kv_head: usize,
        panels: &Panels<E>,
        scratch: &mut Scratch<E>,
        output: &mut [f32],
    ) {
        let group = self.heads / self.kv_heads;
        let rows = output.len() / (self.heads * self.dim);
        let lines = rows * group;
        // Lines beyond the last are multiplied with the rest of their block; what comes of them is not read.
        self.take_queries(span.queries.start + first, rows, kv_head, scratch);

        for range in &span.seen {
            for start in (0..range.len()).step_by(KEY_TILE) {
                let keys = KEY_TILE.min(range.len() - start);
                self.key_tile(scratch, (kv_head, lines), panels, range, start, keys, |_| keys);
            }
        }
        // Query `first + row` sees `first + row + 1` of the causal keys.
        let causal = if span.causal.is_empty() { 0 } else { first + rows };
        for start in (0..causal).step_by(KEY_TILE) {
            let keys = KEY_TILE.min(causal - start);
            let visible = |line: usize| (first + line / group + 1).saturating_sub(start).min(keys);
            self.key_tile(scratch, (kv_head, lines), panels, &span.causal, start, keys, visible);
        }
        self.give_output(rows, kv_head, scratch, output);
    }

    /// The scaled queries of the heads that read `kv_head`, one line each, and nothing summed yet.
    fn take_queries<E: Element>(&self, first: usize, rows: usize, kv_head: usize, scratch: &mut Scratch<E>) {
        let width = self.heads * self.dim;
        let of_group = width / self.kv_heads;
        let scale = (self.dim as f32).sqrt().recip();
        for row in 0..rows {
            let source = &self.q[(first + row) * width + kv_head * of_group..][..of_group];
            for (head, source) in source.chunks_exact(self.dim).enumerate() {
                let line = row * of_group / self.dim + head;
                scatter(source, scale, &mut scratch.queries[E::start_in_blocks(line, self.dim)..], ROWS);
            }
        }
        scratch.output.fill(0.);
        scratch.maximum.fill(f32::NEG_INFINITY);
        scratch.sum.fill(0.);
    }

    /// The normalised output of the heads that read `kv_head`.
    fn give_output<E>(&self, rows: usize, kv_head: usize, scratch: &Scratch<E>, output: &mut [f32]) {
        let width = self.heads * self.dim;
        let of_group = width / self.kv_heads;
        for row in 0..rows {
            let target = &mut output[row * width + kv_head * of_group..][..of_group];
            let source = scratch.output[row * of_group..].chunks_exact(self.dim);
            for ((target, source), sum) in
                target.chunks_exact_mut(self.dim).zip(source).zip(&scratch.sum[row * of_group / self.dim..])
            {
                let normaliser = sum.recip();
                for (target, value) in target.iter_mut().zip(source) {
                    *target = value * normaliser;
                }
            }
        }
    }

    /// Adds `keys` keys of `range`, from its place `start` on, to the tile; line `i` sees the first `visible(i)` of them.
    #[expect(clippy::too_many_arguments, reason = "a tile is this much")]
    fn key_tile<E: Element>(
        &self,
        scratch: &mut Scratch<E>,
        (kv_head, lines): (usize, usize),
        panels: &Panels<E>,
        range: &Range<usize>,
        start: usize,
        keys: usize,
        visible: impl Fn(usize) -> usize,
    ) {
        let padded = range.len().next_multiple_of(COLUMNS);
        let head_start = panels.starts[range] + kv_head * padded * self.dim;
        let of_head = head_start..head_start + padded * self.dim;
        Arch::new().dispatch(KeyTile {
            key_panels: &panels.keys[of_head.clone()][start * self.dim..],
            value_panels: &panels.values[of_head][start * COLUMNS..],
            value_panel_distance: padded * COLUMNS,
            dim: self.dim,
            keys,
            lines,
            scratch,
            visible,
        });
    }

    /// As [`Self::tile`], for all heads of a run of few queries: a dot product for each key, in f32.
    fn few(&self, span: &Span, output: &mut [f32]) {
        let (dim, group) = (self.dim, self.heads / self.kv_heads);
        let scale = (dim as f32).sqrt().recip();
        let queries = self.q[span.queries.start * self.heads * dim..].chunks_exact(dim);
        let mut weights = Vec::new();
        for (line, (query, target)) in queries.zip(output.chunks_exact_mut(dim)).enumerate() {
            let (row, kv_head) = (line / self.heads, line % self.heads / group);
            let causal = span.causal.start..(span.causal.start + row + 1).min(span.causal.end);
            let seen = || span.seen.iter().chain([&causal]).cloned().flatten();
            vectorised(|| {
                weights.clear();
                weights.extend(seen().map(|row| scale * dot(query, &self.k.from(row, kv_head)[..dim])));
                let largest = largest(&weights);
                let normaliser = exponentials(&mut weights, largest).recip();
                target.fill(0.);
                for (row, weight) in seen().zip(&weights) {
                    for (target, value) in target.iter_mut().zip(&self.v.from(row, kv_head)[..dim]) {
                        *target += weight * normaliser * value;
                    }
                }
            });
        }
    }
}

/// Puts `source`, scaled, unit by unit so many units apart.
fn scatter<E: Element>(source: &[f32], scale: f32, target: &mut [E], distance: usize) {
    let targets = target.chunks_mut(distance * E::UNIT);
    for (unit, target) in source.chunks_exact(E::UNIT).zip(targets) {
        for (value, target) in unit.iter().zip(target) {
            *target = E::narrow(value * scale);
        }
    }
}

/// Some keys against a tile of queries.
struct KeyTile<'a, E, V> {
    /// From the tile's first key on.
    key_panels: &'a [E],
    value_panels: &'a [E],
    value_panel_distance: usize,
    dim: usize,
    keys: usize,
    lines: usize,
    scratch: &'a mut Scratch<E>,
    visible: V,
}

impl<E: Element, V: Fn(usize) -> usize> WithSimd for KeyTile<'_, E, V> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Scratch { queries, scores, weights, output, maximum, sum, kept } = self.scratch;
        let rows = self.lines.next_multiple_of(ROWS);
        let panels = self.key_panels.chunks(COLUMNS * self.dim).take(self.keys.div_ceil(COLUMNS));
        for (number, right) in panels.enumerate() {
            let product = TileProduct {
                rows,
                depth: self.dim,
                left: Left::Blocks { values: queries },
                right,
                target: &mut scores[number * COLUMNS..],
                target_distance: KEY_TILE,
                kept: None,
            };
            E::multiply(product, simd);
        }
        let depth = self.keys.next_multiple_of(E::UNIT);
        for (line, scores) in scores.chunks_exact_mut(KEY_TILE).take(self.lines).enumerate() {
            let visible = (self.visible)(line);
            let (scores, hidden) = scores[..KEY_TILE].split_at_mut(visible.next_multiple_of(LANES));
            // What is not seen gets no weight; whole vectors are faster than the rest of one.
            scores[visible..].fill(f32::NEG_INFINITY);
            hidden[..depth.saturating_sub(visible.next_multiple_of(LANES))].fill(0.);
            let old = maximum[line];
            let new = largest(scores).max(old);
            // A line that sees none of the keys so far keeps its nothing.
            kept[line] = if new == f32::NEG_INFINITY { 1. } else { exp(old - new) };
            maximum[line] = new;
            sum[line] = sum[line] * kept[line] + exponentials(scores, new);
        }
        let weights = E::narrow_all(&scores[..rows * KEY_TILE], weights);
        for (number, right) in self.value_panels.chunks(self.value_panel_distance).enumerate() {
            let product = TileProduct {
                rows,
                depth,
                left: Left::Rows { values: weights, distance: KEY_TILE },
                right,
                target: &mut output[number * COLUMNS..],
                target_distance: self.dim,
                kept: Some(kept),
            };
            E::multiply(product, simd);
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
