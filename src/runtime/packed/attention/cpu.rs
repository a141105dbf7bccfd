//! The CPU kernel: tiles of queries against tiles of keys with an online softmax, in f32.
//!
//! For each tile of queries the running maximum, the running sum and the unnormalised output are
//! kept, and rescaled when a later tile of keys raises the maximum (Milakov and Gimelshein 2018;
//! Dao et al. 2022). Query heads that share a key head form one tall tile, so keys and values are
//! read once per group and never repeated in memory. Memory beyond the output: one tile per thread.

#![expect(clippy::inline_always, reason = "what `dispatch` compiles per instruction set must be inlined into it")]

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use gemm::Parallelism;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::super::layout::Span;

/// Keys of one tile.
const KEY_TILE: usize = 128;
/// Query rows times heads of a group, of one tile, about.
const QUERY_TILE: usize = 64;
/// Lanes that loops are unrolled by, so that the compiler can keep them in vector registers.
const LANES: usize = 16;

pub(super) fn attend(q: &Tensor, k: &Tensor, v: &Tensor, spans: &[Span]) -> Result<Tensor> {
    q.apply_op3_no_bwd(k, v, &PackedAttention { spans })
}

struct PackedAttention<'a> {
    spans: &'a [Span],
}

impl CustomOp3 for PackedAttention<'_> {
    fn name(&self) -> &'static str {
        "packed-attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (queries, heads, dim) = q_layout.shape().dims3()?;
        let (rows, kv_heads, _) = k_layout.shape().dims3()?;
        if v_layout.shape() != k_layout.shape() || heads % kv_heads != 0 || k_layout.shape().dims3()?.2 != dim {
            bail!("attention: q {:?}, k {:?}, v {:?}", q_layout.shape(), k_layout.shape(), v_layout.shape());
        }
        let kernel = Kernel {
            q: contiguous(q, q_layout)?,
            k: contiguous(k, k_layout)?,
            v: contiguous(v, v_layout)?,
            heads,
            kv_heads,
            dim,
        };
        if self.spans.iter().any(|span| span.seen.iter().chain([&span.causal]).any(|range| range.end > rows)) {
            bail!("attention: a span sees rows beyond the {rows} there are");
        }
        let mut output = vec![0f32; queries * heads * dim];
        kernel.run(self.spans, &mut output);
        Ok((CpuStorage::F32(output), (queries, heads * dim).into()))
    }
}

fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("attention: inputs must be contiguous"),
    }
}

struct Kernel<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    heads: usize,
    kv_heads: usize,
    dim: usize,
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

impl Kernel<'_> {
    fn run(&self, spans: &[Span], output: &mut [f32]) {
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
        let (dim, stride) = (self.dim, self.kv_heads * self.dim);
        let offset = start * stride + kv_head * dim;
        // scores [height, keys] = queries [height, dim] * keys^T [dim, keys]
        product(
            (height, keys, dim),
            (&mut scratch.scores, KEY_TILE),
            (&scratch.queries, dim),
            (&self.k[offset..], 1, stride),
            false,
        );
        Arch::new().dispatch(OnlineSoftmax {
            scores: &mut scratch.scores[..height * KEY_TILE],
            output: &mut scratch.output[..height * dim],
            maximum: &mut scratch.maximum[..height],
            sum: &mut scratch.sum[..height],
            keys,
            visible,
        });
        // output [height, dim] += weights [height, keys] * values [keys, dim]
        product(
            (height, dim, keys),
            (&mut scratch.output, dim),
            (&scratch.scores, KEY_TILE),
            (&self.v[offset..], stride, 1),
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

impl<V: Fn(usize) -> usize> WithSimd for OnlineSoftmax<'_, V> {
    type Output = ();

    // Plain loops: `dispatch` compiles them once for each instruction set and picks at run time.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
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

/// `e^x` for `x <= 0`, to two units in the last place; 0 below -87. NaN stays NaN.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`; `e^r` by the polynomial of Cephes' `expf`, `2^n` through
/// the exponent bits. Adding 1.5 * 2^23 leaves the rounded `n` in the low bits of the mantissa.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.;
    let clamped = if x < -87. { -87. } else { x };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, the first exact in few bits.
    let r = clamped - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut polynomial = 1.987_569_1e-4;
    polynomial = polynomial * r + 1.398_2e-3;
    polynomial = polynomial * r + 8.333_452e-3;
    polynomial = polynomial * r + 4.166_579_6e-2;
    polynomial = polynomial * r + 1.666_666_5e-1;
    polynomial = polynomial * r + 0.5;
    let mantissa = polynomial * r * r + r + 1.;
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87. { 0. } else { mantissa * power }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;

    /// Attention by its definition, in f64.
    #[expect(clippy::many_single_char_names, reason = "the names of the definition")]
    fn naive(
        q: &[f32],
        k: &[f32],
        v: &[f32],
        (heads, kv_heads, dim): (usize, usize, usize),
        spans: &[Span],
    ) -> Vec<f64> {
        let mut output = Vec::new();
        for span in spans {
            for (place, query) in span.queries.clone().enumerate() {
                let causal = span.causal.start..span.causal.start + if span.causal.is_empty() { 0 } else { place + 1 };
                let keys: Vec<usize> = span.seen.iter().cloned().chain([causal]).flatten().collect();
                for head in 0..heads {
                    let kv_head = head / (heads / kv_heads);
                    let dot = |key: usize| -> f64 {
                        let a = &q[(query * heads + head) * dim..][..dim];
                        let b = &k[(key * kv_heads + kv_head) * dim..][..dim];
                        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() / (dim as f64).sqrt()
                    };
                    let scores: Vec<f64> = keys.iter().map(|&key| dot(key)).collect();
                    let maximum = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let weights: Vec<f64> = scores.iter().map(|score| (score - maximum).exp()).collect();
                    let total: f64 = weights.iter().sum();
                    for column in 0..dim {
                        let value = |key: usize| f64::from(v[(key * kv_heads + kv_head) * dim + column]);
                        output.push(
                            keys.iter().zip(&weights).map(|(&key, weight)| weight * value(key)).sum::<f64>() / total,
                        );
                    }
                }
            }
        }
        output
    }

    /// Two causal sequences, the second followed by branches of the given lengths and one lone query
    /// that sees scattered rows.
    fn spans_of(first: usize, trunk: usize, branches: &[usize]) -> (Vec<Span>, usize) {
        let mut spans = vec![Span { queries: 0..first, seen: vec![], causal: 0..first }];
        let trunk = first..first + trunk;
        spans.push(Span { queries: trunk.clone(), seen: vec![], causal: trunk.clone() });
        let mut row = trunk.end;
        for &length in branches {
            spans.push(Span { queries: row..row + length, seen: vec![trunk.clone()], causal: row..row + length });
            row += length;
        }
        spans.push(Span { queries: row..row + 1, seen: vec![trunk, row - 1..row + 1], causal: 0..0 });
        (spans, row + 1)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn every_path_agrees_with_the_definition(
            first in 1usize..300, trunk in 1usize..150, branches in prop::collection::vec(1usize..40, 1..5),
            kv_heads in 1usize..3, group in 1usize..5, dim in prop::sample::select(vec![16usize, 32, 64]), seed in any::<u64>(),
        ) {
            let (spans, rows) = spans_of(first, trunk, &branches);
            let heads = kv_heads * group;
            let mut state = seed | 1;
            let mut random = |count: usize| -> Vec<f32> {
                (0..count).map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 6.
                }).collect()
            };
            let (q, k, v) = (random(rows * heads * dim), random(rows * kv_heads * dim), random(rows * kv_heads * dim));
            let expected = naive(&q, &k, &v, (heads, kv_heads, dim), &spans);
            let tensor = |data: &[f32], heads| Tensor::from_slice(data, (rows, heads, dim), &Device::Cpu).unwrap();
            let (q, k, v) = (tensor(&q, heads), tensor(&k, kv_heads), tensor(&v, kv_heads));
            for output in [attend(&q, &k, &v, &spans).unwrap(), super::super::tiles::attend(&q, &k, &v, &spans).unwrap()] {
                prop_assert_eq!(output.dims(), &[rows, heads * dim]);
                let output = output.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                for (found, expected) in output.iter().zip(&expected) {
                    prop_assert!((f64::from(*found) - expected).abs() < 2e-5, "{} against {}", found, expected);
                }
            }
        }
    }

    #[test]
    fn the_exponential_is_right_to_seven_digits_and_keeps_nan() {
        for step in 0..87_000 {
            let x = -(step as f32) * 1e-3;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) - exact).abs() <= exact * 3e-7, "exp({x}) = {}", exp(x));
        }
        assert!(exp(-88.) < f32::MIN_POSITIVE);
        assert!(exp(f32::NEG_INFINITY) < f32::MIN_POSITIVE);
        assert!(exp(f32::NAN).is_nan());
    }
}
