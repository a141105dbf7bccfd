//! Attention over packed rows: each run of queries against the ranges of keys it sees.
//!
//! Three implementations of the same function: [`cpu`], a tiled kernel for f32 on the CPU; `flash`, FlashAttention's
//! variable-length kernel on CUDA; and [`tiles`], tensor products a tile at a time, for every other device and type. None of
//! them stores anything quadratic in the number of rows.

mod cpu;
#[cfg(feature = "flash-attn")]
mod flash;
#[cfg(any(feature = "flash-attn", test))]
mod sequences;
mod tiles;

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};

use super::cpu::Attention;
use super::span::{Mask, Span};
use crate::runtime::spec::AttentionSpec;

/// The attention of a layer, prepared for the kernel that will run. Layers that share their spans share it.
pub(super) struct AttentionPlan {
    spans: Arc<[Span]>,
    scores: Scores,
    kernel: Kernel,
}

/// What is done to the products of queries and keys.
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
    Tiles,
}

impl AttentionPlan {
    /// `dtype` and `device` are those of the queries, keys and values.
    #[cfg_attr(
        not(feature = "flash-attn"),
        expect(clippy::unnecessary_wraps, reason = "another kernel copies to its device")
    )]
    pub fn new(spans: Arc<[Span]>, spec: &AttentionSpec, dtype: DType, device: &Device) -> Result<Self> {
        let kernel = match (device, dtype) {
            (Device::Cpu, DType::F32) if spec.head_dim.is_multiple_of(Attention::DIM_MULTIPLE) => Kernel::Cpu,
            #[cfg(feature = "flash-attn")]
            (Device::Cuda(_), DType::BF16 | DType::F16) if flash::supports(spec.head_dim) => {
                Kernel::Flash(flash::Calls::new(&spans, spec.kv_heads * spec.head_dim, device)?)
            }
            _ => Kernel::Tiles,
        };
        Ok(Self { spans, scores: Scores { scale: spec.scale, soft_cap: spec.soft_cap }, kernel })
    }

    pub fn is_of(&self, spans: &Arc<[Span]>) -> bool {
        Arc::ptr_eq(&self.spans, spans)
    }

    /// Softmax attention.
    ///
    /// `q` is `[queries, heads, head_dim]`, `k` and `v` are `[rows, kv_heads, head_dim]`, all contiguous,
    /// with `heads` a multiple of `kv_heads`; the spans cover the queries in order. The result is
    /// `[queries, heads * head_dim]`.
    pub fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        debug_assert_eq!(self.spans.last().map_or(0, |span| span.queries.end), q.dim(0)?);
        match &self.kernel {
            Kernel::Cpu => cpu::attend(q, k, v, &self.spans, self.scores),
            #[cfg(feature = "flash-attn")]
            Kernel::Flash(calls) => calls.attend(q, k, v, self.scores),
            Kernel::Tiles => tiles::attend(q, k, v, &self.spans, self.scores),
        }
    }
}

/// Rejects a device on which attention comes out wrong, by a small case that is computed in two ways: FlashAttention does not
/// report launch failures, and its output is then uninitialised memory.
pub(super) fn check(spec: &AttentionSpec, dtype: DType, device: &Device) -> Result<()> {
    /// Of a weighted mean of values up to 1: bf16 has 8 bits, and the kernels round at different steps.
    const BOUND: f32 = 0.03;
    const ROWS: usize = 150;
    let run = |queries: std::ops::Range<usize>, mask| Span { keys: vec![queries.clone()], queries, mask };
    let spans: Arc<[Span]> = Arc::new([
        run(0..70, Mask::CAUSAL),
        run(70..100, Mask::NONE),
        run(100..ROWS - 1, Mask { before: 9, after: 4 }),
        Span::single(ROWS - 1, vec![3..70, 90..ROWS]),
    ]);
    let values = |heads: usize, seed: usize| {
        let value = |n: usize| ((n + seed) * 7919 % 2003) as f32 / 1001.5 - 1.;
        let values: Vec<f32> = (0..ROWS * heads * spec.head_dim).map(value).collect();
        Tensor::from_vec(values, (ROWS, heads, spec.head_dim), device)?.to_dtype(dtype)
    };
    let (q, k, v) = (values(spec.heads, 0)?, values(spec.kv_heads, 11)?, values(spec.kv_heads, 23)?);
    let numbers = |x: Tensor| x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
    let scores = Scores { scale: spec.scale, soft_cap: spec.soft_cap };
    let expected = numbers(tiles::attend(&q, &k, &v, &spans, scores)?)?;
    let found = numbers(AttentionPlan::new(spans, spec, dtype, device)?.attend(&q, &k, &v)?)?;
    match found.iter().zip(&expected).find(|(found, expected)| (*found - *expected).abs() > BOUND || !found.is_finite())
    {
        None => Ok(()),
        Some((found, expected)) => {
            bail!("attention gives {found} instead of {expected}: its kernels do not fit this device")
        }
    }
}
