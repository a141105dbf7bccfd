//! Attention over packed rows: each run of queries against the ranges of keys it sees.
//!
//! Three ways to the same numbers: [`cpu`], a tiled kernel for f32 on the CPU; `flash`,
//! FlashAttention's variable-length kernel on CUDA; and [`tiles`], tensor products a tile at a time,
//! for every other device and type. None of them stores anything quadratic in the number of rows.

mod cpu;
#[cfg(feature = "flash-attn")]
mod flash;
#[cfg(any(feature = "flash-attn", test))]
mod sequences;
mod tiles;

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};

use super::config::DecoderConfig;
use super::cpu::Attention;
use super::layout::Span;

/// What the queries of a layer see, made ready for the kernel that will run. Layers that share their spans share it.
pub(super) struct Sight {
    spans: Arc<[Span]>,
    kernel: Kernel,
}

enum Kernel {
    Cpu,
    #[cfg(feature = "flash-attn")]
    Flash(flash::Calls),
    Tiles,
}

impl Sight {
    /// `like` is of the device and type that queries, keys and values will have.
    #[cfg_attr(
        not(feature = "flash-attn"),
        expect(clippy::unnecessary_wraps, reason = "another kernel copies to its device")
    )]
    pub fn new(spans: Arc<[Span]>, config: &DecoderConfig, like: &Tensor) -> Result<Self> {
        let kernel = match (like.device(), like.dtype()) {
            (Device::Cpu, DType::F32) if config.head_dim.is_multiple_of(Attention::DIM_MULTIPLE) => Kernel::Cpu,
            #[cfg(feature = "flash-attn")]
            (Device::Cuda(_), DType::BF16 | DType::F16) if flash::takes(config.head_dim) => {
                Kernel::Flash(flash::Calls::new(&spans, config.kv_heads * config.head_dim, like.device())?)
            }
            _ => Kernel::Tiles,
        };
        Ok(Self { spans, kernel })
    }

    pub fn is_of(&self, spans: &Arc<[Span]>) -> bool {
        Arc::ptr_eq(&self.spans, spans)
    }

    /// Softmax attention with scale `1 / sqrt(head_dim)`.
    ///
    /// `q` is `[queries, heads, head_dim]`, `k` and `v` are `[rows, kv_heads, head_dim]`, all contiguous,
    /// with `heads` a multiple of `kv_heads`; the spans cover the queries in order. The result is
    /// `[queries, heads * head_dim]`.
    pub fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        debug_assert_eq!(self.spans.last().map_or(0, |span| span.queries.end), q.dim(0)?);
        match &self.kernel {
            Kernel::Cpu => cpu::attend(q, k, v, &self.spans),
            #[cfg(feature = "flash-attn")]
            Kernel::Flash(calls) => calls.attend(q, k, v),
            Kernel::Tiles => tiles::attend(q, k, v, &self.spans),
        }
    }
}

/// Refuses a device on which attention comes out wrong, by a small case that is computed in two ways. `like` is of the
/// device and type that a model has there.
///
/// A kernel that cannot be launched leaves its output as the memory was, and nobody says so.
pub(super) fn check(config: &DecoderConfig, like: &Tensor) -> Result<()> {
    /// Of a weighted mean of values up to 1: bf16 has 8 bits, and the ways round at different steps.
    const BOUND: f32 = 0.03;
    const ROWS: usize = 150;
    let spans: Arc<[Span]> = Arc::new([
        Span { queries: 0..ROWS - 1, seen: vec![], causal: 0..ROWS - 1 },
        Span { queries: ROWS - 1..ROWS, seen: vec![3..70, 90..ROWS], causal: 0..0 },
    ]);
    let values = |heads: usize, seed: usize| {
        let value = |n: usize| ((n + seed) * 7919 % 2003) as f32 / 1001.5 - 1.;
        let values: Vec<f32> = (0..ROWS * heads * config.head_dim).map(value).collect();
        Tensor::from_vec(values, (ROWS, heads, config.head_dim), like.device())?.to_dtype(like.dtype())
    };
    let (q, k, v) = (values(config.heads, 0)?, values(config.kv_heads, 11)?, values(config.kv_heads, 23)?);
    let numbers = |x: Tensor| x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
    let expected = numbers(tiles::attend(&q, &k, &v, &spans)?)?;
    let found = numbers(Sight::new(spans, config, like)?.attend(&q, &k, &v)?)?;
    match found.iter().zip(&expected).find(|(found, expected)| (*found - *expected).abs() > BOUND || !found.is_finite())
    {
        None => Ok(()),
        Some((found, expected)) => {
            bail!("attention gives {found} where it should give {expected}: its kernels do not fit this device")
        }
    }
}
