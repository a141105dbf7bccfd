//! Compares attention on a device with tensor products on a CPU, when a model is loaded.

use std::iter::once;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};

use super::super::fused::relative_error;
use super::super::span::{Mask, Span};
use super::{AttentionPlan, Scores, tiles};
use crate::runtime::spec::AttentionSpec;

/// Rows of keys and values in the cases.
const ROWS: usize = 600;

/// Rejects a device whose attention is wrong, by small cases that are computed in two ways.
/// FlashAttention does not report launch failures; its output is then uninitialised memory.
///
/// # Errors
/// A case whose result is off by more than rounding, relative to its norm; a device that fails.
pub(in crate::runtime::packed) fn check(spec: &AttentionSpec, dtype: DType, device: &Device) -> Result<()> {
    // On a CPU the tests compare the kernels; loading a model shall not take longer for it.
    if device.is_cpu() {
        return Ok(());
    }
    let bound = if dtype == DType::F32 { 1e-4 } else { 2e-2 };
    for (name, spans) in cases() {
        let error = error_of(&spans.into(), spec, dtype, device)?;
        if error.is_nan() || error > bound {
            bail!("attention ({name}) is off by {error:.1e}: its kernels do not fit this device");
        }
    }
    Ok(())
}

/// The layouts that passes come in.
pub(super) fn cases() -> Vec<(&'static str, Vec<Span>)> {
    let run = |queries: Range<usize>, before: Vec<Range<usize>>, mask| {
        let keys = before.into_iter().chain([queries.clone()]).collect();
        Span { queries, keys, mask }
    };
    let alone = |queries: Range<usize>, mask| run(queries, Vec::new(), mask);
    let window = Mask { before: 40, after: 0 };
    let cached = 560..ROWS;
    vec![
        ("one sequence", vec![alone(0..300, Mask::CAUSAL)]),
        (
            "several sequences",
            vec![alone(0..70, Mask::CAUSAL), alone(70..71, Mask::CAUSAL), alone(71..330, Mask::CAUSAL)],
        ),
        ("bidirectional", vec![alone(0..129, Mask::NONE), alone(129..300, Mask::NONE)]),
        ("windows", vec![alone(0..200, window), run(200..260, once(0..200).collect(), window)]),
        (
            "windows to both sides",
            vec![alone(0..200, Mask { before: 9, after: 4 }), alone(200..230, Mask { before: 9, after: 4 })],
        ),
        ("prefix and suffixes", shared_prefix(0, &[]).0),
        ("cached prefix and suffixes", shared_prefix(0, std::slice::from_ref(&cached)).0),
        ("several prefixes", {
            let (mut spans, end) = shared_prefix(0, &[]);
            spans.extend(shared_prefix(end, std::slice::from_ref(&cached)).0);
            spans
        }),
        (
            "rows that are read",
            vec![
                Span::single(0, vec![0..70, 70..100]),
                Span::single(1, vec![0..70, 100..101]),
                Span::single(2, vec![101..300, 300..310]),
                Span::single(3, once(0..310).collect()),
            ],
        ),
        (
            "several groups",
            vec![
                alone(0..70, Mask::CAUSAL),
                alone(70..100, Mask::NONE),
                alone(100..149, window),
                Span::single(149, vec![3..70, 90..150]),
            ],
        ),
    ]
}

/// Spans of a prefix of 70 rows from `start` on, behind the cached rows, and of suffixes of 1, 130
/// and 7 rows; and the row after the last.
fn shared_prefix(start: usize, cached: &[Range<usize>]) -> (Vec<Span>, usize) {
    let prefix = start..start + 70;
    let with = |before: &[Range<usize>], queries: Range<usize>| Span {
        keys: before.iter().cloned().chain([queries.clone()]).collect(),
        queries,
        mask: Mask::CAUSAL,
    };
    let mut spans = vec![with(cached, prefix.clone())];
    let before: Vec<Range<usize>> = cached.iter().cloned().chain([prefix.clone()]).collect();
    let mut row = prefix.end;
    for length in [1, 130, 7] {
        spans.push(with(&before, row..row + length));
        row += length;
    }
    (spans, row)
}

/// How far attention on a device is from tensor products in f32 on the CPU.
pub(super) fn error_of(spans: &Arc<[Span]>, spec: &AttentionSpec, dtype: DType, device: &Device) -> Result<f32> {
    let queries = spans.last().map_or(0, |span| span.queries.end);
    let values = |rows: usize, heads: usize, seed: usize| {
        let value = |n: usize| ((n + seed) * 7919 % 2003) as f32 / 1001.5 - 1.;
        let values: Vec<f32> = (0..rows * heads * spec.head_dim).map(value).collect();
        Tensor::from_vec(values, (rows, heads, spec.head_dim), &Device::Cpu)?.to_dtype(dtype)
    };
    let q = values(queries, spec.heads, 0)?;
    let (k, v) = (values(ROWS, spec.kv_heads, 11)?, values(ROWS, spec.kv_heads, 23)?);
    let numbers = |x: Tensor| x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
    let exact = |x: &Tensor| x.to_dtype(DType::F32);
    let scores = Scores { scale: spec.scale, soft_cap: spec.soft_cap };
    let expected = numbers(tiles::attend(&exact(&q)?, &exact(&k)?, &exact(&v)?, spans, scores)?)?;
    let plan = AttentionPlan::new(Arc::clone(spans), spec, dtype, device)?;
    let found = plan.attend(&q.to_device(device)?, &k.to_device(device)?, &v.to_device(device)?)?;
    Ok(relative_error(&numbers(found)?, &expected))
}

#[cfg(test)]
mod tests {
    use super::super::super::fused::{LogSums, merge};
    use super::super::sequences;
    use super::*;

    fn spec(head_dim: usize) -> AttentionSpec {
        AttentionSpec {
            heads: 4,
            kv_heads: 2,
            head_dim,
            scale: (head_dim as f32).sqrt().recip(),
            soft_cap: None,
            qkv_bias: false,
            output_bias: false,
            qk_norm: None,
        }
    }

    #[test]
    fn each_case_has_its_spans_in_order_over_rows_that_are_there() {
        for (name, spans) in cases() {
            let mut end = 0;
            for span in &spans {
                assert_eq!(span.queries.start, end, "{name}");
                end = span.queries.end;
                assert!(span.keys.iter().all(|rows| rows.end <= ROWS), "{name}");
            }
        }
    }

    #[test]
    fn the_cpu_kernel_agrees_with_tensor_products_in_every_case() {
        for (name, spans) in cases() {
            let error = error_of(&spans.into(), &spec(32), DType::F32, &Device::Cpu).unwrap();
            assert!(error < 1e-5, "{name}: {error}");
        }
    }

    /// The two calls of a split, each by tensor products, and their results merged.
    fn attend_split(
        split: &sequences::Split,
        (q, k, v): (&Tensor, &Tensor, &Tensor),
        scores: Scores,
    ) -> Result<Tensor> {
        let (own, own_sums) = attend_group(&split.own, (q, k, v), scores)?;
        let (shared, shared_sums) = attend_group(&split.shared, (q, k, v), scores)?;
        merge((&own, &own_sums), (&shared, &shared_sums))?.flatten_from(1)
    }

    /// Results of the variable-length kernel for a group: 0 and sums of infinity for queries
    /// without keys.
    fn attend_group(
        group: &sequences::Group,
        (q, k, v): (&Tensor, &Tensor, &Tensor),
        scores: Scores,
    ) -> Result<(Tensor, LogSums)> {
        let (queries, heads, dim) = q.dims3()?;
        let kv_heads = k.dims3()?.1;
        let rows: Vec<usize> = group.keys.iter().cloned().flatten().collect();
        let list = |x: &Tensor| x.flatten_all()?.to_vec1::<f32>();
        let (q, k, v) = (list(q)?, list(k)?, list(v)?);
        let mut output = vec![0f32; queries * heads * dim];
        let mut lse = vec![f32::INFINITY; group.padded_queries(heads)];
        for sequence in 0..group.query_ends.len() - 1 {
            let own = group.query_ends[sequence] as usize..group.query_ends[sequence + 1] as usize;
            let keys = &rows[group.key_ends[sequence] as usize..group.key_ends[sequence + 1] as usize];
            for (place, query) in own.clone().enumerate() {
                let visible = if group.mask == Mask::NONE { keys.len() } else { keys.len() + place + 1 - own.len() };
                let query = group.queries.start + query;
                for head in 0..heads {
                    let kv_head = head / (heads / kv_heads);
                    let at = |row: usize| (row * kv_heads + kv_head) * dim;
                    let q = &q[(query * heads + head) * dim..][..dim];
                    let score = |row: &usize| -> f32 {
                        scores.scale * q.iter().zip(&k[at(*row)..]).map(|(q, k)| q * k).sum::<f32>()
                    };
                    let weights: Vec<f32> = keys[..visible].iter().map(|row| score(row).exp()).collect();
                    let total: f32 = weights.iter().sum();
                    if weights.is_empty() {
                        continue;
                    }
                    lse[(sequence * heads + head) * group.longest_queries + place] = total.ln();
                    for (row, weight) in keys.iter().zip(&weights) {
                        let output = &mut output[(query * heads + head) * dim..][..dim];
                        output.iter_mut().zip(&v[at(*row)..]).for_each(|(output, v)| *output += weight / total * v);
                    }
                }
            }
        }
        let sums = LogSums {
            values: Tensor::new(lse, &Device::Cpu)?,
            places: Tensor::new(group.padded_places(heads), &Device::Cpu)?,
            head_distance: group.longest_queries,
        };
        Ok((Tensor::from_vec(output, (queries, heads, dim), &Device::Cpu)?, sums))
    }

    #[test]
    fn a_split_gives_what_one_call_gives() {
        let spec = spec(16);
        let scores = Scores { scale: spec.scale, soft_cap: None };
        let mut splits = Vec::new();
        for (name, spans) in cases() {
            let Some(split) = sequences::split(&spans, 4, usize::MAX) else { continue };
            splits.push(name);
            let queries = spans.last().unwrap().queries.end;
            let values = |rows: usize, heads: usize, seed: usize| {
                let values = (0..rows * heads * 16).map(|n| ((n + seed) * 7919 % 2003) as f32 / 1001.5 - 1.);
                Tensor::from_vec(values.collect::<Vec<f32>>(), (rows, heads, 16), &Device::Cpu).unwrap()
            };
            let (q, k, v) = (values(queries, 4, 0), values(ROWS, 2, 1), values(ROWS, 2, 2));
            let list = |x: Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let found = list(attend_split(&split, (&q, &k, &v), scores).unwrap());
            let expected = list(tiles::attend(&q, &k, &v, &spans, scores).unwrap());
            let error = relative_error(&found, &expected);
            assert!(error < 1e-5, "{name}: {error}");
        }
        assert_eq!(splits, ["prefix and suffixes", "cached prefix and suffixes", "several prefixes"]);
    }
}
