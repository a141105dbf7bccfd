//! The decoder: mistral.rs's linear layers, norms and gated MLP around attention over packed rows.

use std::sync::Arc;

use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::Embedding;
use mistralrs::core::layers::{Mlp, RmsNorm, RotaryEmbedding, embedding};
use mistralrs_quant::{Comm, Id, QuantMethod, ReplicatedLayer, ShardedSafeTensors, ShardedVarBuilder};

use super::attention;
use super::config::DecoderConfig;
use super::layout::{Packed, Span};
use super::weights::WeightFiles;
use crate::runtime::LoadError;

pub(super) struct Decoder {
    config: DecoderConfig,
    embeddings: Embedding,
    rotary_cos: Tensor,
    rotary_sin: Tensor,
    layers: Vec<Layer>,
    norm: RmsNorm,
    /// `[vocabulary, hidden]`; the embedding matrix itself where they are tied.
    output: Tensor,
    projector: Option<Projector>,
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

/// Linear, `ReLU`, Linear, without biases, in f32: what late interaction compares.
struct Projector {
    first: Tensor,
    second: Tensor,
}

/// Names and shapes of all tensors that a configuration asks for.
fn expected_tensors(config: &DecoderConfig, weights: &WeightFiles) -> Vec<(String, Vec<usize>)> {
    let prefix = prefix(weights);
    let hidden = config.hidden_size;
    let (query, key) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let mut tensors = vec![
        (format!("{prefix}embed_tokens.weight"), vec![config.vocabulary, hidden]),
        (format!("{prefix}norm.weight"), vec![hidden]),
    ];
    if !config.tied && weights.contains("lm_head.weight") {
        tensors.push(("lm_head.weight".to_owned(), vec![config.vocabulary, hidden]));
    }
    for layer in 0..config.layers {
        let mut add =
            |name: &str, shape: &[usize]| tensors.push((format!("{prefix}layers.{layer}.{name}"), shape.to_vec()));
        for (name, rows) in [("q_proj", query), ("k_proj", key), ("v_proj", key)] {
            add(&format!("self_attn.{name}.weight"), &[rows, hidden]);
            if config.qkv_bias {
                add(&format!("self_attn.{name}.bias"), &[rows]);
            }
        }
        add("self_attn.o_proj.weight", &[hidden, query]);
        if config.output_bias {
            add("self_attn.o_proj.bias", &[hidden]);
        }
        if config.qk_norm {
            add("self_attn.q_norm.weight", &[config.head_dim]);
            add("self_attn.k_norm.weight", &[config.head_dim]);
        }
        add("input_layernorm.weight", &[hidden]);
        add("post_attention_layernorm.weight", &[hidden]);
        add("mlp.gate_proj.weight", &[config.intermediate_size, hidden]);
        add("mlp.up_proj.weight", &[config.intermediate_size, hidden]);
        add("mlp.down_proj.weight", &[hidden, config.intermediate_size]);
    }
    if let Some(shape) = weights.shape("projector.0.weight") {
        // Its widths are the file's to say; it must only fit the hidden state and itself.
        let middle = shape.first().copied().unwrap_or_default();
        tensors.push(("projector.0.weight".to_owned(), vec![middle, hidden]));
        let outer = weights.shape("projector.2.weight").and_then(|shape| shape.first().copied()).unwrap_or_default();
        tensors.push(("projector.2.weight".to_owned(), vec![outer, middle]));
    }
    tensors
}

/// Causal language models keep the decoder under `model.`; bare decoders do not.
fn prefix(weights: &WeightFiles) -> &'static str {
    if weights.contains("model.embed_tokens.weight") { "model." } else { "" }
}

impl Decoder {
    /// Checks every tensor, then builds the decoder on `device` in `dtype`. `progress` is told
    /// after each layer.
    pub fn load(
        config: DecoderConfig,
        weights: WeightFiles,
        dtype: DType,
        device: &Device,
        progress: &dyn Fn(usize),
    ) -> std::result::Result<Self, LoadError> {
        for (name, shape) in expected_tensors(&config, &weights) {
            weights.check(&name, &shape)?;
        }
        let has_projector = weights.contains("projector.0.weight");
        let untied = !config.tied && weights.contains("lm_head.weight");
        let prefix = prefix(&weights).trim_end_matches('.');
        let root = ShardedSafeTensors::wrap(Box::new(weights), dtype, device.clone());
        Self::build(config, &root, prefix, untied, has_projector, progress)
            .map_err(|error| LoadError::Device(error.to_string()))
    }

    fn build(
        config: DecoderConfig,
        root: &ShardedVarBuilder,
        prefix: &str,
        untied: bool,
        has_projector: bool,
        progress: &dyn Fn(usize),
    ) -> Result<Self> {
        let (device, dtype) = (root.device().clone(), root.dtype());
        let model = if prefix.is_empty() { root.clone() } else { root.pp(prefix) };
        let comm = Arc::new(Comm::from_device(Id::new(), &device, 0, 1)?);
        let embeddings = embedding(config.vocabulary, config.hidden_size, model.pp("embed_tokens"), &None)?;
        let rotary = RotaryEmbedding::new(
            config.rope_theta as f32,
            config.head_dim,
            config.max_positions,
            &device,
            true,
            dtype,
        )?;
        let (rotary_cos, rotary_sin) = rotary.get_cos_sin()?;
        let mut layers = Vec::with_capacity(config.layers);
        for number in 0..config.layers {
            layers.push(Layer::build(&config, &model.pp("layers").pp(number), &comm)?);
            progress(number + 1);
        }
        let output = if untied {
            root.pp("lm_head").get((config.vocabulary, config.hidden_size), "weight")?
        } else {
            embeddings.embeddings().clone()
        };
        let projector = if has_projector {
            let read = |name: &str| root.get_unchecked_dtype(name, DType::F32);
            Some(Projector { first: read("projector.0.weight")?, second: read("projector.2.weight")? })
        } else {
            None
        };
        let norm = RmsNorm::new(config.hidden_size, config.rms_norm_eps, model.pp("norm"))?;
        Ok(Self { config, embeddings, rotary_cos, rotary_sin, layers, norm, output, projector })
    }

    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    pub fn has_projector(&self) -> bool {
        self.projector.is_some()
    }

    pub fn device(&self) -> &Device {
        self.embeddings.embeddings().device()
    }

    /// The final-normed states of the rows that are read: `[marks of all passes, hidden]`, f32.
    ///
    /// The last layer computes keys and values for all rows, everything else only where it is read.
    pub fn states(&self, packed: &Packed) -> Result<Tensor> {
        let device = self.device();
        let positions = Tensor::new(packed.positions.as_slice(), device)?;
        let cos = self.rotary_cos.index_select(&positions, 0)?;
        let sin = self.rotary_sin.index_select(&positions, 0)?;
        let read = Tensor::new(packed.read_rows(), device)?;
        let mut x = self.embeddings.forward(&Tensor::new(packed.tokens.as_slice(), device)?)?;

        let count = self.layers.len();
        let mut spans: Option<(usize, Vec<Span>)> = None;
        for (number, layer) in self.layers[..count - 1].iter().enumerate() {
            let joint = packed.joint_passes(number, count);
            if spans.as_ref().is_none_or(|(of, _)| *of != joint) {
                spans = Some((joint, packed.spans(number, count)));
            }
            let (_, spans) = spans.as_ref().expect("was just set");
            let normed = layer.attention_norm.forward(&x)?;
            let attended = layer.attend(&self.config, &normed, None, (&cos, &sin), spans)?;
            x = layer.finish(&(x + attended)?)?;
        }
        let layer = &self.layers[count - 1];
        let normed = layer.attention_norm.forward(&x)?;
        let attended = layer.attend(&self.config, &normed, Some(&read), (&cos, &sin), &packed.read_spans(count))?;
        x = layer.finish(&(x.index_select(&read, 0)? + attended)?)?;
        self.norm.forward(&x)?.to_dtype(DType::F32)
    }

    /// States through the projector: `[n, hidden]` to `[n, projected]`.
    pub fn project(&self, states: &Tensor) -> Result<Tensor> {
        match &self.projector {
            Some(projector) => states.matmul(&projector.first.t()?)?.relu()?.matmul(&projector.second.t()?),
            None => candle_core::bail!("the checkpoint has no projector"),
        }
    }

    /// Logits of `token_ids` only: `[n, hidden]` to `[n, token_ids]`.
    pub fn logits(&self, states: &Tensor, token_ids: &[u32]) -> Result<Tensor> {
        let rows = self.output.index_select(&Tensor::new(token_ids, self.device())?, 0)?.to_dtype(DType::F32)?;
        states.matmul(&rows.t()?)
    }
}

impl Layer {
    fn build(config: &DecoderConfig, layer: &ShardedVarBuilder, comm: &Arc<Comm>) -> Result<Self> {
        let attention = layer.pp("self_attn");
        let (query, key) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let linear =
            |inputs, outputs, bias, name: &str| ReplicatedLayer::new(inputs, outputs, &None, bias, attention.pp(name));
        let norm = |size, builder| RmsNorm::new(size, config.rms_norm_eps, builder);
        let head_norm = |name: &str| config.qk_norm.then(|| norm(config.head_dim, attention.pp(name))).transpose();
        Ok(Self {
            attention_norm: norm(config.hidden_size, layer.pp("input_layernorm"))?,
            query: linear(config.hidden_size, query, config.qkv_bias, "q_proj")?,
            key: linear(config.hidden_size, key, config.qkv_bias, "k_proj")?,
            value: linear(config.hidden_size, key, config.qkv_bias, "v_proj")?,
            output: linear(query, config.hidden_size, config.output_bias, "o_proj")?,
            query_norm: head_norm("q_norm")?,
            key_norm: head_norm("k_norm")?,
            mlp_norm: norm(config.hidden_size, layer.pp("post_attention_layernorm"))?,
            mlp: Mlp::new(
                layer.pp("mlp"),
                config.hidden_size,
                config.intermediate_size,
                &None,
                config.activation,
                comm,
            )?,
        })
    }

    /// Attention of the rows in `read` (all, if `None`) over the keys of all rows.
    fn attend(
        &self,
        config: &DecoderConfig,
        normed: &Tensor,
        read: Option<&Tensor>,
        (cos, sin): (&Tensor, &Tensor),
        spans: &[Span],
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
