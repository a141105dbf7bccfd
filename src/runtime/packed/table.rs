//! Matrices of which a batch reads only some rows: word embeddings and the output matrix.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use super::weights::WeightFiles;
use crate::runtime::tensors::TensorSlice;

/// A matrix whose rows are read by number.
#[derive(Clone)]
pub(super) enum Table {
    /// On a CPU the rows are read from the file, in the type in which it stores them.
    Mapped { weights: Arc<WeightFiles>, slice: TensorSlice },
    /// On another device the whole matrix is in its memory.
    Loaded(Tensor),
}

impl Table {
    /// Opens the matrix; on a device other than the CPU, loads it in `dtype`.
    pub fn load(weights: &Arc<WeightFiles>, slice: &TensorSlice, dtype: DType, device: &Device) -> Result<Self> {
        if device.is_cpu() {
            weights.check_rows(&slice.name)?;
            return Ok(Self::Mapped { weights: Arc::clone(weights), slice: slice.clone() });
        }
        Ok(Self::Loaded(weights.load_slice(slice, Some(dtype), device)?))
    }

    /// Some rows, `[ids, columns]`: in f32 on a CPU, as they are loaded elsewhere.
    pub fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        match self {
            Self::Mapped { weights, slice } => {
                let rows = weights.rows(&slice.name, ids)?;
                Tensor::from_vec(rows, (ids.len(), slice.shape[1]), &Device::Cpu)
            }
            Self::Loaded(matrix) => matrix.index_select(&Tensor::new(ids, matrix.device())?, 0),
        }
    }
}
