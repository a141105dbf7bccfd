//! The decoder: embeddings, layers over packed rows, and what is read of the last one.
//!
//! Layers come in two makes: [`CpuLayers`], and [`DeviceLayers`] for every other device and for mistral.rs's own
//! quantised forms.

use candle_core::{DType, Device, Module, Result, Storage, Tensor};
use candle_nn::Embedding;
use mistralrs::core::layers::{RotaryEmbedding, embedding};
use mistralrs_quant::{ShardedSafeTensors, ShardedVarBuilder};

use super::arithmetic::{Numerics, Products};
use super::config::DecoderConfig;
use super::cpu::CpuLayers;
use super::device::DeviceLayers;
use super::layout::Packed;
use super::prefixes::BLOCK;
use super::weights::WeightFiles;
use crate::runtime::{Head, LoadError};

pub(super) struct Decoder {
    config: DecoderConfig,
    embeddings: Embedding,
    layers: Layers,
    /// `[vocabulary, hidden]`; the embedding matrix itself where they are tied.
    output: Tensor,
    projector: Option<Projector>,
}

enum Layers {
    Cpu(Box<CpuLayers>),
    Device(Box<DeviceLayers>),
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
    /// Checks every tensor, then builds the decoder on `device`. `progress` is told after each layer.
    pub fn load(
        config: DecoderConfig,
        weights: WeightFiles,
        numerics: Numerics,
        device: &Device,
        progress: &dyn Fn(usize),
    ) -> std::result::Result<Self, LoadError> {
        for (name, shape) in expected_tensors(&config, &weights) {
            weights.check(&name, &shape)?;
        }
        let has_projector = weights.contains("projector.0.weight");
        let untied = !config.tied && weights.contains("lm_head.weight");
        let prefix = prefix(&weights).trim_end_matches('.');
        let root = ShardedSafeTensors::wrap(Box::new(weights), numerics.dtype, device.clone());
        let model = if prefix.is_empty() { root.clone() } else { root.pp(prefix) };
        Self::build(config, (&root, &model), numerics, (untied, has_projector), progress)
            .map_err(|error| LoadError::Device(error.to_string()))
    }

    fn build(
        config: DecoderConfig,
        (root, model): (&ShardedVarBuilder, &ShardedVarBuilder),
        numerics: Numerics,
        (untied, has_projector): (bool, bool),
        progress: &dyn Fn(usize),
    ) -> Result<Self> {
        let device = root.device();
        let embeddings = embedding(config.vocabulary, config.hidden_size, model.pp("embed_tokens"), &None)?;
        let (theta, positions) = (config.rope_theta as f32, config.max_positions);
        let turns = RotaryEmbedding::new(theta, config.head_dim, positions, device, true, numerics.table_type())?;
        let (cos, sin) = turns.get_cos_sin()?;
        let layers = match numerics.products {
            Products::Cpu(numbers) => {
                Layers::Cpu(Box::new(CpuLayers::load(&config, model, numbers, (&cos, &sin), progress)?))
            }
            Products::Device(isq) => {
                Layers::Device(Box::new(DeviceLayers::load(&config, model, isq, (cos, sin), progress)?))
            }
        };
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
        Ok(Self { config, embeddings, layers, output, projector })
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

    /// Bytes that a block of keys and values takes, over all layers.
    pub fn block_bytes(&self) -> usize {
        let dtype = match self.layers {
            Layers::Cpu(_) => DType::F32,
            Layers::Device(_) => self.embeddings.embeddings().dtype(),
        };
        2 * self.config.layers * self.config.kv_heads * self.config.head_dim * BLOCK * dtype.size_in_bytes()
    }

    /// The final-normed states of the rows that are read, `[marks of all passes, hidden]` in f32; and the blocks that are
    /// to be kept. `held` are the blocks that the batch uses of those.
    pub fn states(&self, packed: &Packed, held: &[Tensor]) -> Result<(Tensor, Vec<Tensor>)> {
        let embedded = self.embeddings.forward(&Tensor::new(packed.tokens.as_slice(), self.device())?)?;
        match &self.layers {
            Layers::Device(layers) => layers.states(embedded, packed, held),
            Layers::Cpu(layers) => {
                let rows = embedded.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
                let held: Vec<_> = held.iter().map(|block| block.storage_and_layout().0).collect();
                let held: Vec<&[f32]> = held.iter().map(|block| floats(block)).collect::<Result<_>>()?;
                let (states, kept) = layers.states(rows, packed, &held);
                let kept = kept.into_iter().map(|block| Tensor::from_vec(block, (), &Device::Cpu));
                let states = Tensor::from_vec(states, ((), self.config.hidden_size), &Device::Cpu)?;
                Ok((states, kept.collect::<Result<_>>()?))
            }
        }
    }

    /// Final states through a head: `[n, hidden]` to `[n, width]`.
    pub fn apply(&self, head: &Head, states: &Tensor) -> Result<Tensor> {
        match head {
            Head::Hidden => Ok(states.clone()),
            Head::Projector => self.project(states),
            Head::Vocabulary(token_ids) => self.logits(states, token_ids),
            Head::Classifier => candle_core::bail!("the checkpoint has no classifier"),
        }
    }

    /// States through the projector: `[n, hidden]` to `[n, projected]`.
    fn project(&self, states: &Tensor) -> Result<Tensor> {
        match &self.projector {
            Some(projector) => states.matmul(&projector.first.t()?)?.relu()?.matmul(&projector.second.t()?),
            None => candle_core::bail!("the checkpoint has no projector"),
        }
    }

    /// Logits of `token_ids` only: `[n, hidden]` to `[n, token_ids]`.
    fn logits(&self, states: &Tensor, token_ids: &[u32]) -> Result<Tensor> {
        let rows = self.output.index_select(&Tensor::new(token_ids, self.device())?, 0)?.to_dtype(DType::F32)?;
        states.matmul(&rows.t()?)
    }
}

/// A whole tensor on the CPU, as it lies.
fn floats(storage: &Storage) -> Result<&[f32]> {
    match storage {
        Storage::Cpu(storage) => storage.as_slice(),
        Storage::Cuda(_) | Storage::Metal(_) => candle_core::bail!("a block of these layers is not on the CPU"),
    }
}
