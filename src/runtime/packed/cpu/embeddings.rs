//! The embeddings of a batch's rows on a CPU.

use candle_core::{DType, Device, Result};
use rayon::prelude::*;

use super::layer::Norm;
use super::rows::{self, vectorised};
use crate::runtime::packed::layout::Packed;
use crate::runtime::packed::weights::WeightFiles;
use crate::runtime::spec::{EmbeddingSpec, ModelSpec};
use crate::runtime::tensors::{TensorSlice, TensorTable};

/// Rows that one task finishes at a time.
const TASK_ROWS: usize = 16;

/// The embeddings added to word embeddings, and the norm of the sum.
pub(in crate::runtime::packed) struct CpuEmbeddings {
    spec: EmbeddingSpec,
    hidden: usize,
    /// `[rows, hidden]`; empty if there are none.
    positions: Vec<f32>,
    token_types: Vec<f32>,
    norm: Option<Norm>,
}

impl CpuEmbeddings {
    pub fn load(spec: &ModelSpec, tensors: &TensorTable, weights: &WeightFiles) -> Result<Self> {
        let table = |slice: &Option<TensorSlice>| match slice {
            Some(slice) => weights.load_slice(slice, Some(DType::F32), &Device::Cpu)?.flatten_all()?.to_vec1(),
            None => Ok(Vec::new()),
        };
        let norm = tensors.embedding_norm.as_ref().zip(spec.embedding.norm);
        Ok(Self {
            hidden: spec.hidden_size,
            positions: table(&tensors.positions)?,
            token_types: table(&tensors.token_types)?,
            norm: norm.map(|(tensors, spec)| Norm::load(tensors, spec, weights)).transpose()?,
            spec: spec.embedding.clone(),
        })
    }

    /// The embeddings of all rows, `[rows, hidden]`, from their word embeddings.
    pub fn embed(&self, mut x: Vec<f32>, packed: &Packed) -> Vec<f32> {
        let hidden = self.hidden;
        x.par_chunks_mut(TASK_ROWS * hidden).enumerate().for_each(|(task, x)| {
            vectorised!({
                for (row, x) in x.chunks_exact_mut(hidden).enumerate() {
                    self.finish(task * TASK_ROWS + row, packed, x);
                }
            });
        });
        x
    }

    /// Turns a row's word embedding into its embedding.
    #[inline(always)]
    fn finish(&self, row: usize, packed: &Packed, x: &mut [f32]) {
        #[expect(clippy::float_cmp, reason = "exactly 1 is no scale")]
        if self.spec.scale != 1. {
            for value in x.iter_mut() {
                *value *= self.spec.scale;
            }
        }
        if let Some(positions) = self.spec.positions {
            let place = packed.positions[row] as usize + positions.offset;
            rows::add(x, &self.positions[place * self.hidden..][..self.hidden]);
        }
        if self.spec.token_types > 0 {
            // A model with one type gives it to every token.
            let kind = (packed.token_types[row] as usize).min(self.spec.token_types - 1);
            rows::add(x, &self.token_types[kind * self.hidden..][..self.hidden]);
        }
        if let Some(norm) = &self.norm {
            norm.apply_in_place(x);
        }
    }
}
