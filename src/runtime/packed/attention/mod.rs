//! Attention over packed rows: each run of queries against the ranges of keys it sees.
//!
//! Three implementations of the same function: [`cpu`], a tiled kernel for f32 on the CPU; `flash`,
//! FlashAttention's variable-length kernel on CUDA; and [`tiles`], tensor products a tile at a
//! time, for every other device and type. None of them stores anything quadratic in the number of
//! rows.

mod check;
mod cpu;
#[cfg(feature = "flash-attn")]
mod flash;
#[cfg(any(feature = "flash-attn", test))]
mod sequences;
mod tiles;

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

pub(super) use self::check::check;
use super::cpu::Attention;
use super::span::Span;
use crate::runtime::spec::AttentionSpec;

/// The attention of a layer, prepared for its kernel. Layers with the same spans share it.
pub(super) struct AttentionPlan {
    spans: Arc<[Span]>,
    scores: Scores,
    kernel: Kernel,
}

/// Scale and soft cap of the products of queries and keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scores {
    /// Their factor.
    pub scale: f32,
    /// They become `cap * tanh(score / cap)`.
    pub soft_cap: Option<f32>,
}

enum Kernel {
    Cpu,
    #[cfg(feature = "flash-attn")]
    Flash(flash::Calls),
    Tiles(tiles::Plan),
}

/// Whether the CPU's kernel attends: it reads keys where they lie.
fn is_cpu_kernel(spec: &AttentionSpec, dtype: DType, device: &Device) -> bool {
    device.is_cpu() && dtype == DType::F32 && spec.head_dim.is_multiple_of(Attention::DIM_MULTIPLE)
}

/// Whether attention over these spans copies more keys than `rows`. Then attention of all rows over
/// keys that lie in one range costs less.
pub(super) fn gathers_more_than(
    spans: &[Span],
    rows: usize,
    spec: &AttentionSpec,
    (dtype, device): (DType, &Device),
) -> bool {
    if is_cpu_kernel(spec, dtype, device) {
        return false;
    }
    #[cfg(feature = "flash-attn")]
    if sequences::split(spans, spec.heads, usize::MAX).is_some() {
        return false;
    }
    spans.iter().map(Span::key_count).sum::<usize>() > rows
}

impl AttentionPlan {
    /// `dtype` and `device` are those of the queries, keys and values.
    pub fn new(spans: Arc<[Span]>, spec: &AttentionSpec, dtype: DType, device: &Device) -> Result<Self> {
        let kernel = match (device, dtype) {
            _ if is_cpu_kernel(spec, dtype, device) => Kernel::Cpu,
            #[cfg(feature = "flash-attn")]
            (Device::Cuda(_), DType::BF16 | DType::F16) if flash::supports(spec.head_dim) => {
                Kernel::Flash(flash::Calls::new(&spans, spec, device)?)
            }
            _ => Kernel::Tiles(tiles::Plan::new(&spans, spec, device)?),
        };
        Ok(Self { spans, scores: Scores { scale: spec.scale, soft_cap: spec.soft_cap }, kernel })
    }

    pub fn is_of(&self, spans: &Arc<[Span]>) -> bool {
        Arc::ptr_eq(&self.spans, spans)
    }

    /// Softmax attention.
    ///
    /// `q` is `[queries, heads, head_dim]`, `k` and `v` are `[rows, kv_heads, head_dim]`, with
    /// `heads` a multiple of `kv_heads`; heads lie side by side, rows may be part of wider ones.
    /// The spans cover the queries in order. The result is `[queries, heads * head_dim]`.
    pub fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        debug_assert_eq!(self.spans.last().map_or(0, |span| span.queries.end), q.dim(0)?);
        match &self.kernel {
            Kernel::Cpu => cpu::attend(&q.contiguous()?, &k.contiguous()?, &v.contiguous()?, &self.spans, self.scores),
            #[cfg(feature = "flash-attn")]
            Kernel::Flash(calls) => calls.attend(q, k, v, self.scores),
            Kernel::Tiles(plan) => plan.attend(q, k, v, self.scores),
        }
    }
}
