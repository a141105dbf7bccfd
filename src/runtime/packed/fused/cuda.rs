//! Launches the kernels of `kernels.cu`.

use std::ffi::c_int;
use std::sync::OnceLock;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaView, DeviceRepr, LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use candle_core::cuda_backend::{CudaDType, CudaDevice, WrapErr};
use candle_core::{CudaStorage, DType, Result, Storage, Tensor, bail};
use half::bf16;

use super::{LogSums, NormRope, Rows};
use crate::runtime::spec::Activation;

const SOURCE: &str = include_str!("kernels.cu");
const MODULE: &str = "podium-fused";

/// Threads of a block.
const THREADS: u32 = 256;
/// Warps of a block.
const WARPS: usize = THREADS as usize / 32;
/// Most blocks of a kernel whose threads take several packs each.
const MAX_BLOCKS: usize = 1 << 16;

/// Matrices on the device, with what is known of their rows.
type Matrix<'a> = (&'a CudaStorage, Rows);

/// The kernels as PTX, which the driver compiles for the GPU that it finds; once for the process.
fn ptx() -> Result<&'static str> {
    static PTX: OnceLock<std::result::Result<String, String>> = OnceLock::new();
    let compile = || {
        let options = CompileOptions { arch: Some("compute_80"), ..CompileOptions::default() };
        compile_ptx_with_opts(SOURCE, options).map(|ptx| ptx.to_src()).map_err(|error| format!("{error:?}"))
    };
    match PTX.get_or_init(compile) {
        Ok(ptx) => Ok(ptx),
        Err(problem) => bail!("NVRTC does not compile the kernels: {problem}"),
    }
}

/// A type that the kernels are compiled for.
trait Number: CudaDType + DeviceRepr {
    /// The end of the kernels' names.
    const NAME: &'static str;
}

impl Number for f32 {
    const NAME: &'static str = "f32";
}

impl Number for bf16 {
    const NAME: &'static str = "bf16";
}

/// Calls a function of a [`Number`] for the type of some storage.
macro_rules! for_type {
    ($storage:expr, $function:ident($($argument:expr),*)) => {
        match $storage.dtype() {
            DType::F32 => $function::<f32>($($argument),*),
            DType::BF16 => $function::<bf16>($($argument),*),
            other => bail!("the fused kernels have no {other:?}"),
        }
    };
}

fn view<T: Number>((storage, rows): Matrix<'_>) -> Result<CudaView<'_, T>> {
    Ok(storage.as_cuda_slice::<T>()?.slice(rows.start..))
}

/// Reads a whole contiguous tensor of a device.
fn with_slice<T: CudaDType + DeviceRepr, R>(
    tensor: &Tensor,
    read: impl FnOnce(CudaView<'_, T>) -> Result<R>,
) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else { bail!("a tensor of a fused kernel is not on the GPU") };
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("a tensor of a fused kernel is not contiguous") };
    read(storage.as_cuda_slice::<T>()?.slice(start..end))
}

fn int(value: usize) -> Result<c_int> {
    c_int::try_from(value).map_err(|_| candle_core::Error::Msg(format!("{value} is too large for a fused kernel")))
}

fn long(value: usize) -> Result<i64> {
    i64::try_from(value).map_err(|_| candle_core::Error::Msg(format!("{value} is too large for a fused kernel")))
}

/// As many blocks as it takes, one dimension.
fn config(blocks: usize) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks as u32, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 }
}

/// Blocks for so many packs, a thread each.
fn blocks_for(packs: usize) -> usize {
    packs.div_ceil(THREADS as usize).min(MAX_BLOCKS)
}

/// Numbers that a kernel reads at once.
fn pack<T>() -> usize {
    16 / size_of::<T>()
}

fn allocate<T: Number>(device: &CudaDevice, count: usize) -> Result<CudaSlice<T>> {
    // SAFETY: the next kernel writes all of it, except room that the caller writes.
    unsafe { device.alloc::<T>(count) }
}

pub(super) fn add_rms_norm(x: Matrix<'_>, y: Matrix<'_>, weight: &Tensor, eps: f32) -> Result<CudaStorage> {
    fn typed<T: Number>(x: Matrix<'_>, y: Matrix<'_>, weight: &Tensor, eps: f32) -> Result<CudaStorage> {
        let (device, rows) = (x.0.device.clone(), x.1);
        // The kernel reads packs of rows that begin at a pack.
        let is_aligned =
            |rows: Rows| [rows.start, rows.width, rows.stride].iter().all(|n| n.is_multiple_of(pack::<T>()));
        if (y.1.count, y.1.width) != (rows.count, rows.width) || !is_aligned(rows) || !is_aligned(y.1) {
            bail!("add-rms-norm of {rows:?} and {:?}", y.1);
        }
        let mut output = allocate::<T>(&device, 2 * rows.count * rows.width)?;
        if rows.count > 0 {
            let function = device.get_or_load_custom_func(&format!("add_rms_norm_{}", T::NAME), MODULE, ptx()?)?;
            let (mut sum, mut normed) = output.split_at_mut(rows.count * rows.width);
            let (x_view, y_view) = (view::<T>(x)?, view::<T>(y)?);
            let (width, x_stride, y_stride) = (int(rows.width)?, int(rows.stride)?, int(y.1.stride)?);
            with_slice::<T, ()>(weight, |weight| {
                let mut launch = function.builder();
                launch.arg(&x_view).arg(&y_view).arg(&weight).arg(&mut sum).arg(&mut normed);
                launch.arg(&width).arg(&x_stride).arg(&y_stride).arg(&eps);
                // SAFETY: a block per row; rows and strides are those of the views, checked by
                // `Rows`.
                unsafe { launch.launch(config(rows.count)) }.w().map(drop)
            })?;
        }
        Ok(T::wrap_cuda_slice(output, device))
    }
    for_type!(x.0, typed(x, y, weight, eps))
}

pub(super) fn norm_rope(spec: &NormRope<'_>, x: &CudaStorage, rows: Rows) -> Result<CudaStorage> {
    fn typed<T: Number>(spec: &NormRope<'_>, x: &CudaStorage, rows: Rows) -> Result<CudaStorage> {
        let device = x.device.clone();
        let mut output = allocate::<T>(&device, (rows.count + spec.room) * rows.width)?;
        if rows.count > 0 {
            launch_norm_rope(spec, (x, rows), &mut output)?;
        }
        Ok(T::wrap_cuda_slice(output, device))
    }
    for_type!(x, typed(spec, x, rows))
}

fn launch_norm_rope<T: Number>(spec: &NormRope<'_>, x: Matrix<'_>, output: &mut CudaSlice<T>) -> Result<()> {
    let (device, rows) = (&x.0.device, x.1);
    let function = device.get_or_load_custom_func(&format!("norm_rope_{}", T::NAME), MODULE, ptx()?)?;
    // An argument that the kernel does not read must still be valid memory.
    let nothing = view::<T>(x)?;
    let (count, heads, dim) = (int(rows.count)?, int(spec.heads)?, int(spec.dim)?);
    let stride = int(rows.stride)?;
    let (has_norm, has_rope) = (c_int::from(spec.norm.is_some()), c_int::from(spec.angles.is_some()));
    let eps = spec.norm.map_or(0., |(_, eps)| eps as f32);
    let blocks = (rows.count * spec.heads).div_ceil(WARPS);
    let mut run =
        |weight: &CudaView<'_, T>, cosines: &CudaView<'_, T>, sines: &CudaView<'_, T>, at: &CudaView<'_, u32>| {
            let mut launch = function.builder();
            launch.arg(&nothing).arg(weight).arg(cosines).arg(sines).arg(at).arg(&mut *output);
            launch.arg(&count).arg(&heads).arg(&dim).arg(&stride).arg(&has_norm).arg(&has_rope).arg(&eps);
            // SAFETY: a warp per head of a row. The layout was checked against heads and width,
            // positions by the packing of passes against the tables.
            unsafe { launch.launch(config(blocks)) }.w().map(drop)
        };
    let mut with_weight = |cosines: &CudaView<'_, T>, sines: &CudaView<'_, T>, at: &CudaView<'_, u32>| match spec.norm {
        Some((weight, _)) => with_slice::<T, ()>(weight, |weight| run(&weight, cosines, sines, at)),
        None => run(&nothing, cosines, sines, at),
    };
    match spec.angles {
        Some(angles) => with_slice::<T, ()>(angles.cosines, |cosines| {
            with_slice::<T, ()>(angles.sines, |sines| {
                with_slice::<u32, ()>(angles.positions, |at| with_weight(&cosines, &sines, &at))
            })
        }),
        None => with_weight(&nothing, &nothing, &device.alloc_zeros::<u32>(1)?.slice(..)),
    }
}

pub(super) fn gated(x: &CudaStorage, rows: Rows, activation: Activation) -> Result<CudaStorage> {
    fn typed<T: Number>(x: &CudaStorage, rows: Rows, activation: c_int) -> Result<CudaStorage> {
        let (device, width) = (x.device.clone(), rows.width / 2);
        if ![rows.start, width, rows.stride].iter().all(|n| n.is_multiple_of(pack::<T>())) {
            bail!("gated rows of {rows:?}");
        }
        let mut output = allocate::<T>(&device, rows.count * width)?;
        if rows.count > 0 {
            let function = device.get_or_load_custom_func(&format!("gated_{}", T::NAME), MODULE, ptx()?)?;
            let gate_up = view::<T>((x, rows))?;
            let (count, stride, columns) = (long(rows.count)?, int(rows.stride)?, int(width)?);
            let mut launch = function.builder();
            launch.arg(&gate_up).arg(&mut output).arg(&count).arg(&columns).arg(&stride).arg(&activation);
            // SAFETY: every pack of the output is written once; rows and stride are those of the
            // view.
            unsafe { launch.launch(config(blocks_for(rows.count * width / pack::<T>()))) }.w()?;
        }
        Ok(T::wrap_cuda_slice(output, device))
    }
    let number = match activation {
        Activation::Silu => 0,
        Activation::GeluErf => 1,
        Activation::GeluTanh => 2,
        Activation::Relu => 3,
        Activation::Tanh => 4,
    };
    for_type!(x, typed(x, rows, number))
}

pub(super) fn merge(
    own: (Matrix<'_>, &LogSums),
    other: (Matrix<'_>, &LogSums),
    heads: (usize, usize),
) -> Result<CudaStorage> {
    fn typed<T: Number>(
        (own, own_sums): (Matrix<'_>, &LogSums),
        (other, other_sums): (Matrix<'_>, &LogSums),
        (heads, dim): (usize, usize),
    ) -> Result<CudaStorage> {
        let (device, rows) = (own.0.device.clone(), own.1);
        let contiguous = |rows: Rows| rows.stride == rows.width;
        if rows.count != other.1.count || !contiguous(rows) || !contiguous(other.1) || !dim.is_multiple_of(pack::<T>())
        {
            bail!("merging {rows:?} and {:?}", other.1);
        }
        let mut output = allocate::<T>(&device, rows.count * rows.width)?;
        if rows.count > 0 {
            let function = device.get_or_load_custom_func(&format!("merge_{}", T::NAME), MODULE, ptx()?)?;
            let (own_view, other_view) = (view::<T>(own)?, view::<T>(other)?);
            let (count, heads, dim) = (long(rows.count)?, int(heads)?, int(dim)?);
            let (own_distance, other_distance) = (int(own_sums.head_distance)?, int(other_sums.head_distance)?);
            let blocks = blocks_for(rows.count * rows.width / pack::<T>());
            with_sums(own_sums, |own_lse, own_places| {
                with_sums(other_sums, |other_lse, other_places| {
                    let mut launch = function.builder();
                    launch.arg(&own_view).arg(&other_view).arg(&own_lse).arg(&other_lse);
                    launch.arg(&own_places).arg(&other_places).arg(&mut output);
                    launch.arg(&count).arg(&heads).arg(&dim).arg(&own_distance).arg(&other_distance);
                    // SAFETY: both are contiguous and of the output's size; attention has written a
                    // value for each head at each row's place.
                    unsafe { launch.launch(config(blocks)) }.w().map(drop)
                })
            })?;
        }
        Ok(T::wrap_cuda_slice(output, device))
    }
    for_type!(own.0.0, typed(own, other, heads))
}

/// Reads the values and the places of sums.
fn with_sums(sums: &LogSums, mut read: impl FnMut(CudaView<'_, f32>, CudaView<'_, u32>) -> Result<()>) -> Result<()> {
    with_slice::<f32, ()>(&sums.values, |values| with_slice::<u32, ()>(&sums.places, |places| read(values, places)))
}
