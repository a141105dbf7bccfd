//! Attention on a CPU: tiles of queries against tiles of keys with an online softmax, in products
//! of f32 or bf16.
//!
//! Each tile of queries has a running maximum, a running sum and an unnormalised output, which are
//! rescaled when a later tile of keys raises the maximum (Milakov and Gimelshein 2018; Dao et al.
//! 2022). Query heads that share a key head form one tall tile, so keys and values are read once
//! per group and never repeated in memory. Tiles of keys that no query of a tile sees are skipped.
//!
//! Keys and values are first copied into panels, once for each range of rows that some span sees:
//! 32 keys by all dimensions, and 32 dimensions by all values, so that the inner loop reads memory
//! in order. A short prefix is copied again before the span's own rows, so that both are one tile.
//! Spans of few queries take plain dot products instead. Memory is linear in the rows; nothing is
//! ever quadratic.

#![expect(clippy::inline_always, reason = "what `dispatch` compiles per instruction set must be inlined into it")]

mod operand;
mod softmax;

use std::collections::HashMap;
use std::ops::Range;

use half::bf16;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use self::operand::Operand;
use self::softmax::{exponentials, largest};
use super::super::span::Span;
use super::at_least;
use super::gemm::instructions::arch;
use super::gemm::instructions::multiplies_bf16;
use super::gemm::{COLUMNS, Epilogue, Lhs, OutputTile, ROWS, TileProduct};
use super::rows;
use super::rows::{LANES, dot, exp, vectorised};

/// Keys of a tile.
const KEY_TILE: usize = 4 * COLUMNS;
/// Lines of a tile, about. A line is a query of one head.
const QUERY_TILE: usize = 4 * ROWS;
/// Rows that a span sees before its own are laid out with them if they are at most this many.
const GATHERED_ROWS: usize = 2 * COLUMNS;
/// Spans with fewer lines per group than this are not worth laying out keys for.
const FEW_LINES: usize = ROWS;

/// Keys or values: the row of `head` at `row` starts at
/// `row * row_distance + head * head_distance`.
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

/// The inputs of attention, all f32.
pub(in crate::runtime::packed) struct Attention<'a> {
    /// `[queries, heads, dim]`.
    pub q: &'a [f32],
    pub k: Heads<'a>,
    pub v: Heads<'a>,
    pub heads: usize,
    pub kv_heads: usize,
    /// A multiple of [`Attention::DIM_MULTIPLE`].
    pub dim: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// Scores become `cap * tanh(score / cap)`.
    pub soft_cap: Option<f32>,
}

/// The memory of the panels, kept from one layer to the next: a new vector of this size would cost
/// a page fault per page.
#[derive(Default)]
pub(in crate::runtime::packed) struct PanelMemory {
    f32: Panels<f32>,
    bf16: Panels<bf16>,
}

/// Keys and values in panels. A [`KeyRun`] has, for each head, `[keys / 32, dim, 32]` and
/// `[dim / 32, keys, 32]`, its length rounded up to a multiple of 32 in both. Elements beyond its
/// length hold old values, which no weight is multiplied with.
#[derive(Default)]
struct Panels<E> {
    keys: Vec<E>,
    values: Vec<E>,
}

impl PanelMemory {
    pub fn bytes(&self) -> usize {
        (self.f32.keys.len() + self.f32.values.len()) * 4 + (self.bf16.keys.len() + self.bf16.values.len()) * 2
    }
}

/// Keys that lie one after the other in panels, as one span sees them.
#[derive(Clone, Copy)]
struct KeyRun {
    /// Where its panels start.
    start: usize,
    length: usize,
    /// Place of its first key among the span's keys.
    first: usize,
}

/// Some consecutive queries of one span and the part of the output that is theirs.
struct QueryTile<'a> {
    span: &'a Span,
    runs: &'a [KeyRun],
    /// The tile's first query, counted from the span's.
    first: usize,
    output: &'a mut [f32],
}

/// Buffers of one thread while it works on a tile of queries.
struct Scratch<E> {
    /// `[kv_heads, lines, dim]`.
    queries: Vec<E>,
    scores: Vec<f32>,
    /// The scores as weights, where they are not multiplied as they are.
    weights: Vec<E>,
    output: Vec<f32>,
    maximum: Vec<f32>,
    sum: Vec<f32>,
    rescale: Vec<f32>,
}

impl Attention<'_> {
    /// The width of a head must be a multiple of this.
    pub const DIM_MULTIPLE: usize = COLUMNS;

    /// Writes `[queries, heads * dim]` to `output`; `spans` cover the queries in order. With
    /// `in_bf16`, products are of bf16, where the processor has them.
    pub fn run(&self, spans: &[Span], in_bf16: bool, memory: &mut PanelMemory, output: &mut [f32]) {
        if in_bf16 && multiplies_bf16() {
            self.run_in(spans, &mut memory.bf16, output);
        } else {
            self.run_in(spans, &mut memory.f32, output);
        }
    }

    fn run_in<E: Operand>(&self, spans: &[Span], panels: &mut Panels<E>, output: &mut [f32]) {
        let group = self.heads / self.kv_heads;
        let (runs, ranges) = self.key_runs(spans);
        self.lay_out(&ranges, panels);
        let tile_rows = (QUERY_TILE / group).max(1);
        let width = self.heads * self.dim;
        let mut tiles = Vec::new();
        let mut rest = output;
        for (span, runs) in spans.iter().zip(&runs) {
            for first in (0..span.queries.len()).step_by(tile_rows) {
                let rows = tile_rows.min(span.queries.len() - first);
                let (own, after) = rest.split_at_mut(rows * width);
                tiles.push(QueryTile { span, runs, first, output: own });
                rest = after;
            }
        }
        let height = (tile_rows * group).next_multiple_of(ROWS);
        let scratch = || Scratch {
            queries: vec![E::default(); self.kv_heads * height * self.dim],
            scores: vec![0.; height * KEY_TILE],
            weights: vec![E::default(); height * KEY_TILE],
            output: vec![0.; height * self.dim],
            maximum: vec![0.; height],
            sum: vec![0.; height],
            rescale: vec![0.; height],
        };
        tiles.into_par_iter().for_each_init(scratch, |scratch, mut tile| {
            if tile.runs.is_empty() {
                return self.few(tile.span, tile.output);
            }
            let rows = tile.output.len() / width;
            vectorised!(self.load_queries(tile.span.queries.start + tile.first, rows, scratch));
            for kv_head in 0..self.kv_heads {
                self.tile(&mut tile, kv_head, panels, scratch);
            }
        });
    }

    /// Panels that each span reads, if any, and the ranges of rows of one run after the other.
    fn key_runs(&self, spans: &[Span]) -> (Vec<Vec<KeyRun>>, Vec<Vec<Range<usize>>>) {
        let mut starts = HashMap::new();
        let mut laid_out = Vec::new();
        let mut end = 0;
        let mut run = |ranges: &[Range<usize>], first: usize| {
            let length = ranges.iter().map(Range::len).sum::<usize>();
            let start = *starts.entry(ranges.to_vec()).or_insert_with(|| {
                laid_out.push(ranges.to_vec());
                let start = end;
                end += length.next_multiple_of(COLUMNS) * self.dim * self.kv_heads;
                start
            });
            KeyRun { start, length, first }
        };
        let few = |span: &Span| span.queries.len() * self.heads / self.kv_heads < FEW_LINES;
        let runs = spans.iter().map(|span| {
            let own = span.keys.last().map_or(0, Range::len);
            if few(span) {
                Vec::new()
            } else if span.key_count() - own <= GATHERED_ROWS {
                vec![run(&span.keys, 0)]
            } else {
                let mut first = 0;
                let mut runs = Vec::with_capacity(span.keys.len());
                for range in span.keys.iter().filter(|range| !range.is_empty()) {
                    runs.push(run(std::slice::from_ref(range), first));
                    first += range.len();
                }
                runs
            }
        });
        (runs.collect(), laid_out)
    }

    /// Keys and values in panels, a run for each list of ranges.
    fn lay_out<E: Operand>(&self, runs: &[Vec<Range<usize>>], panels: &mut Panels<E>) {
        let rows = |ranges: &[Range<usize>]| ranges.iter().map(Range::len).sum::<usize>();
        let padded = runs.iter().map(|ranges| rows(ranges).next_multiple_of(COLUMNS)).sum::<usize>();
        let length = padded * self.dim * self.kv_heads;
        let mut keys_left = at_least(&mut panels.keys, length);
        let mut values_left = at_least(&mut panels.values, length);
        let mut tasks = Vec::new();
        for ranges in runs {
            let of_head = rows(ranges).next_multiple_of(COLUMNS) * self.dim;
            for head in 0..self.kv_heads {
                let (own_keys, own_values);
                (own_keys, keys_left) = keys_left.split_at_mut(of_head);
                (own_values, values_left) = values_left.split_at_mut(of_head);
                tasks.push((head, ranges, own_keys, own_values));
            }
        }
        tasks.into_par_iter().for_each(|(head, ranges, keys, values)| {
            let rows: Vec<usize> = ranges.iter().cloned().flatten().collect();
            let panels = keys.par_chunks_mut(COLUMNS * self.dim).zip(rows.par_chunks(COLUMNS));
            panels.for_each(|(panel, rows)| {
                let key = |column: usize| &self.k.from(rows[column], head)[..self.dim];
                vectorised!(operand::fill_key_panel(rows.len(), key, panel));
            });
            let panels = values.par_chunks_mut(rows.len().next_multiple_of(COLUMNS) * COLUMNS);
            panels.enumerate().for_each(|(number, panel)| {
                let value = |row: &usize| &self.v.from(*row, head)[number * COLUMNS..][..COLUMNS];
                vectorised!({
                    for (unit, rows) in panel.chunks_exact_mut(E::UNIT * COLUMNS).zip(rows.chunks(E::UNIT)) {
                        E::interleave(value(&rows[0]), rows.get(1).map(value), unit);
                    }
                });
            });
        });
    }

    /// One tile of queries for the heads that read `kv_head`.
    fn tile<E: Operand>(&self, tile: &mut QueryTile<'_>, kv_head: usize, panels: &Panels<E>, scratch: &mut Scratch<E>) {
        let group = self.heads / self.kv_heads;
        let rows = tile.output.len() / (self.heads * self.dim);
        let lines = rows * group;
        scratch.output.fill(0.);
        scratch.maximum.fill(f32::NEG_INFINITY);
        scratch.sum.fill(0.);
        let key_count = tile.runs.iter().map(|run| run.length).sum();
        for run in tile.runs {
            let padded = run.length.next_multiple_of(COLUMNS) * self.dim;
            let of_head = run.start + kv_head * padded..run.start + (kv_head + 1) * padded;
            // The keys of the run that a row of the tile sees.
            let visible = |row: usize| {
                let all = tile.span.visible(tile.first + row, key_count);
                let within = |place: usize| place.saturating_sub(run.first).min(run.length);
                within(all.start)..within(all.end)
            };
            let (first, end) = (visible(0).start / KEY_TILE * KEY_TILE, visible(rows - 1).end);
            for start in (first..end).step_by(KEY_TILE) {
                let keys = KEY_TILE.min(end - start);
                arch().dispatch(KeyTile {
                    key_panels: &panels.keys[of_head.clone()][start * self.dim..],
                    value_panels: &panels.values[of_head.clone()][start * COLUMNS..],
                    value_panel_distance: padded / self.dim * COLUMNS,
                    dim: self.dim,
                    keys,
                    first_query: kv_head * (scratch.queries.len() / self.kv_heads),
                    lines,
                    soft_cap: self.soft_cap,
                    scratch,
                    visible: |line: usize| {
                        let seen = visible(line / group);
                        let within = |place: usize| place.saturating_sub(start).min(keys);
                        within(seen.start)..within(seen.end)
                    },
                });
            }
        }
        vectorised!(self.store_output(rows, kv_head, scratch, tile.output));
    }

    /// The scaled queries of some rows, one line for each head. Those of the heads that read the
    /// same keys follow each other.
    #[inline(always)]
    fn load_queries<E: Operand>(&self, first: usize, rows: usize, scratch: &mut Scratch<E>) {
        let (width, group) = (self.heads * self.dim, self.heads / self.kv_heads);
        let of_group = scratch.queries.len() / self.kv_heads;
        for (row, source) in self.q[first * width..].chunks_exact(width).take(rows).enumerate() {
            for (head, source) in source.chunks_exact(self.dim).enumerate() {
                let line = row * group + head % group;
                let target = &mut scratch.queries[head / group * of_group + line * self.dim..][..self.dim];
                E::scaled(source, self.scale, target);
            }
        }
    }

    /// The normalised output of the heads that read `kv_head`.
    #[inline(always)]
    fn store_output<E>(&self, rows: usize, kv_head: usize, scratch: &Scratch<E>, output: &mut [f32]) {
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

    /// Like [`Self::tile`], for all heads of a run of few queries: one f32 dot product per key.
    fn few(&self, span: &Span, output: &mut [f32]) {
        let (dim, group) = (self.dim, self.heads / self.kv_heads);
        let queries = self.q[span.queries.start * self.heads * dim..].chunks_exact(dim);
        let key_count = span.key_count();
        let mut weights = Vec::new();
        for (line, (query, target)) in queries.zip(output.chunks_exact_mut(dim)).enumerate() {
            let (row, kv_head) = (line / self.heads, line % self.heads / group);
            let visible = span.visible(row, key_count);
            let seen = || span.key_rows().skip(visible.start).take(visible.len());
            vectorised!({
                weights.clear();
                weights.extend(seen().map(|row| self.scale * dot(query, &self.k.from(row, kv_head)[..dim])));
                if let Some(cap) = self.soft_cap {
                    rows::soft_cap(&mut weights, cap);
                }
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

/// Some keys against a tile of queries.
struct KeyTile<'a, E, V> {
    /// From the tile's first key on.
    key_panels: &'a [E],
    value_panels: &'a [E],
    value_panel_distance: usize,
    dim: usize,
    keys: usize,
    /// Where the tile's queries start in the scratch.
    first_query: usize,
    lines: usize,
    soft_cap: Option<f32>,
    scratch: &'a mut Scratch<E>,
    /// The keys of the tile that a line sees.
    visible: V,
}

impl<E: Operand, V: Fn(usize) -> Range<usize>> WithSimd for KeyTile<'_, E, V> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Scratch { queries, scores, weights, output, maximum, sum, rescale } = self.scratch;
        let (lines, distance) = (self.lines, self.keys.next_multiple_of(COLUMNS));
        let panels = self.key_panels.chunks(COLUMNS * self.dim).take(self.keys.div_ceil(COLUMNS));
        for (number, right) in panels.enumerate() {
            let product = TileProduct {
                depth: self.dim,
                left: Lhs { values: &queries[self.first_query..], distance: self.dim },
                right,
                target: OutputTile::new(&mut scores[number * COLUMNS..], lines, COLUMNS, distance),
                epilogue: Epilogue::None,
            };
            E::multiply(product, simd);
        }
        let depth = self.keys.next_multiple_of(E::UNIT);
        for (line, scores) in scores.chunks_exact_mut(distance).take(lines).enumerate() {
            let visible = (self.visible)(line);
            let (scores, hidden) = scores.split_at_mut(visible.end.next_multiple_of(LANES));
            if let Some(cap) = self.soft_cap {
                rows::soft_cap(scores, cap);
            }
            // A hidden key gets no weight; whole vectors are faster than the rest of one.
            scores[..visible.start].fill(f32::NEG_INFINITY);
            scores[visible.end..].fill(f32::NEG_INFINITY);
            hidden[..depth.saturating_sub(visible.end.next_multiple_of(LANES))].fill(0.);
            let old = maximum[line];
            let new = largest(scores).max(old);
            // A line that has seen no key so far has nothing to rescale.
            rescale[line] = if new == f32::NEG_INFINITY { 1. } else { exp(old - new) };
            maximum[line] = new;
            sum[line] =
                sum[line] * rescale[line] + exponentials(scores, if new == f32::NEG_INFINITY { 0. } else { new });
        }
        let weights = E::as_operand(&scores[..lines * distance], weights);
        for (number, right) in self.value_panels.chunks(self.value_panel_distance).enumerate() {
            let product = TileProduct {
                depth,
                left: Lhs { values: weights, distance },
                right,
                target: OutputTile::new(&mut output[number * COLUMNS..], lines, COLUMNS, self.dim),
                epilogue: Epilogue::Rescale(rescale),
            };
            E::multiply(product, simd);
        }
    }
}
