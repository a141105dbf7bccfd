//! The decoder's layers on a device: mistral.rs's linear layers, norms and gated MLP around attention over packed rows.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use candle_core::{DType, Device, Module, Result, Tensor};
use mistralrs::core::layers::{Mlp, RmsNorm};
use mistralrs_quant::{Comm, Id, IsqType, QuantMethod, QuantizeOntoGuard, ReplicatedLayer, ShardedVarBuilder};

use super::attention;
use super::config::DecoderConfig;
use super::layout::{Packed, Span};
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
    mlp: Mlp,
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
        let comm = Arc::new(Comm::from_device(Id::new(), model.device(), 0, 1)?);
        let mut layers = Vec::with_capacity(config.layers);
        for number in 0..config.layers {
            layers.push(Layer::load(config, &model.pp("layers").pp(number), isq, &comm)?);
            progress(number + 1);
        }
        let norm = RmsNorm::new(config.hidden_size, config.rms_norm_eps, model.pp("norm"))?;
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
        for (number, (layer, spans)) in self.layers.iter().zip(packed.layers(count)).enumerate() {
            let read = (number + 1 == count).then_some(&read);
            let normed = layer.attention_norm.forward(&x)?;
            let attended = layer.attend(&self.config, &normed, read, (&cos, &sin), &spans, &mut blocks)?;
            let x_read = read.map_or_else(|| Ok(x.clone()), |read| x.index_select(read, 0))?;
            x = layer.finish(&(x_read + attended)?)?;
        }
        Ok((self.norm.forward(&x)?.to_dtype(DType::F32)?, blocks.into_kept()?))
    }
}

impl Layer {
    fn load(config: &DecoderConfig, layer: &ShardedVarBuilder, isq: Option<IsqType>, comm: &Arc<Comm>) -> Result<Self> {
        let attention = layer.pp("self_attn");
        let (query, key) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let linear = |inputs, outputs, bias, name: &str| {
            quantised(ReplicatedLayer::new(inputs, outputs, &None, bias, attention.pp(name))?, isq)
        };
        let norm = |size, builder| RmsNorm::new(size, config.rms_norm_eps, builder);
        let head_norm = |name: &str| config.qk_norm.then(|| norm(config.head_dim, attention.pp(name))).transpose();
        let mut mlp =
            Mlp::new(layer.pp("mlp"), config.hidden_size, config.intermediate_size, &None, config.activation, comm)?;
        for linear in [&mut mlp.gate, &mut mlp.up, &mut mlp.down] {
            *linear = quantised(Arc::clone(linear), isq)?;
        }
        Ok(Self {
            attention_norm: norm(config.hidden_size, layer.pp("input_layernorm"))?,
            query: linear(config.hidden_size, query, config.qkv_bias, "q_proj")?,
            key: linear(config.hidden_size, key, config.qkv_bias, "k_proj")?,
            value: linear(config.hidden_size, key, config.qkv_bias, "v_proj")?,
            output: linear(query, config.hidden_size, config.output_bias, "o_proj")?,
            query_norm: head_norm("q_norm")?,
            key_norm: head_norm("k_norm")?,
            mlp_norm: norm(config.hidden_size, layer.pp("post_attention_layernorm"))?,
            mlp,
        })
    }

    /// Attention of the rows in `read` (all, if `None`) over the keys of all rows and of those that are kept.
    fn attend(
        &self,
        config: &DecoderConfig,
        normed: &Tensor,
        read: Option<&Tensor>,
        (cos, sin): (&Tensor, &Tensor),
        spans: &[Span],
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
        self.output.forward_autocast(&attention::attend(&q, &k, &v, spans)?)
    }

    /// The layer's second half: the gated MLP on the normed sum.
    fn finish(&self, x: &Tensor) -> Result<Tensor> {
        x + self.mlp.forward(&self.mlp_norm.forward(x)?)?
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
