//! FlashAttention's variable-length kernel on CUDA: each span is one sequence.
//!
//! The kernel's causal mask is aligned to the end of the keys, which is just how a run of queries
//! sits at the end of what it sees; a run of one query sees all its keys either way.

use candle_core::{Result, Tensor};

use super::super::layout::Span;

pub(super) fn attend(q: &Tensor, k: &Tensor, v: &Tensor, spans: &[Span]) -> Result<Tensor> {
    let (queries, heads, dim) = q.dims3()?;
    let mut ends_q = vec![0u32];
    let mut ends_k = vec![0u32];
    let (mut longest_q, mut longest_k) = (0, 0);
    for span in spans {
        ends_q.push(span.queries.end as u32);
        let keys = span.causal.len() + span.seen.iter().map(ExactSizeIterator::len).sum::<usize>();
        ends_k.push(ends_k[ends_k.len() - 1] + keys as u32);
        longest_q = longest_q.max(span.queries.len());
        longest_k = longest_k.max(keys);
    }
    // Plain sequences end to end need no gathering: their keys lie as they are.
    let plain = spans.iter().all(|span| span.seen.is_empty() && span.causal == span.queries);
    let (k, v) = if plain {
        (k.clone(), v.clone())
    } else {
        let keys: Vec<u32> = spans
            .iter()
            .flat_map(|span| span.seen.iter().chain([&span.causal]))
            .flat_map(|range| range.start as u32..range.end as u32)
            .collect();
        let keys = Tensor::new(keys, k.device())?;
        (k.index_select(&keys, 0)?, v.index_select(&keys, 0)?)
    };
    let scale = (dim as f32).sqrt().recip();
    let ends_q = Tensor::new(ends_q, q.device())?;
    let ends_k = Tensor::new(ends_k, q.device())?;
    candle_flash_attn::flash_attn_varlen(q, &k, &v, &ends_q, &ends_k, longest_q, longest_k, scale, true)?
        .reshape((queries, heads * dim))
}
