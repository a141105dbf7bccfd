//! The CPU kernel behind tensors: f32, contiguous.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::super::cpu::{Attention, Heads, PanelMemory};
use super::super::span::Span;
use super::Scores;

pub(super) fn attend(q: &Tensor, k: &Tensor, v: &Tensor, spans: &[Span], scores: Scores) -> Result<Tensor> {
    q.apply_op3_no_bwd(k, v, &PackedAttention { spans, scores, in_bf16: false })
}

struct PackedAttention<'a> {
    spans: &'a [Span],
    scores: Scores,
    /// Whether products may be of bf16.
    in_bf16: bool,
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
        if self.spans.iter().any(|span| span.keys.iter().any(|range| range.end > rows)) {
            bail!("attention: a span sees rows beyond the {rows} there are");
        }
        let by_rows = |values| Heads { values, row_distance: kv_heads * dim, head_distance: dim };
        let attention = Attention {
            q: contiguous(q, q_layout)?,
            k: by_rows(contiguous(k, k_layout)?),
            v: by_rows(contiguous(v, v_layout)?),
            heads,
            kv_heads,
            dim,
            scale: self.scores.scale,
            soft_cap: self.scores.soft_cap,
        };
        let mut output = vec![0f32; queries * heads * dim];
        attention.run(self.spans, self.in_bf16, &mut PanelMemory::default(), &mut output);
        Ok((CpuStorage::F32(output), (queries, heads * dim).into()))
    }
}

fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("attention: inputs must be contiguous"),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use half::bf16;
    use proptest::prelude::*;

    use super::super::super::span::Mask;
    use super::super::tiles;
    use super::*;

    type Path = fn(&Tensor, &Tensor, &Tensor, &[Span], Scores) -> Result<Tensor>;

    /// Attention by its definition, in f64; and the same with the magnitudes of the values, which
    /// bounds the effect of a relative error of each weight.
    #[expect(clippy::many_single_char_names, reason = "the names of the definition")]
    fn naive(
        q: &[f32],
        k: &[f32],
        v: &[f32],
        (heads, kv_heads, dim): (usize, usize, usize),
        spans: &[Span],
        scores: Scores,
    ) -> Vec<(f64, f64)> {
        let mut output = Vec::new();
        for span in spans {
            let all: Vec<usize> = span.key_rows().collect();
            for (place, query) in span.queries.clone().enumerate() {
                let keys = &all[span.visible(place, all.len())];
                for head in 0..heads {
                    let kv_head = head / (heads / kv_heads);
                    let score = |key: usize| -> f64 {
                        let a = &q[(query * heads + head) * dim..][..dim];
                        let b = &k[(key * kv_heads + kv_head) * dim..][..dim];
                        let product: f64 = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                        let product = product * f64::from(scores.scale);
                        let capped = |cap: f64| cap * (product / cap).tanh();
                        scores.soft_cap.map_or(product, |cap| capped(f64::from(cap)))
                    };
                    let scores: Vec<f64> = keys.iter().map(|&key| score(key)).collect();
                    let maximum = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let weights: Vec<f64> = scores.iter().map(|score| (score - maximum).exp()).collect();
                    let total: f64 = weights.iter().sum();
                    for column in 0..dim {
                        let value = |key: usize| f64::from(v[(key * kv_heads + kv_head) * dim + column]);
                        let terms = keys.iter().zip(&weights).map(|(&key, weight)| weight * value(key) / total);
                        output.push(terms.fold((0., 0.), |(sum, sizes), term| (sum + term, sizes + term.abs())));
                    }
                }
            }
        }
        output
    }

    /// Two sequences with this mask, the second followed by suffixes of the given lengths and one
    /// lone query that sees scattered rows.
    fn spans_of(first: usize, prefix: usize, suffixes: &[usize], mask: Mask) -> (Vec<Span>, usize) {
        let run = |queries: std::ops::Range<usize>, mut keys: Vec<std::ops::Range<usize>>| {
            keys.push(queries.clone());
            Span { queries, keys, mask }
        };
        let prefix = first..first + prefix;
        let mut spans = vec![run(0..first, vec![]), run(prefix.clone(), vec![])];
        let mut row = prefix.end;
        for &length in suffixes {
            spans.push(run(row..row + length, vec![prefix.clone()]));
            row += length;
        }
        spans.push(Span::single(row, vec![prefix, row - 1..row + 1]));
        (spans, row + 1)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn every_implementation_agrees_with_the_definition(
            first in 1usize..300, prefix in 1usize..150, suffixes in prop::collection::vec(1usize..40, 1..5),
            kv_heads in 1usize..3, group in prop::sample::select(vec![1usize, 2, 3, 4, 12, 16]),
            dim in prop::sample::select(vec![32usize, 64, 96]),
            before in prop::sample::select(vec![usize::MAX, 0, 1, 40, 130]),
            after in prop::sample::select(vec![0, usize::MAX, 1, 33, 200]),
            soft_cap in prop::option::of(1f32..20.), seed in any::<u64>(),
        ) {
            let (spans, rows) = spans_of(first, prefix, &suffixes, Mask { before, after });
            let heads = kv_heads * group;
            let mut state = seed | 1;
            let mut random = |count: usize| -> Vec<f32> {
                (0..count).map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 6.
                }).collect()
            };
            let (q, k, v) = (random(rows * heads * dim), random(rows * kv_heads * dim), random(rows * kv_heads * dim));
            // In bf16, of numbers that are bf16 already (queries once they are scaled), so that
            // what is left between the kernel and the definition is the rounding of the weights.
            let scale = (dim as f32).sqrt().recip();
            let scores = Scores { scale, soft_cap };
            let rounded = |x: &[f32], scale: f32| -> Vec<f32> {
                x.iter().map(|x| bf16::from_f32(x * scale).to_f32() / scale).collect()
            };
            let of_bf16 = (rounded(&q, scale), rounded(&k, 1.), rounded(&v, 1.));
            let in_bf16: Path =
                |q, k, v, spans, scores| q.apply_op3_no_bwd(k, v, &PackedAttention { spans, scores, in_bf16: true });
            let half_unit = 2f64.powi(-8);
            let cases: [(_, &[(Path, f64)]); 2] =
                [(&(q, k, v), &[(attend, 0.), (tiles::attend, 0.)]), (&of_bf16, &[(in_bf16, half_unit)])];
            for ((q, k, v), paths) in cases {
                let expected = naive(q, k, v, (heads, kv_heads, dim), &spans, scores);
                let tensor = |data: &[f32], heads| Tensor::from_slice(data, (rows, heads, dim), &Device::Cpu).unwrap();
                let (q, k, v) = (tensor(q, heads), tensor(k, kv_heads), tensor(v, kv_heads));
                for (path, of_weights) in paths {
                    let output = path(&q, &k, &v, &spans, scores).unwrap();
                    prop_assert_eq!(output.dims(), &[rows, heads * dim]);
                    let output = output.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                    for (found, (expected, sizes)) in output.iter().zip(&expected) {
                        let bound = 3e-5 + of_weights * sizes;
                        prop_assert!((f64::from(*found) - expected).abs() < bound, "{found} against {expected}");
                    }
                }
            }
        }
    }
}
