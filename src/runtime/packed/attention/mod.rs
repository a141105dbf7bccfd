//! Attention over packed rows: each run of queries against the ranges of keys it sees.
//!
//! Three ways to the same numbers: [`cpu`], a tiled kernel for f32 on the CPU; `flash`,
//! FlashAttention's variable-length kernel on CUDA; and [`tiles`], tensor products a tile at a time,
//! for every other device and type. None of them stores anything quadratic in the number of rows.

mod cpu;
#[cfg(feature = "flash-attn")]
mod flash;
mod tiles;

use candle_core::{DType, Device, Result, Tensor};

use super::cpu::Attention;
use super::layout::Span;

/// Softmax attention with scale `1 / sqrt(head_dim)`.
///
/// `q` is `[queries, heads, head_dim]`, `k` and `v` are `[rows, kv_heads, head_dim]`, all contiguous,
/// with `heads` a multiple of `kv_heads`; `spans` cover the queries in order. The result is
/// `[queries, heads * head_dim]`.
pub(super) fn attend(q: &Tensor, k: &Tensor, v: &Tensor, spans: &[Span]) -> Result<Tensor> {
    debug_assert_eq!(spans.last().map_or(0, |span| span.queries.end), q.dim(0)?);
    match (q.device(), q.dtype()) {
        (Device::Cpu, DType::F32) if q.dim(2)?.is_multiple_of(Attention::DIM_MULTIPLE) => cpu::attend(q, k, v, spans),
        #[cfg(feature = "flash-attn")]
        (Device::Cuda(_), DType::BF16 | DType::F16) => flash::attend(q, k, v, spans),
        _ => tiles::attend(q, k, v, spans),
    }
}
