//! FlashAttention's variable-length kernel on CUDA: each span is one sequence.
//!
//! The kernel's mask is aligned to the end of the keys, where a span's own keys are. The kernel is
//! called directly, because its crate's functions do not return the sums of exponentials. With
//! these, attention over keys that many runs share is computed once and merged, and no run's keys
//! are copied.

use std::ffi::{c_int, c_void};
use std::ops::Range;

// The crate brings the kernels, which are declared below.
use candle_core::cuda_backend::cudarc::driver::{DevicePtr, DeviceRepr, DeviceSlice};
use candle_core::cuda_backend::{CudaDType, CudaStorage};
use candle_core::op::BackpropOp;
use candle_core::{DType, Device, Layout, Result, Storage, Tensor, WithDType, bail};
use candle_flash_attn as _;
use half::{bf16, f16};

use super::super::fused::{self, LogSums};
use super::super::span::{Mask, Span};
use super::Scores;
use super::sequences::{Group, Split, groups, split};
use crate::runtime::spec::AttentionSpec;

/// The most elements that one call may gather of the keys, and again of the values: 256 MiB each in
/// 16 bits. Above 2^32 elements candle's gathering kernel does not end.
const MAX_GATHERED: usize = 1 << 27;

unsafe extern "C" {
    /// The entry of candle-flash-attn's kernels. Strides are in elements; ends are 0 and the end of
    /// each sequence; a window of -1 keys is no window.
    fn run_mha(
        q: *const c_void,
        k: *const c_void,
        v: *const c_void,
        output: *const c_void,
        lse: *const c_void,
        alibi_slopes: *const c_void,
        query_ends: *const i32,
        key_ends: *const i32,
        q_batch_stride: u32,
        k_batch_stride: u32,
        v_batch_stride: u32,
        o_batch_stride: u32,
        alibi_slopes_batch_stride: u32,
        q_row_stride: u32,
        k_row_stride: u32,
        v_row_stride: u32,
        o_row_stride: u32,
        q_head_stride: u32,
        k_head_stride: u32,
        v_head_stride: u32,
        o_head_stride: u32,
        sequences: u32,
        heads: u32,
        kv_heads: u32,
        dim: u32,
        dim_rounded: u32,
        scale: f32,
        longest_queries: u32,
        longest_keys: u32,
        longest_queries_rounded: u32,
        longest_keys_rounded: u32,
        is_bf16: c_int,
        is_causal: c_int,
        unpadded_lse: c_int,
        window_before: c_int,
        window_after: c_int,
        soft_cap: f32,
    );
}

/// The calls that attention over some spans takes, with what they read of the spans on the device.
pub(super) enum Calls {
    /// The queries of each call, end to end.
    Grouped(Vec<Call>),
    /// Both over all queries, with the places of their sums; their results are merged.
    Split { own: (Call, Tensor), shared: (Call, Tensor) },
}

pub(super) struct Call {
    mask: Mask,
    queries: Range<usize>,
    keys: Keys,
    query_ends: Tensor,
    key_ends: Tensor,
    sequences: usize,
    longest_queries: usize,
    longest_keys: usize,
}

/// Where a call's rows of the key matrix are.
enum Keys {
    /// In one range: they are read as they lie.
    Together(Range<usize>),
    /// All over it: they are gathered, by these numbers.
    Apart(Tensor),
}

/// Whether the kernel has heads of this dimension.
pub(super) fn supports(dim: usize) -> bool {
    dim.is_multiple_of(8) && dim <= 512
}

impl Calls {
    pub fn new(spans: &[Span], spec: &AttentionSpec, device: &Device) -> Result<Self> {
        let max_keys = MAX_GATHERED / (spec.kv_heads * spec.head_dim);
        if let Some(Split { own, shared }) = split(spans, spec.heads, max_keys) {
            let call = |group: Group| {
                let places = Tensor::new(group.padded_places(spec.heads), device)?;
                Ok::<_, candle_core::Error>((Call::new(group, device)?, places))
            };
            return Ok(Self::Split { own: call(own)?, shared: call(shared)? });
        }
        let calls = groups(spans, max_keys).into_iter().map(|group| Call::new(group, device));
        Ok(Self::Grouped(calls.collect::<Result<_>>()?))
    }

    pub fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, scores: Scores) -> Result<Tensor> {
        match self {
            Self::Grouped(calls) => {
                let outputs: Vec<Tensor> =
                    calls.iter().map(|call| Ok(call.attend((q, k, v), scores, false)?.0)).collect::<Result<_>>()?;
                match outputs.as_slice() {
                    [output] => output.flatten_from(1),
                    outputs => Tensor::cat(outputs, 0)?.flatten_from(1),
                }
            }
            Self::Split { own, shared } => {
                let run = |(call, places): &(Call, Tensor)| {
                    let (output, values) = call.attend((q, k, v), scores, true)?;
                    let (places, head_distance) = (places.clone(), call.longest_queries);
                    Ok::<_, candle_core::Error>((output, LogSums { values, places, head_distance }))
                };
                let (own, shared) = (run(own)?, run(shared)?);
                fused::merge((&own.0, &own.1), (&shared.0, &shared.1))?.flatten_from(1)
            }
        }
    }
}

impl Call {
    fn new(group: Group, device: &Device) -> Result<Self> {
        let sequences = group.sequences();
        let keys = match group.keys.as_slice() {
            [rows] => Keys::Together(rows.clone()),
            ranges => {
                let rows: Vec<u32> = ranges.iter().flat_map(|rows| rows.start as u32..rows.end as u32).collect();
                Keys::Apart(Tensor::new(rows, device)?)
            }
        };
        Ok(Self {
            mask: group.mask,
            queries: group.queries,
            keys,
            sequences,
            query_ends: Tensor::new(group.query_ends, device)?,
            key_ends: Tensor::new(group.key_ends, device)?,
            longest_queries: group.longest_queries,
            longest_keys: group.longest_keys,
        })
    }

    /// The result, `[queries, heads, dim]`, and, if they are asked for, the logarithms of the sums
    /// of exponentials: `longest_queries` for each head of each sequence.
    fn attend(&self, (q, k, v): (&Tensor, &Tensor, &Tensor), scores: Scores, keep: bool) -> Result<(Tensor, Tensor)> {
        let q = q.narrow(0, self.queries.start, self.queries.len())?;
        let rows = |x: &Tensor| match &self.keys {
            Keys::Together(rows) => x.narrow(0, rows.start, rows.len()),
            Keys::Apart(rows) => x.contiguous()?.index_select(rows, 0),
        };
        let (k, v) = (rows(k)?, rows(v)?);
        if q.dtype() == DType::BF16 {
            self.launch::<bf16>((&q, &k, &v), scores, keep)
        } else {
            // Any other type than f16 is refused there.
            self.launch::<f16>((&q, &k, &v), scores, keep)
        }
    }

    /// The kernel's window: -1 is no limit, and one that no sequence reaches is none.
    fn window(&self) -> (c_int, c_int) {
        let limit = |keys: usize| c_int::try_from(keys).ok().filter(|_| keys < self.longest_keys);
        let everything = c_int::try_from(self.longest_keys).unwrap_or(c_int::MAX);
        match (limit(self.mask.before), limit(self.mask.after)) {
            (None, None) => (-1, -1),
            // The causal kernel.
            (None, Some(0)) => (-1, 0),
            (before, after) => (before.unwrap_or(everything), after.unwrap_or(everything)),
        }
    }

    fn launch<T: CudaDType + DeviceRepr + WithDType>(
        &self,
        (q, k, v): (&Tensor, &Tensor, &Tensor),
        scores: Scores,
        keep: bool,
    ) -> Result<(Tensor, Tensor)> {
        let (queries, heads, dim) = q.dims3()?;
        let (keys, kv_heads, _) = k.dims3()?;
        if v.dims() != k.dims() || k.dim(2)? != dim || !heads.is_multiple_of(kv_heads.max(1)) || !supports(dim) {
            bail!("FlashAttention: q {:?}, k {:?}, v {:?}", q.shape(), k.shape(), v.shape());
        }
        if queries == 0 || keys == 0 {
            bail!("FlashAttention: {queries} queries and {keys} keys");
        }
        let device = q.device().as_cuda_device()?.clone();
        let stream = device.cuda_stream();
        // SAFETY: the kernel writes every query of every sequence, and the sequences cover the
        // queries.
        let output = unsafe { device.alloc::<T>(queries * heads * dim)? };
        // Without padding the kernel needs the number of all queries, which the crate does not tell
        // it: the sums of all heads are then written over each other, within the first `queries`.
        let sums = if keep { self.sequences * heads * self.longest_queries } else { queries };
        let lse = device.alloc_zeros::<f32>(sums)?;
        let sizes = HeadSizes { query: heads, key: kv_heads, dim };
        {
            let (output, _output) = output.device_ptr(&stream);
            let (lse, _lse) = lse.device_ptr(&stream);
            let inputs = [
                Input { address: address::<T>(q)?, strides: strides(q.layout())? },
                Input { address: address::<T>(k)?, strides: strides(k.layout())? },
                Input { address: address::<T>(v)?, strides: strides(v.layout())? },
            ];
            let ends = [address::<u32>(&self.query_ends)?, address::<u32>(&self.key_ends)?];
            let is_bf16 = T::DTYPE == DType::BF16;
            // SAFETY: the addresses are those of live allocations on the device, the ends are
            // within queries and keys, and strides and dimensions are those of the tensors.
            // Launches are in the order of the device's one stream.
            unsafe { self.call(inputs, [output, lse], ends, sizes, (scores, is_bf16, keep)) };
        }
        let output = tensor(T::wrap_cuda_slice(output, device.clone()), (queries, heads, dim));
        Ok((output, tensor(f32::wrap_cuda_slice(lse, device), sums)))
    }

    /// # Safety
    /// Addresses must be those of allocations that live until the kernel has run, of the sizes that
    /// the call's ends, the strides and the heads say.
    unsafe fn call(
        &self,
        [q, k, v]: [Input; 3],
        [output, lse]: [u64; 2],
        [query_ends, key_ends]: [u64; 2],
        HeadSizes { query: heads, key: kv_heads, dim }: HeadSizes,
        (scores, is_bf16, keep): (Scores, bool, bool),
    ) {
        let (before, after) = self.window();
        // SAFETY: that of the caller.
        unsafe {
            run_mha(
                q.address as *const c_void,
                k.address as *const c_void,
                v.address as *const c_void,
                output as *const c_void,
                lse as *const c_void,
                std::ptr::null(),
                query_ends as *const i32,
                key_ends as *const i32,
                0,
                0,
                0,
                0,
                0,
                q.strides.0,
                k.strides.0,
                v.strides.0,
                (heads * dim) as u32,
                q.strides.1,
                k.strides.1,
                v.strides.1,
                dim as u32,
                self.sequences as u32,
                heads as u32,
                kv_heads as u32,
                dim as u32,
                dim.next_multiple_of(32) as u32,
                scores.scale,
                self.longest_queries as u32,
                self.longest_keys as u32,
                self.longest_queries.next_multiple_of(128) as u32,
                self.longest_keys.next_multiple_of(128) as u32,
                c_int::from(is_bf16),
                c_int::from((before, after) == (-1, 0)),
                c_int::from(!keep),
                before,
                after,
                scores.soft_cap.unwrap_or(0.),
            );
        }
    }
}

#[derive(Clone, Copy)]
struct HeadSizes {
    query: usize,
    key: usize,
    dim: usize,
}

/// A matrix of heads on the device.
#[derive(Clone, Copy)]
struct Input {
    address: u64,
    /// The distances of rows and of heads, in numbers.
    strides: (u32, u32),
}

/// The address of a tensor's elements on the GPU, valid as long as the tensor. The guard that
/// orders streams may be dropped at once, because there is one stream.
fn address<T: CudaDType + DeviceRepr>(tensor: &Tensor) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else { bail!("FlashAttention: a tensor is not on the GPU") };
    let numbers = storage.as_cuda_slice::<T>()?.slice(layout.start_offset()..);
    let (address, _read) = numbers.device_ptr(numbers.stream());
    Ok(address)
}

fn tensor<S: Into<candle_core::Shape>>(storage: CudaStorage, shape: S) -> Tensor {
    Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
}

/// The distances of rows and of heads.
fn strides(layout: &Layout) -> Result<(u32, u32)> {
    match layout.stride() {
        [row, head, 1] => Ok((*row as u32, *head as u32)),
        other => bail!("FlashAttention: the numbers of a head do not lie side by side: {other:?}"),
    }
}
