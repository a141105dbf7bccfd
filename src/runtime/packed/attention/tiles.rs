//! Attention as tensor products, a tile of queries at a time: for devices and types without a kernel.

use candle_core::{DType, Result, Tensor};

use super::super::layout::Span;

/// Scores that exist at once, over all heads: 256 MiB in f32.
const MAX_SCORES: usize = 1 << 26;

pub(super) fn attend(q: &Tensor, k: &Tensor, v: &Tensor, spans: &[Span]) -> Result<Tensor> {
    let (_, heads, dim) = q.dims3()?;
    let kv_heads = k.dim(1)?;
    let mut outputs = Vec::new();
    for span in spans {
        let count = span.keys();
        let keys: Vec<u32> = span.key_rows().flat_map(|range| range.start as u32..range.end as u32).collect();
        let keys = Tensor::new(keys, k.device())?;
        // [kv_heads, 1, keys, dim]: one product per key head, its query heads side by side.
        let gather = |x: &Tensor| x.index_select(&keys, 0)?.transpose(0, 1)?.contiguous()?.to_dtype(DType::F32);
        let (k, v) = (gather(k)?, gather(v)?);
        let tile = (MAX_SCORES / (heads * count)).clamp(1, span.queries.len());
        for first in (0..span.queries.len()).step_by(tile) {
            let rows = tile.min(span.queries.len() - first);
            let q = q.narrow(0, span.queries.start + first, rows)?.to_dtype(DType::F32)?;
            let group = heads / kv_heads;
            let q = q.reshape((rows, kv_heads, group, dim))?.permute((1, 2, 0, 3))?.reshape((
                kv_heads,
                group * rows,
                dim,
            ))?;
            let mut scores = (q.matmul(&k.transpose(1, 2)?)? / (dim as f64).sqrt())?;
            // Query `first + i` sees all keys but those of the causal run that come after it.
            if span.causal.len() > 1 {
                let mask = causal_mask(rows, count, count - span.causal.len() + first, scores.device())?;
                scores = scores.reshape((heads, rows, count))?.broadcast_add(&mask)?;
                scores = scores.reshape((kv_heads, group * rows, count))?;
            }
            let weights = candle_nn::ops::softmax_last_dim(&scores)?;
            let output = weights.matmul(&v)?.reshape((kv_heads, group, rows, dim))?.permute((2, 0, 1, 3))?;
            outputs.push(output.reshape((rows, heads * dim))?);
        }
    }
    Tensor::cat(&outputs, 0)?.to_dtype(q.dtype())
}

/// `[rows, keys]`: 0 where row `i` sees key `j <= offset + i`, minus infinity elsewhere.
fn causal_mask(rows: usize, keys: usize, offset: usize, device: &candle_core::Device) -> Result<Tensor> {
    let mask: Vec<f32> = (0..rows)
        .flat_map(|row| (0..keys).map(move |key| if key <= offset + row { 0. } else { f32::NEG_INFINITY }))
        .collect();
    Tensor::from_vec(mask, (rows, keys), device)
}
