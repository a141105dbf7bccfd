//! The decoder's layers on a device: mistral.rs's linear layers and norms around attention over packed rows.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use candle_core::{DType, Device, Module, Result, Tensor};
use mistralrs::core::layers::{Activation, RmsNorm};
use mistralrs_quant::cublaslt::CUBLASLT_CONTROLLER;
use mistralrs_quant::{IsqType, QuantMethod, QuantizeOntoGuard, ReplicatedLayer, ShardedVarBuilder};

use super::attention::{self, Sight};
use super::config::DecoderConfig;
use super::layout::Packed;
use super::prefixes::BLOCK;

pub(super) struct DeviceLayers {
    config: DecoderConfig,
    rotary_cos: Tensor,
    rotary_sin: Tensor,
    layers: Vec<Layer>,
    norm: RmsNorm,
}

struct Layer {
    attention_norm: RmsNorm,
    query: Arc<dyn QuantMethod>,
    key: Arc<dyn QuantMethod>,
    value: Arc<dyn QuantMethod>,
    output: Arc<dyn QuantMethod>,
    query_norm: Option<RmsNorm>,
    key_norm: Option<RmsNorm>,
    mlp_norm: RmsNorm,
    gate: Arc<dyn QuantMethod>,
    up: Arc<dyn QuantMethod>,
    down: Arc<dyn QuantMethod>,
}

impl DeviceLayers {
    /// Reads the layers under `model`, quantised to `isq` as they come. `progress` is told after each.
    pub fn load(
        config: &DecoderConfig,
        model: &ShardedVarBuilder,
        isq: Option<IsqType>,
        (rotary_cos, rotary_sin): (Tensor, Tensor),
        progress: &dyn Fn(usize),
    ) -> Result<Self> {
        // It takes products of three dimensions only, and ours have two: with biases and in fp8 mistral.rs would hand it
        // those and fail. Without it they are cuBLAS's.
        CUBLASLT_CONTROLLER.set_inhibit(true);
        let mut layers = Vec::with_capacity(config.layers);
        for number in 0..config.layers {
            layers.push(Layer::load(config, &model.pp("layers").pp(number), isq)?);
            progress(number + 1);
        }
        let norm = RmsNorm::new(config.hidden_size, config.rms_norm_eps, model.pp("norm"))?;
        attention::check(config, &rotary_cos)?;
        Ok(Self { config: config.clone(), rotary_cos, rotary_sin, layers, norm })
    }

    /// The final-normed states of the rows that are read, `[marks, hidden]` in f32, from the embeddings of all rows; and
    /// the blocks that are to be kept. `held` are those that the batch uses.
    ///
    /// The last layer computes keys and values for all rows, everything else only where it is read.
    pub fn states(&self, mut x: Tensor, packed: &Packed, held: &[Tensor]) -> Result<(Tensor, Vec<Tensor>)> {
        let device = x.device();
        let positions = Tensor::new(packed.positions.as_slice(), device)?;
        let cos = self.rotary_cos.index_select(&positions, 0)?;
        let sin = self.rotary_sin.index_select(&positions, 0)?;
        let read = Tensor::new(packed.read_rows(), device)?;

        let count = self.layers.len();
        let mut blocks = Blocks::new(packed, held, device)?;
        let mut last: Option<Sight> = None;
        for (number, (layer, spans)) in self.layers.iter().zip(packed.layers(count)).enumerate() {
            let read = (number + 1 == count).then_some(&read);
            let sight = match last.take().filter(|sight| sight.is_of(&spans)) {
                Some(sight) => sight,
                None => Sight::new(spans, &self.config, &x)?,
            };
            let normed = layer.attention_norm.forward(&x)?;
            let attended = layer.attend(&self.config, &normed, read, (&cos, &sin), &sight, &mut blocks)?;
            let x_read = read.map_or_else(|| Ok(x.clone()), |read| x.index_select(read, 0))?;
            x = layer.finish(self.config.activation, &(x_read + attended)?)?;
            last = Some(sight);
        }
        Ok((self.norm.forward(&x)?.to_dtype(DType::F32)?, blocks.into_kept()?))
    }
}

impl Layer {
    fn load(config: &DecoderConfig, layer: &ShardedVarBuilder, isq: Option<IsqType>) -> Result<Self> {
        let (attention, mlp) = (layer.pp("self_attn"), layer.pp("mlp"));
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let (query, key) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let linear = |part: &ShardedVarBuilder, name: &str, inputs, outputs, bias| {
            quantised(ReplicatedLayer::new(inputs, outputs, &None, bias, part.pp(name))?, isq)
        };
        let norm = |size, builder| RmsNorm::new(size, config.rms_norm_eps, builder);
        let head_norm = |name: &str| config.qk_norm.then(|| norm(config.head_dim, attention.pp(name))).transpose();
        Ok(Self {
            attention_norm: norm(hidden, layer.pp("input_layernorm"))?,
            query: linear(&attention, "q_proj", hidden, query, config.qkv_bias)?,
            key: linear(&attention, "k_proj", hidden, key, config.qkv_bias)?,
            value: linear(&attention, "v_proj", hidden, key, config.qkv_bias)?,
            output: linear(&attention, "o_proj", query, hidden, config.output_bias)?,
            query_norm: head_norm("q_norm")?,
            key_norm: head_norm("k_norm")?,
            mlp_norm: norm(hidden, layer.pp("post_attention_layernorm"))?,
            gate: linear(&mlp, "gate_proj", hidden, intermediate, false)?,
            up: linear(&mlp, "up_proj", hidden, intermediate, false)?,
            down: linear(&mlp, "down_proj", intermediate, hidden, false)?,
        })
    }

    /// Attention of the rows in `read` (all, if `None`) over the keys of all rows and of those that are kept.
    fn attend(
        &self,
        config: &DecoderConfig,
        normed: &Tensor,
        read: Option<&Tensor>,
        (cos, sin): (&Tensor, &Tensor),
        sight: &Sight,
        blocks: &mut Blocks,
    ) -> Result<Tensor> {
        let heads = |x: Tensor, heads, norm: &Option<RmsNorm>, cos: &Tensor, sin: &Tensor| {
            let x = x.reshape(((), heads, config.head_dim))?;
            let x = match norm {
                Some(norm) => norm.forward(&x)?,
                None => x,
            };
            candle_nn::rotary_emb::rope_thd(&x.unsqueeze(0)?, cos, sin)?.squeeze(0)
        };
        let k = heads(self.key.forward_autocast(normed)?, config.kv_heads, &self.key_norm, cos, sin)?;
        let v = self.value.forward_autocast(normed)?.reshape(((), config.kv_heads, config.head_dim))?;
        let (k, v) = (blocks.exchange(k)?, blocks.exchange(v)?);
        let q = match read {
            None => heads(self.query.forward_autocast(normed)?, config.heads, &self.query_norm, cos, sin)?,
            Some(read) => {
                let select = |x: &Tensor| x.index_select(read, 0);
                let q = self.query.forward_autocast(&select(normed)?)?;
                heads(q, config.heads, &self.query_norm, &select(cos)?, &select(sin)?)?
            }
        };
        self.output.forward_autocast(&sight.attend(&q, &k, &v)?)
    }

    /// The layer's second half: the gated MLP on the normed sum.
    ///
    /// The gate is two kernels: mistral.rs's single one ends the process where the device fails.
    fn finish(&self, activation: Activation, x: &Tensor) -> Result<Tensor> {
        let mut normed = self.mlp_norm.forward(x)?;
        if let Some(dtype) = self.gate.quantized_act_type() {
            normed = normed.to_dtype(dtype)?;
        }
        let gated = (self.gate.forward(&normed)?.apply(&activation)? * self.up.forward(&normed)?)?;
        x + self.down.forward(&gated)?.to_dtype(x.dtype())?
    }
}

/// Keys and values that are kept from one batch to the next, in and out of the layers' matrices. A block is `[2 layers, BLOCK,
/// kv_heads, head_dim]`: keys and values of each layer in turn.
struct Blocks {
    /// All blocks that the batch uses, end to end.
    held: Option<Tensor>,
    /// Rows to keep, those of all blocks end to end.
    rows: Option<Tensor>,
    /// Those rows of each matrix so far.
    kept: Vec<Tensor>,
    /// Matrices that have been here.
    matrices: usize,
}

impl Blocks {
    fn new(packed: &Packed, held: &[Tensor], device: &Device) -> Result<Self> {
        let rows: Vec<u32> = packed.kept.iter().flat_map(|rows| rows.start as u32..rows.end as u32).collect();
        Ok(Self {
            held: (!held.is_empty()).then(|| Tensor::cat(held, 1)).transpose()?,
            rows: (!rows.is_empty()).then(|| Tensor::new(rows, device)).transpose()?,
            kept: Vec::new(),
            matrices: 0,
        })
    }

    /// Takes what is to be kept from the next matrix, and puts what is held behind its rows.
    fn exchange(&mut self, matrix: Tensor) -> Result<Tensor> {
        if let Some(rows) = &self.rows {
            self.kept.push(matrix.index_select(rows, 0)?);
        }
        let number = self.matrices;
        self.matrices += 1;
        match &self.held {
            Some(held) => Tensor::cat(&[&matrix, &held.get(number)?], 0),
            None => Ok(matrix),
        }
    }

    /// The blocks that are to be kept, each in memory of its own.
    fn into_kept(self) -> Result<Vec<Tensor>> {
        if self.kept.is_empty() {
            return Ok(Vec::new());
        }
        let kept = Tensor::stack(&self.kept, 0)?;
        (0..kept.dim(1)? / BLOCK).map(|block| kept.narrow(1, block * BLOCK, BLOCK)?.force_contiguous()).collect()
    }
}

/// A linear layer in the quantised form `isq`, made by mistral.rs.
fn quantised(linear: Arc<dyn QuantMethod>, isq: Option<IsqType>) -> Result<Arc<dyn QuantMethod>> {
    let Some(isq) = isq else { return Ok(linear) };
    let (_, device) = linear.dtype_and_device();
    linear.apply_isq(Some(isq), device, &AtomicUsize::new(0), None, QuantizeOntoGuard::new())
}
