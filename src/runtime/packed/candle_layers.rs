//! A model's layers from candle's operations and mistral.rs's linear layers: for GPUs, and for
//! mistral.rs's own quantised forms on every device.

mod blocks;
mod products;

use std::ops::Range;
use std::sync::Arc;

use candle_core::{D, DType, Device, Result, Tensor};
use mistralrs_quant::cublaslt::CUBLASLT_CONTROLLER;
use mistralrs_quant::{IsqType, QuantMethod};

use self::blocks::Blocks;
use self::products::{Products, linear, product};
use super::attention::{self, AttentionPlan};
use super::fused::{self, Angles, NormRope};
use super::layout::{Exit, Packed};
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

/// Rows of which the MLP computes the wide inner states at once: at 4B sizes 600 MiB of them.
pub(super) const MLP_ROWS: usize = 16_384;

struct Layer {
    attention_norm: Option<Norm>,
    /// Query, key and value.
    qkv: Products,
    output: Arc<dyn QuantMethod>,
    query_norm: Option<Norm>,
    key_norm: Option<Norm>,
    mlp_norm: Norm,
    /// The gate, if there is one, and the inner states.
    gate_up: Products,
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

/// The batch's rows, as a layer sees them.
struct LayerRows<'a> {
    read: Reads<'a>,
    /// Cosines and sines of all positions.
    rotary: Option<&'a (Tensor, Tensor)>,
    /// The position of each row.
    positions: &'a Tensor,
    plan: &'a AttentionPlan,
}

/// Which rows a layer computes beyond keys and values.
#[derive(Clone, Copy)]
enum Reads<'a> {
    All,
    /// Only these, which attend alone.
    Before(&'a Tensor),
    /// Only these, of the attention of all rows.
    After(&'a Tensor),
}

/// The states of rows, and what is still to be added to them: the next norm adds it in one go.
struct Sum {
    x: Tensor,
    delta: Option<Tensor>,
}

impl CandleLayers {
    /// Reads the layers and quantises each at once. Calls `progress` with the number of loaded
    /// layers after each.
    pub fn load(spec: &ModelSpec, tensors: &TensorTable, loader: Loader<'_>, progress: &dyn Fn(usize)) -> Result<Self> {
        // cuBLASLt takes only products of three dimensions; these have two. With a bias, or in fp8,
        // mistral.rs would pass them on and fail. Without cuBLASLt it uses cuBLAS.
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
        fused::check(loader.device, loader.dtype)?;
        attention::check(&spec.attention, loader.dtype, loader.device)?;
        Ok(Self {
            embeddings: Embeddings::load(spec, tensors, loader)?,
            layers,
            final_norm: Norm::load_if(tensors.final_norm.as_ref(), spec.final_norm, loader)?,
            rotary: spec.rotary.iter().map(table).collect::<Result<_>>()?,
            spec: spec.clone(),
        })
    }

    /// The final states of the rows that are read, `[read rows, hidden]` in f32, after the first
    /// `depth` layers and the final norm, from the word embeddings of all rows; and the blocks that
    /// the prefix cache stores. `cached` are the blocks that the batch uses.
    ///
    /// The last layer computes keys and values for all rows, everything else only where it is read.
    /// After the layer of `exit`, which is below `depth`, some rows leave.
    pub fn states(
        &self,
        words: Tensor,
        packed: &Packed,
        cached: &[Tensor],
        depth: usize,
        kept: &mut [(usize, Option<Tensor>)],
        exit: Option<Exit<'_, Tensor>>,
    ) -> Result<(Tensor, Vec<Tensor>)> {
        let device = words.device().clone();
        let mut sum = Sum { x: self.embeddings.embed(words, packed)?, delta: None };
        let mut blocks = Blocks::new(packed, cached, &device)?;
        if let Some(Exit { layer, choose }) = exit {
            sum = self.run_layers(0..layer, depth, packed, sum, &mut blocks, kept)?;
            let read = sum.gather(&Tensor::new(packed.read_rows(), &device)?)?;
            let (rest, rows) = choose(self.finish(&read)?)?;
            sum = sum.gather(&Tensor::new(rows, &device)?)?;
            blocks.move_rows(&rest, &device)?;
            sum = self.run_layers(layer..depth, depth, &rest, sum, &mut blocks, kept)?;
        } else {
            sum = self.run_layers(0..depth, depth, packed, sum, &mut blocks, kept)?;
        }
        Ok((self.finish(&sum)?, blocks.into_stored()?))
    }

    /// Runs some of the first `depth` layers.
    fn run_layers(
        &self,
        layers: Range<usize>,
        depth: usize,
        packed: &Packed,
        mut sum: Sum,
        blocks: &mut Blocks,
        kept: &mut [(usize, Option<Tensor>)],
    ) -> Result<Sum> {
        let (device, dtype) = (sum.x.device().clone(), sum.x.dtype());
        let positions = Tensor::new(packed.positions.as_slice(), &device)?;
        let read = if packed.reads_all_rows() { None } else { Some(Tensor::new(packed.read_rows(), &device)?) };
        let specs = &self.spec.layers[..depth];
        let mut plans: Vec<AttentionPlan> = Vec::new();
        for (number, mut spans) in packed.layers(specs).into_iter().enumerate().take(layers.end).skip(layers.start) {
            let mut reads = Reads::All;
            if let Some(read) = read.as_ref().filter(|_| number + 1 == depth) {
                reads = Reads::Before(read);
                if attention::gathers_more_than(&spans, packed.tokens.len(), &self.spec.attention, (dtype, &device)) {
                    reads = Reads::After(read);
                    spans = packed.spans(number, specs).into();
                }
            }
            let known = plans.iter().position(|plan| plan.is_of(&spans));
            let plan = known.unwrap_or(plans.len());
            if known.is_none() {
                plans.push(AttentionPlan::new(spans, &self.spec.attention, dtype, &device)?);
            }
            let rotary = specs[number].rotary.map(|table| &self.rotary[table]);
            let rows = LayerRows { read: reads, rotary, positions: &positions, plan: &plans[plan] };
            sum = self.layers[number].run(&self.spec, &sum, &rows, blocks)?;
            if let Some((_, states)) = kept.iter_mut().find(|(after, _)| *after == number + 1) {
                *states = Some(self.finish(&sum)?);
            }
        }
        Ok(sum)
    }

    /// States after the final norm, in f32.
    fn finish(&self, sum: &Sum) -> Result<Tensor> {
        let states = match &self.final_norm {
            Some(norm) => sum.normed(norm)?.1,
            None => sum.added()?,
        };
        states.to_dtype(DType::F32)
    }
}

impl Sum {
    /// Some rows, in this order.
    fn gather(&self, rows: &Tensor) -> Result<Self> {
        let delta = self.delta.as_ref().map(|delta| delta.index_select(rows, 0)).transpose()?;
        Ok(Self { x: self.x.index_select(rows, 0)?, delta })
    }

    fn added(&self) -> Result<Tensor> {
        self.delta.as_ref().map_or_else(|| Ok(self.x.clone()), |delta| &self.x + delta)
    }

    /// The sum, and the norm of it.
    fn normed(&self, norm: &Norm) -> Result<(Tensor, Tensor)> {
        match &self.delta {
            Some(delta) => norm.add(&self.x, delta),
            None => Ok((self.x.clone(), norm.forward(&self.x)?)),
        }
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
        let gate_up: Vec<&LinearTensors> = tensors.gate.iter().chain([&tensors.up]).collect();
        Ok(Self {
            attention_norm: Norm::load_if(tensors.attention_norm.as_ref(), Some(spec.norm), loader)?,
            qkv: Products::load(&[&tensors.query, &tensors.key, &tensors.value], loader)?,
            output: linear(&tensors.output, loader)?,
            query_norm: Norm::load_if(tensors.query_norm.as_ref(), spec.attention.qk_norm, loader)?,
            key_norm: Norm::load_if(tensors.key_norm.as_ref(), spec.attention.qk_norm, loader)?,
            mlp_norm: Norm::load(&tensors.mlp_norm, spec.norm, loader)?,
            gate_up: Products::load(&gate_up, loader)?,
            down: linear(&tensors.down, loader)?,
        })
    }

    /// The layer's output for the rows that are read.
    fn run(&self, spec: &ModelSpec, sum: &Sum, rows: &LayerRows<'_>, blocks: &mut Blocks) -> Result<Sum> {
        let is_pre = spec.placement == NormPlacement::Pre;
        let (x, normed) = if let Some(norm) = self.attention_norm.as_ref().filter(|_| is_pre) {
            sum.normed(norm)?
        } else {
            let x = sum.added()?;
            (x.clone(), x)
        };
        let attended = self.attend(spec, &normed, rows, blocks)?;
        drop(normed);
        let x = match rows.read {
            Reads::All => x,
            Reads::Before(read) | Reads::After(read) => x.index_select(read, 0)?,
        };
        if is_pre {
            let (x, inner) = self.mlp_norm.add(&x, &attended)?;
            let delta = self.mlp_in_blocks(spec.mlp.activation, &inner)?;
            return Ok(Sum { x, delta: Some(delta) });
        }
        let x = match &self.attention_norm {
            Some(norm) => norm.add(&x, &attended)?.1,
            None => (x + attended)?,
        };
        let delta = self.mlp_in_blocks(spec.mlp.activation, &x)?;
        Ok(Sum { x: self.mlp_norm.add(&x, &delta)?.1, delta: None })
    }

    /// Attention of the rows that are read over the keys of all rows and of the cached ones.
    fn attend(&self, spec: &ModelSpec, normed: &Tensor, rows: &LayerRows<'_>, blocks: &mut Blocks) -> Result<Tensor> {
        let dim = spec.attention.head_dim;
        let (q, k, v) = match rows.read {
            Reads::Before(read) => {
                let [k, v] = parts(self.qkv.heads(normed, 1..3, dim)?)?;
                let [q] = parts(self.qkv.heads(&normed.index_select(read, 0)?, 0..1, dim)?)?;
                (q, k, v)
            }
            Reads::All | Reads::After(_) => parts(self.qkv.heads(normed, 0..3, dim)?).map(|[q, k, v]| (q, k, v))?,
        };
        let query_positions = match rows.read {
            Reads::Before(read) => rows.positions.index_select(read, 0)?,
            Reads::All | Reads::After(_) => rows.positions.clone(),
        };
        let k = rotated(&k, self.key_norm.as_ref(), (rows.rotary, rows.positions), blocks.room()?)?;
        blocks.exchange(&k)?;
        // Values stay in the rows of the product, unless something is written behind them.
        let v = if blocks.is_unused() { v } else { rotated(&v, None, (None, rows.positions), blocks.room()?)? };
        blocks.exchange(&v)?;
        let q = rotated(&q, self.query_norm.as_ref(), (rows.rotary, &query_positions), 0)?;
        let mut attended = rows.plan.attend(&q, &k, &v)?;
        if let Reads::After(read) = rows.read {
            attended = attended.index_select(read, 0)?;
        }
        self.output.forward_autocast(&attended)
    }

    /// The MLP, some rows at a time: its inner states are several times as wide as its outer ones.
    fn mlp_in_blocks(&self, activation: Activation, x: &Tensor) -> Result<Tensor> {
        let rows = x.dim(0)?;
        if rows <= MLP_ROWS {
            return self.mlp(activation, x);
        }
        let block = |start: usize| self.mlp(activation, &x.narrow(0, start, MLP_ROWS.min(rows - start))?);
        let blocks: Vec<Tensor> = (0..rows).step_by(MLP_ROWS).map(block).collect::<Result<_>>()?;
        Tensor::cat(&blocks, 0)
    }

    fn mlp(&self, activation: Activation, x: &Tensor) -> Result<Tensor> {
        let layers = match &self.gate_up {
            Products::Joined { weight, bias, widths } => {
                let inner = product(x, weight, bias.as_ref())?;
                let inner = match widths.as_slice() {
                    [_] => activate(activation, &inner)?,
                    [gate, ..] if fused::has_kernels(x.device(), x.dtype(), *gate) => fused::gated(&inner, activation)?,
                    widths => {
                        let half = widths[0];
                        (activate(activation, &inner.narrow(1, 0, half)?)? * inner.narrow(1, half, half)?)?
                    }
                };
                return self.down.forward_autocast(&inner);
            }
            Products::Apart(layers) => layers,
        };
        let dtype = x.dtype();
        let x = layers[0].quantized_act_type().map_or_else(|| Ok(x.clone()), |act_type| x.to_dtype(act_type))?;
        // The gate is two kernels: mistral.rs's single one ends the process where the device fails.
        let inner = match layers.as_slice() {
            [gate, up] => (activate(activation, &gate.forward(&x)?)? * up.forward(&x)?)?,
            layers => activate(activation, &layers[0].forward(&x)?)?,
        };
        self.down.forward(&inner)?.to_dtype(dtype)
    }
}

/// As many parts as there are.
fn parts<const COUNT: usize>(parts: Vec<Tensor>) -> Result<[Tensor; COUNT]> {
    parts.try_into().map_err(|parts: Vec<Tensor>| candle_core::Error::Msg(format!("{} products", parts.len())))
}

/// Heads, `[rows, heads, dim]`, normalised and rotated by the angles of their rows' positions, with
/// room for more rows behind them.
fn rotated(
    x: &Tensor,
    norm: Option<&Norm>,
    (rotary, positions): (Option<&(Tensor, Tensor)>, &Tensor),
    room: usize,
) -> Result<Tensor> {
    let (_, heads, dim) = x.dims3()?;
    if dim.is_multiple_of(2) && fused::has_kernels(x.device(), x.dtype(), dim) {
        let angles = rotary.map(|(cosines, sines)| Angles { cosines, sines, positions });
        let norm = norm.map(|norm| (&norm.weight, norm.spec.eps));
        return NormRope { heads, dim, norm, angles, room }.apply(x);
    }
    let mut x = norm.map_or_else(|| x.contiguous(), |norm| norm.forward(x))?;
    if let Some((cos, sin)) = rotary {
        let (cos, sin) = (cos.index_select(positions, 0)?, sin.index_select(positions, 0)?);
        x = candle_nn::rotary_emb::rope_thd(&x.unsqueeze(0)?, &cos, &sin)?.squeeze(0)?;
    }
    if room == 0 {
        return Ok(x);
    }
    Tensor::cat(&[&x, &Tensor::zeros((room, heads, dim), x.dtype(), x.device())?], 0)
}

impl Norm {
    pub fn load(tensors: &NormTensors, spec: NormSpec, loader: Loader<'_>) -> Result<Self> {
        let load = |slice| loader.weights.load_slice(slice, Some(loader.dtype), loader.device);
        let weight = loader.weights.load_slice(&tensors.weight, Some(DType::F32), loader.device)?;
        let weight = (weight + f64::from(spec.weight_offset))?.to_dtype(loader.dtype)?;
        let bias = tensors.bias.as_ref().map_or_else(|| weight.zeros_like(), load)?;
        Ok(Self { spec, weight, bias })
    }

    pub fn load_if(tensors: Option<&NormTensors>, spec: Option<NormSpec>, loader: Loader<'_>) -> Result<Option<Self>> {
        tensors.zip(spec).map(|(tensors, spec)| Self::load(tensors, spec, loader)).transpose()
    }

    /// `x + y`, and the norm of it.
    fn add(&self, x: &Tensor, y: &Tensor) -> Result<(Tensor, Tensor)> {
        let is_fused = self.spec.kind == NormKind::Rms && x.dtype() == y.dtype();
        if is_fused && fused::has_kernels(x.device(), x.dtype(), self.weight.dim(0)?) {
            return fused::add_rms_norm(x, y, &self.weight, self.spec.eps);
        }
        let sum = (x + y)?;
        let normed = self.forward(&sum)?;
        Ok((sum, normed))
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
