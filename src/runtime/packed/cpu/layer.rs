//! The weights of one layer, in the order in which its products read them.

use candle_core::{DType, Device, Result};

use super::linear::{CpuDtype, Linear};
use super::rows;
use crate::runtime::packed::weights::WeightFiles;
use crate::runtime::spec::{ModelSpec, NormKind, NormPlacement, NormSpec};
use crate::runtime::tensors::{LayerTensors, LinearTensors, NormTensors};

pub(super) struct Layer {
    /// Before attention, or behind it where norms are placed so.
    pub attention_norm: Option<Norm>,
    /// Queries, keys and values, one below the other.
    pub qkv: Linear,
    pub query_norm: Option<Norm>,
    pub key_norm: Option<Norm>,
    pub output: Linear,
    pub mlp_norm: Norm,
    /// Gate and up, one below the other, where the MLP is gated; else up.
    pub gate_up: Linear,
    pub down: Linear,
}

/// A norm of rows.
pub(super) struct Norm {
    kind: NormKind,
    eps: f32,
    weight: Vec<f32>,
    /// Empty without one.
    bias: Vec<f32>,
}

impl Layer {
    pub fn load(spec: &ModelSpec, tensors: &LayerTensors, weights: &WeightFiles, dtype: CpuDtype) -> Result<Self> {
        // The softmax amplifies errors of queries and keys, and these matrices are an eighth of a
        // layer.
        let of_attention = if dtype == CpuDtype::Int8 { CpuDtype::Bf16 } else { dtype };
        let linear = |parts: &[&LinearTensors], dtype: CpuDtype| {
            let read = |part: &&LinearTensors| {
                let load = |slice| weights.load_slice(slice, None, &Device::Cpu);
                Ok((load(&part.weight)?, part.bias.as_ref().map(load).transpose()?))
            };
            Linear::new(&parts.iter().map(read).collect::<Result<Vec<_>>>()?, dtype)
        };
        let norm = |tensors: &NormTensors, spec: NormSpec| Norm::load(tensors, spec, weights);
        let head_norm = |tensors: &Option<NormTensors>| {
            let both = tensors.as_ref().zip(spec.attention.qk_norm);
            both.map(|(tensors, spec)| norm(tensors, spec)).transpose()
        };
        let gate_up: Vec<&LinearTensors> = tensors.gate.iter().chain([&tensors.up]).collect();
        Ok(Self {
            attention_norm: tensors.attention_norm.as_ref().map(|tensors| norm(tensors, spec.norm)).transpose()?,
            qkv: linear(&[&tensors.query, &tensors.key, &tensors.value], of_attention)?,
            query_norm: head_norm(&tensors.query_norm)?,
            key_norm: head_norm(&tensors.key_norm)?,
            output: linear(&[&tensors.output], of_attention)?,
            mlp_norm: norm(&tensors.mlp_norm, spec.norm)?,
            gate_up: linear(&gate_up, dtype)?,
            down: linear(&[&tensors.down], dtype)?,
        })
    }

    /// The norm of attention's input, if norms are placed there.
    pub fn before_attention(&self, placement: NormPlacement) -> Option<&Norm> {
        self.attention_norm.as_ref().filter(|_| placement == NormPlacement::Pre)
    }

    /// The norm of the MLP's input, if norms are placed there.
    pub fn before_mlp(&self, placement: NormPlacement) -> Option<&Norm> {
        Some(&self.mlp_norm).filter(|_| placement == NormPlacement::Pre)
    }
}

impl Norm {
    pub fn load(tensors: &NormTensors, spec: NormSpec, weights: &WeightFiles) -> Result<Self> {
        let load = |slice| weights.load_slice(slice, Some(DType::F32), &Device::Cpu)?.to_vec1();
        let mut weight: Vec<f32> = load(&tensors.weight)?;
        for weight in &mut weight {
            *weight += spec.weight_offset;
        }
        Ok(Self {
            kind: spec.kind,
            eps: spec.eps as f32,
            weight,
            bias: tensors.bias.as_ref().map(load).transpose()?.unwrap_or_default(),
        })
    }

    /// To be called where loops are vectorised.
    #[inline(always)]
    pub fn apply(&self, source: &[f32], target: &mut [f32]) {
        match self.kind {
            NormKind::Rms => rows::rms_norm(source, &self.weight, self.eps, target),
            NormKind::Layer { .. } => rows::layer_norm(source, &self.weight, &self.bias, self.eps, target),
        }
    }

    /// [`Self::apply`] of a row onto itself.
    #[inline(always)]
    pub fn apply_in_place(&self, row: &mut [f32]) {
        match self.kind {
            NormKind::Rms => rows::rms_norm_in_place(row, &self.weight, self.eps),
            NormKind::Layer { .. } => rows::layer_norm_in_place(row, &self.weight, &self.bias, self.eps),
        }
    }
}
