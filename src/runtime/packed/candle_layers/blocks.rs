//! Blocks of the prefix cache, in and out of the layers' matrices of keys and values.

use candle_core::{Device, Result, Tensor};

use crate::runtime::packed::layout::Packed;
use crate::runtime::packed::prefix_cache::BLOCK;

/// A block is `[2 layers, BLOCK, kv_heads, head_dim]`: keys and values of each layer in turn.
pub(super) struct Blocks {
    /// All blocks that the batch uses, end to end.
    cached: Option<Tensor>,
    /// Rows to store, those of all blocks end to end.
    rows: Option<Tensor>,
    /// Those rows of each matrix so far.
    stored: Vec<Tensor>,
    /// Matrices that were exchanged.
    matrices: usize,
}

impl Blocks {
    pub fn new(packed: &Packed, cached: &[Tensor], device: &Device) -> Result<Self> {
        Ok(Self {
            cached: (!cached.is_empty()).then(|| Tensor::cat(cached, 1)).transpose()?,
            rows: rows_to_store(packed, device)?,
            stored: Vec::new(),
            matrices: 0,
        })
    }

    /// From the next layer on, the rows to store are those of this packing.
    pub fn move_rows(&mut self, packed: &Packed, device: &Device) -> Result<()> {
        self.rows = rows_to_store(packed, device)?;
        Ok(())
    }

    /// Rows of the cached blocks: each matrix has room for so many behind the batch's.
    pub fn room(&self) -> Result<usize> {
        self.cached.as_ref().map_or(Ok(0), |cached| cached.dim(1))
    }

    /// Whether the batch neither uses nor stores blocks.
    pub fn is_unused(&self) -> bool {
        self.cached.is_none() && self.rows.is_none()
    }

    /// Copies the rows to store out of the next matrix, and writes the cached ones into its room.
    pub fn exchange(&mut self, matrix: &Tensor) -> Result<()> {
        if let Some(rows) = &self.rows {
            self.stored.push(matrix.index_select(rows, 0)?);
        }
        let number = self.matrices;
        self.matrices += 1;
        if let Some(cached) = &self.cached {
            let cached = cached.get(number)?;
            matrix.slice_set(&cached, 0, matrix.dim(0)? - cached.dim(0)?)?;
        }
        Ok(())
    }

    /// The blocks to store, each in memory of its own.
    pub fn into_stored(self) -> Result<Vec<Tensor>> {
        if self.stored.is_empty() {
            return Ok(Vec::new());
        }
        let stored = Tensor::stack(&self.stored, 0)?;
        (0..stored.dim(1)? / BLOCK).map(|block| stored.narrow(1, block * BLOCK, BLOCK)?.force_contiguous()).collect()
    }
}

fn rows_to_store(packed: &Packed, device: &Device) -> Result<Option<Tensor>> {
    let rows: Vec<u32> = packed.stored.iter().flat_map(|rows| rows.start as u32..rows.end as u32).collect();
    (!rows.is_empty()).then(|| Tensor::new(rows, device)).transpose()
}
