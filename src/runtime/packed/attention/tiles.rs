//! Attention as tensor products, a tile of queries at a time: for devices and types without a kernel.

use candle_core::{DType, Device, Result, Tensor};

use super::super::span::{Mask, Span};
use super::Scores;

/// Scores that exist at once, over all heads: 256 MiB in f32.
const MAX_SCORES: usize = 1 << 26;
/// Queries of one tile where a mask hides keys before them: the fewer, the fewer hidden keys are multiplied.
const WINDOW_TILE: usize = 128;

pub(super) fn attend(q: &Tensor, k: &Tensor, v: &Tensor, spans: &[Span], scores: Scores) -> Result<Tensor> {
    let (_, heads, dim) = q.dims3()?;
    let mut outputs = Vec::new();
    for span in spans {
        let rows: Vec<u32> = span.key_rows().map(|row| row as u32).collect();
        let count = rows.len();
        let rows = Tensor::new(rows, k.device())?;
        // [kv_heads, keys, dim]: one product per key head, its query heads side by side.
        let gather = |x: &Tensor| x.index_select(&rows, 0)?.transpose(0, 1)?.contiguous()?.to_dtype(DType::F32);
        let (k, v) = (gather(k)?, gather(v)?);
        let limit = if span.mask.before < count { WINDOW_TILE } else { usize::MAX };
        let tile = (MAX_SCORES / (heads * count)).min(limit).clamp(1, span.queries.len());
        for first in (0..span.queries.len()).step_by(tile) {
            let queries = tile.min(span.queries.len() - first);
            let seen = span.visible(first, count).start..span.visible(first + queries - 1, count).end;
            let q = q.narrow(0, span.queries.start + first, queries)?.to_dtype(DType::F32)?;
            let part = |x: &Tensor| x.narrow(1, seen.start, seen.len());
            let mask = if queries > 1 && span.mask != Mask::NONE {
                Some(additive_mask(span, first..first + queries, count, &seen, q.device())?)
            } else {
                None
            };
            outputs
                .push(attend_tile(&q, &part(&k)?, &part(&v)?, mask.as_ref(), scores)?.reshape((queries, heads * dim))?);
        }
    }
    Tensor::cat(&outputs, 0)?.to_dtype(q.dtype())
}

/// `[queries, heads, dim]` against `[kv_heads, keys, dim]`.
fn attend_tile(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>, scores: Scores) -> Result<Tensor> {
    let (queries, heads, dim) = q.dims3()?;
    let (kv_heads, keys, _) = k.dims3()?;
    let group = heads / kv_heads;
    let q = q.reshape((queries, kv_heads, group, dim))?.permute((1, 2, 0, 3))?;
    let q = q.reshape((kv_heads, group * queries, dim))?;
    let mut products = (q.matmul(&k.transpose(1, 2)?.contiguous()?)? * f64::from(scores.scale))?;
    if let Some(cap) = scores.soft_cap.map(f64::from) {
        products = ((products / cap)?.tanh()? * cap)?;
    }
    if let Some(mask) = mask {
        products = products.reshape((heads, queries, keys))?.broadcast_add(mask)?;
        products = products.reshape((kv_heads, group * queries, keys))?;
    }
    let weights = candle_nn::ops::softmax_last_dim(&products)?;
    weights.matmul(&v.contiguous()?)?.reshape((kv_heads, group, queries, dim))?.permute((2, 0, 1, 3))?.contiguous()
}

/// `[queries, keys]`: 0 where a query sees a key, minus infinity elsewhere.
fn additive_mask(
    span: &Span,
    queries: std::ops::Range<usize>,
    count: usize,
    seen: &std::ops::Range<usize>,
    device: &Device,
) -> Result<Tensor> {
    let shape = (queries.len(), seen.len());
    let row = |query: usize| {
        let visible = span.visible(query, count);
        seen.clone().map(move |key| if visible.contains(&key) { 0. } else { f32::NEG_INFINITY })
    };
    Tensor::from_vec(queries.flat_map(row).collect::<Vec<f32>>(), shape, device)
}
