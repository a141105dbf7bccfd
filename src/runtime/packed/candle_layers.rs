//! A model's layers from candle's operations and mistral.rs's linear layers: for GPUs, and for mistral.rs's own quantised forms
//! on every device.

mod blocks;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::Linear;
use mistralrs_quant::cublaslt::CUBLASLT_CONTROLLER;
use mistralrs_quant::{IsqType, QuantMethod, QuantMethodConfig, QuantizeOntoGuard, UnquantLinear};

use self::blocks::Blocks;
use super::attention::{self, AttentionPlan};
use super::layout::Packed;
use super::weights::WeightFiles;
use crate::runtime::spec::{Activation, EmbeddingSpec, ModelSpec, NormKind, NormPlacement, NormSpec, RotarySpec};
use crate::runtime::tensors::{LayerTensors, LinearTensors, NormTensors, TensorTable};

/// Embeddings, layers and final norm of a model.
pub(super) struct CandleLayers {
    spec: ModelSpec,
    embeddings: Embeddings,
    layers: Vec<Layer>,
    final_norm: Option<Norm>,
    /// Cosines and sines, `[positions, head_dim / 2]` each.
    rotary: Vec<(Tensor, Tensor)>,
}

struct Embeddings {
    spec: EmbeddingSpec,
    positions: Option<Tensor>,
    token_types: Option<Tensor>,
    norm: Option<Norm>,
}

struct Layer {
    attention_norm: Option<Norm>,
    query: Arc<dyn QuantMethod>,
    key: Arc<dyn QuantMethod>,
    value: Arc<dyn QuantMethod>,
    output: Arc<dyn QuantMethod>,
    query_norm: Option<Norm>,
    key_norm: Option<Norm>,
    mlp_norm: Norm,
    gate: Option<Arc<dyn QuantMethod>>,
    up: Arc<dyn QuantMethod>,
    down: Arc<dyn QuantMethod>,
}

/// A norm of rows.
pub(super) struct Norm {
    spec: NormSpec,
    weight: Tensor,
    /// Zeros without one.
    bias: Tensor,
}

/// Where and how tensors are loaded.
#[derive(Clone, Copy)]
pub(super) struct Loader<'a> {
    pub weights: &'a WeightFiles,
    pub device: &'a Device,
    pub dtype: DType,
    pub isq: Option<IsqType>,
}

/// What a layer is told of the batch's rows.
struct LayerRows<'a> {
    /// The rows that are read; all, if `None`.
    read: Option<&'a Tensor>,
    /// Cosines and sines of all rows.
    rotary: Option<&'a (Tensor, Tensor)>,
    plan: &'a AttentionPlan,
}

impl CandleLayers {
    /// Reads the layers, quantised as they come. `progress` is called with the number of layers that are loaded, after each.
    pub fn load(spec: &ModelSpec, tensors: &TensorTable, loader: Loader<'_>, progress: &dyn Fn(usize)) -> Result<Self> {
        // cuBLASLt takes products of three dimensions only, and ours have two: with biases and in fp8 mistral.rs would hand
        // it those and fail. Without it they are cuBLAS's.
        CUBLASLT_CONTROLLER.set_inhibit(true);
        let mut layers = Vec::with_capacity(spec.layers.len());
        for (number, tensors) in tensors.layers.iter().enumerate() {
            layers.push(Layer::load(spec, tensors, loader)?);
            loader.weights.release();
            progress(number + 1);
        }
        let half = spec.attention.head_dim / 2;
        let table = |rotary: &RotarySpec| {
            let (cos, sin) = rotary.table(spec.attention.head_dim, spec.max_positions);
            let tensor = |table: Vec<f32>| {
                Tensor::from_vec(table, ((), half), &Device::Cpu)?.to_dtype(loader.dtype)?.to_device(loader.device)
            };
            Ok((tensor(cos)?, tensor(sin)?))
        };
        attention::check(&spec.attention, loader.dtype, loader.device)?;
        Ok(Self {
            embeddings: Embeddings::load(spec, tensors, loader)?,
            layers,
            final_norm: Norm::load_if(tensors.final_norm.as_ref(), spec.final_norm, loader)?,
            rotary: spec.rotary.iter().map(table).collect::<Result<_>>()?,
            spec: spec.clone(),
        })
    }

    /// The final states of the rows that are read, `[read rows, hidden]` in f32, after the first `depth` layers and the final
    /// norm, from the word embeddings of all rows; and the blocks that the prefix cache stores. `cached` are the blocks that
    /// the batch uses.
    ///
    /// The last layer computes keys and values for all rows, everything else only where it is read.
    pub fn states(
        &self,
        words: Tensor,
        packed: &Packed,
        cached: &[Tensor],
        depth: usize,
        kept: &mut [(usize, Option<Tensor>)],
    ) -> Result<(Tensor, Vec<Tensor>)> {
        let device = words.device().clone();
        let mut x = self.embeddings.embed(words, packed)?;
        let positions = Tensor::new(packed.positions.as_slice(), &device)?;
        let select =
            |(cos, sin): &(Tensor, Tensor)| Ok((cos.index_select(&positions, 0)?, sin.index_select(&positions, 0)?));
        let rotary: Vec<(Tensor, Tensor)> = self.rotary.iter().map(select).collect::<Result<_>>()?;
        let read = if packed.reads_all_rows() { None } else { Some(Tensor::new(packed.read_rows(), &device)?) };
        let mut blocks = Blocks::new(packed, cached, &device)?;
        let specs = &self.spec.layers[..depth];
        let mut plans: Vec<AttentionPlan> = Vec::new();
        for (number, (layer, spans)) in self.layers.iter().zip(packed.layers(specs)).enumerate() {
            let known = plans.iter().position(|plan| plan.is_of(&spans));
            let plan = known.unwrap_or(plans.len());
            if known.is_none() {
                plans.push(AttentionPlan::new(spans, &self.spec.attention, x.dtype(), &device)?);
            }
            let rows = LayerRows {
                read: read.as_ref().filter(|_| number + 1 == depth),
                rotary: specs[number].rotary.map(|table| &rotary[table]),
                plan: &plans[plan],
            };
            x = layer.run(&self.spec, &x, &rows, &mut blocks)?;
            if let Some((_, states)) = kept.iter_mut().find(|(after, _)| *after == number + 1) {
                *states = Some(self.finish(&x)?);
            }
        }
        Ok((self.finish(&x)?, blocks.into_stored()?))
    }

    /// States after the final norm, in f32.
    fn finish(&self, x: &Tensor) -> Result<Tensor> {
        self.final_norm.as_ref().map_or_else(|| Ok(x.clone()), |norm| norm.forward(x))?.to_dtype(DType::F32)
    }
}

impl Embeddings {
    fn load(spec: &ModelSpec, tensors: &TensorTable, loader: Loader<'_>) -> Result<Self> {
        let table = |slice| loader.weights.load_slice(slice, Some(loader.dtype), loader.device);
        Ok(Self {
            spec: spec.embedding.clone(),
            positions: tensors.positions.as_ref().map(table).transpose()?,
            token_types: tensors.token_types.as_ref().map(table).transpose()?,
            norm: Norm::load_if(tensors.embedding_norm.as_ref(), spec.embedding.norm, loader)?,
        })
    }

    /// The embeddings of all rows from their word embeddings.
    fn embed(&self, words: Tensor, packed: &Packed) -> Result<Tensor> {
        let device = words.device().clone();
        #[expect(clippy::float_cmp, reason = "exactly 1 is no scale")]
        let mut x = if self.spec.scale == 1. { words } else { (words * f64::from(self.spec.scale))? };
        if let (Some(table), Some(spec)) = (&self.positions, self.spec.positions) {
            let rows: Vec<u32> = packed.positions.iter().map(|position| position + spec.offset as u32).collect();
            x = (x + table.index_select(&Tensor::new(rows, &device)?, 0)?)?;
        }
        if let Some(table) = &self.token_types {
            let last = self.spec.token_types as u32 - 1;
            let rows: Vec<u32> = packed.token_types.iter().map(|kind| (*kind).min(last)).collect();
            x = (x + table.index_select(&Tensor::new(rows, &device)?, 0)?)?;
        }
        self.norm.as_ref().map_or_else(|| Ok(x.clone()), |norm| norm.forward(&x))
    }
}

impl Layer {
    fn load(spec: &ModelSpec, tensors: &LayerTensors, loader: Loader<'_>) -> Result<Self> {
        let linear = |tensors: &LinearTensors| linear(tensors, loader);
        Ok(Self {
            attention_norm: Norm::load_if(tensors.attention_norm.as_ref(), Some(spec.norm), loader)?,
            query: linear(&tensors.query)?,
            key: linear(&tensors.key)?,
            value: linear(&tensors.value)?,
            output: linear(&tensors.output)?,
            query_norm: Norm::load_if(tensors.query_norm.as_ref(), spec.attention.qk_norm, loader)?,
            key_norm: Norm::load_if(tensors.key_norm.as_ref(), spec.attention.qk_norm, loader)?,
            mlp_norm: Norm::load(&tensors.mlp_norm, spec.norm, loader)?,
            gate: tensors.gate.as_ref().map(linear).transpose()?,
            up: linear(&tensors.up)?,
            down: linear(&tensors.down)?,
        })
    }

    /// The layer's output for the rows that are read.
    fn run(&self, spec: &ModelSpec, x: &Tensor, rows: &LayerRows<'_>, blocks: &mut Blocks) -> Result<Tensor> {
        let is_pre = spec.placement == NormPlacement::Pre;
        let normed = match self.attention_norm.as_ref().filter(|_| is_pre) {
            Some(norm) => norm.forward(x)?,
            None => x.clone(),
        };
        let attended = self.attend(spec, &normed, rows, blocks)?;
        let x = rows.read.map_or_else(|| Ok(x.clone()), |read| x.index_select(read, 0))?;
        let mut x = (x + attended)?;
        if let Some(norm) = self.attention_norm.as_ref().filter(|_| !is_pre) {
            x = norm.forward(&x)?;
        }
        let inner = if is_pre { self.mlp_norm.forward(&x)? } else { x.clone() };
        let x = (&x + self.mlp(spec.mlp.activation, inner)?.to_dtype(x.dtype())?)?;
        if is_pre { Ok(x) } else { self.mlp_norm.forward(&x) }
    }

    /// Attention of the rows that are read over the keys of all rows and of the cached ones.
    fn attend(&self, spec: &ModelSpec, normed: &Tensor, rows: &LayerRows<'_>, blocks: &mut Blocks) -> Result<Tensor> {
        let attention = &spec.attention;
        let select = |x: &Tensor| rows.read.map_or_else(|| Ok(x.clone()), |read| x.index_select(read, 0));
        let transform = |x: Tensor, heads: usize, norm: &Option<Norm>, angles: Option<(Tensor, Tensor)>| {
            let x = x.reshape(((), heads, attention.head_dim))?;
            let x = norm.as_ref().map_or_else(|| Ok(x.clone()), |norm| norm.forward(&x))?;
            match angles {
                Some((cos, sin)) => candle_nn::rotary_emb::rope_thd(&x.unsqueeze(0)?, &cos, &sin)?.squeeze(0),
                None => Ok(x),
            }
        };
        let k =
            transform(self.key.forward_autocast(normed)?, attention.kv_heads, &self.key_norm, rows.rotary.cloned())?;
        let v = self.value.forward_autocast(normed)?.reshape(((), attention.kv_heads, attention.head_dim))?;
        let (k, v) = (blocks.exchange(k)?, blocks.exchange(v)?);
        let angles =
            rows.rotary.map(|(cos, sin)| Ok::<_, candle_core::Error>((select(cos)?, select(sin)?))).transpose()?;
        let q = transform(self.query.forward_autocast(&select(normed)?)?, attention.heads, &self.query_norm, angles)?;
        self.output.forward_autocast(&rows.plan.attend(&q, &k, &v)?)
    }

    /// The gate is two kernels: mistral.rs's single one ends the process where the device fails.
    fn mlp(&self, activation: Activation, mut x: Tensor) -> Result<Tensor> {
        if let Some(dtype) = self.up.quantized_act_type() {
            x = x.to_dtype(dtype)?;
        }
        let inner = match &self.gate {
            Some(gate) => (activate(activation, &gate.forward(&x)?)? * self.up.forward(&x)?)?,
            None => activate(activation, &self.up.forward(&x)?)?,
        };
        self.down.forward(&inner)
    }
}

impl Norm {
    pub fn load(tensors: &NormTensors, spec: NormSpec, loader: Loader<'_>) -> Result<Self> {
        let load = |slice| loader.weights.load_slice(slice, Some(loader.dtype), loader.device);
        let weight = load(&tensors.weight)?;
        let bias = tensors.bias.as_ref().map_or_else(|| weight.zeros_like(), load)?;
        Ok(Self { spec, weight, bias })
    }

    pub fn load_if(tensors: Option<&NormTensors>, spec: Option<NormSpec>, loader: Loader<'_>) -> Result<Option<Self>> {
        tensors.zip(spec).map(|(tensors, spec)| Self::load(tensors, spec, loader)).transpose()
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (x, eps) = (x.contiguous()?, self.spec.eps as f32);
        debug_assert_eq!(x.dim(D::Minus1)?, self.weight.dim(0)?);
        match self.spec.kind {
            NormKind::Rms => candle_nn::ops::rms_norm(&x, &self.weight, eps),
            NormKind::Layer { .. } => candle_nn::ops::layer_norm(&x, &self.weight, &self.bias, eps),
        }
    }
}

/// An activation of every value.
pub(super) fn activate(activation: Activation, x: &Tensor) -> Result<Tensor> {
    match activation {
        Activation::Silu => x.silu(),
        Activation::GeluErf => x.gelu_erf(),
        // candle's `gelu` is the one with a tanh.
        Activation::GeluTanh => x.gelu(),
        Activation::Relu => x.relu(),
        Activation::Tanh => x.tanh(),
    }
}

/// A linear layer, in the quantised form that is asked for, made by mistral.rs.
fn linear(tensors: &LinearTensors, loader: Loader<'_>) -> Result<Arc<dyn QuantMethod>> {
    let load = |slice| loader.weights.load_slice(slice, Some(loader.dtype), loader.device);
    let layer = Linear::new(load(&tensors.weight)?, tensors.bias.as_ref().map(load).transpose()?);
    let layer: Arc<dyn QuantMethod> =
        Arc::new(<UnquantLinear as QuantMethod>::new(QuantMethodConfig::Unquantized(layer))?);
    let Some(isq) = loader.isq else { return Ok(layer) };
    layer.apply_isq(Some(isq), loader.device.clone(), &AtomicUsize::new(0), None, QuantizeOntoGuard::new())
}
