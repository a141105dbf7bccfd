//! Operations between matrix products as one kernel each, where candle takes several: on CUDA those
//! of `kernels.cu`, on a CPU plain loops in f32, which are also the reference. Other devices have
//! none.

mod check;
#[cfg(feature = "cuda")]
mod cuda;
mod on_cpu;
#[cfg(test)]
mod tests;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Device, Layout, Result, Shape, Tensor, bail};

pub(super) use self::check::{check, relative_error};
use crate::runtime::spec::Activation;

/// Whether there are kernels for this device, type and width of rows: they read 16 bytes at once.
pub(super) fn has_kernels(device: &Device, dtype: DType, width: usize) -> bool {
    match (device, dtype) {
        (Device::Cpu, DType::F32) => true,
        (Device::Cuda(_), DType::F32 | DType::BF16) => (width * dtype.size_in_bytes()).is_multiple_of(16),
        _ => false,
    }
}

/// `x + y` and its RMS norm times `weight`, each `[rows, width]`. Rows of `x` and `y` may be part
/// of wider ones.
pub(super) fn add_rms_norm(x: &Tensor, y: &Tensor, weight: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let both = x.apply_op2_no_bwd(y, &AddRmsNorm { weight, eps: eps as f32 })?;
    Ok((both.get(0)?, both.get(1)?))
}

struct AddRmsNorm<'a> {
    weight: &'a Tensor,
    eps: f32,
}

/// Cosines and sines, `[positions, dim / 2]` each, and the position of each row.
#[derive(Clone, Copy)]
pub(super) struct Angles<'a> {
    pub cosines: &'a Tensor,
    pub sines: &'a Tensor,
    pub positions: &'a Tensor,
}

/// Heads of rows, normalised and rotated.
pub(super) struct NormRope<'a> {
    pub heads: usize,
    pub dim: usize,
    /// Weight and eps of the RMS norm of each head.
    pub norm: Option<(&'a Tensor, f64)>,
    pub angles: Option<Angles<'a>>,
    /// Rows behind the given ones that the result has room for.
    pub room: usize,
}

impl NormRope<'_> {
    /// `[rows + room, heads, dim]` from `[rows, heads * dim]`; its rows may be parts of wider ones.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        x.apply_op1_no_bwd(self)
    }
}

/// `activation(gate) * up`, `[rows, width]`, from rows `[gate | up]`.
pub(super) fn gated(gate_up: &Tensor, activation: Activation) -> Result<Tensor> {
    gate_up.apply_op1_no_bwd(&Gated(activation))
}

struct Gated(Activation);

/// The logarithms of attention's sums of exponentials; infinity where a query has no key.
pub(super) struct LogSums {
    /// In f32, one dimension.
    pub values: Tensor,
    /// For each row, the place of its first head's value.
    pub places: Tensor,
    /// From one head's value to the next.
    pub head_distance: usize,
}

/// Attention over two sets of keys as one, `[rows, heads, dim]`.
pub(super) fn merge(own: (&Tensor, &LogSums), other: (&Tensor, &LogSums)) -> Result<Tensor> {
    own.0.apply_op2_no_bwd(other.0, &Merge { own: own.1, other: other.1 })
}

struct Merge<'a> {
    own: &'a LogSums,
    other: &'a LogSums,
}

/// Rows of a matrix, and their distance in elements. The elements of a row lie side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rows {
    start: usize,
    count: usize,
    width: usize,
    stride: usize,
}

impl Rows {
    /// All dimensions but the first are a row.
    fn new(layout: &Layout) -> Result<Self> {
        let (dims, strides) = (layout.dims(), layout.stride());
        let Some((count, of_row)) = dims.split_first() else { bail!("a number has no rows") };
        let width: usize = of_row.iter().product();
        let mut expected = 1;
        for (dim, stride) in of_row.iter().zip(&strides[1..]).rev() {
            if *dim != 1 && *stride != expected {
                bail!("the numbers of a row do not lie side by side: {dims:?}, {strides:?}");
            }
            expected *= dim;
        }
        Ok(Self { start: layout.start_offset(), count: *count, width, stride: strides[0] })
    }
}

impl CustomOp2 for AddRmsNorm<'_> {
    fn name(&self) -> &'static str {
        "add-rms-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, y: &CpuStorage, yl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x_rows, y_rows) = (Rows::new(xl)?, Rows::new(yl)?);
        let weight = self.weight.to_vec1::<f32>()?;
        let output = on_cpu::add_rms_norm((x.as_slice()?, x_rows), (y.as_slice()?, y_rows), &weight, self.eps);
        Ok((CpuStorage::F32(output), (2, x_rows.count, x_rows.width).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        xl: &Layout,
        y: &candle_core::CudaStorage,
        yl: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let (x_rows, y_rows) = (Rows::new(xl)?, Rows::new(yl)?);
        let output = cuda::add_rms_norm((x, x_rows), (y, y_rows), self.weight, self.eps)?;
        Ok((output, (2, x_rows.count, x_rows.width).into()))
    }
}

impl CustomOp1 for NormRope<'_> {
    fn name(&self) -> &'static str {
        "norm-rope"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let rows = self.rows(layout)?;
        let output = on_cpu::norm_rope(self, x.as_slice()?, rows)?;
        Ok((CpuStorage::F32(output), (rows.count + self.room, self.heads, self.dim).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &candle_core::CudaStorage, layout: &Layout) -> Result<(candle_core::CudaStorage, Shape)> {
        let rows = self.rows(layout)?;
        Ok((cuda::norm_rope(self, x, rows)?, (rows.count + self.room, self.heads, self.dim).into()))
    }
}

impl NormRope<'_> {
    fn rows(&self, layout: &Layout) -> Result<Rows> {
        let rows = Rows::new(layout)?;
        if rows.width != self.heads * self.dim || !self.dim.is_multiple_of(2) {
            bail!("{} heads of {} numbers are not rows of {}", self.heads, self.dim, rows.width);
        }
        Ok(rows)
    }
}

impl CustomOp1 for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let rows = Rows::new(layout)?;
        Ok((CpuStorage::F32(on_cpu::gated(x.as_slice()?, rows, self.0)), (rows.count, rows.width / 2).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &candle_core::CudaStorage, layout: &Layout) -> Result<(candle_core::CudaStorage, Shape)> {
        let rows = Rows::new(layout)?;
        Ok((cuda::gated(x, rows, self.0)?, (rows.count, rows.width / 2).into()))
    }
}

impl CustomOp2 for Merge<'_> {
    fn name(&self) -> &'static str {
        "merge-attention"
    }

    fn cpu_fwd(&self, own: &CpuStorage, ol: &Layout, other: &CpuStorage, tl: &Layout) -> Result<(CpuStorage, Shape)> {
        let heads = ol.shape().dims3()?.1;
        let (own, other) = ((own.as_slice()?, Rows::new(ol)?), (other.as_slice()?, Rows::new(tl)?));
        Ok((CpuStorage::F32(on_cpu::merge((own, self.own), (other, self.other), heads)?), ol.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        own: &candle_core::CudaStorage,
        own_layout: &Layout,
        other: &candle_core::CudaStorage,
        other_layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let (_, heads, dim) = own_layout.shape().dims3()?;
        let (own, other) = ((own, Rows::new(own_layout)?), (other, Rows::new(other_layout)?));
        Ok((cuda::merge((own, self.own), (other, self.other), (heads, dim))?, own_layout.shape().clone()))
    }
}
