//! Encoders: BERT, RoBERTa and XLM-RoBERTa, GTE, ModernBERT.

use serde_json::{Value, json};

use super::TensorNaming;
use super::config::{Config, MAX_LAYERS, MAX_POSITIONS, MAX_ROWS};
use super::decoders::{activation, layer_types};
use super::{
    Activation, AttentionSpec, ClassifierSpec, DenseSpec, EmbeddingSpec, LayerSpec, LearnedPositions, MlpSpec,
    ModelSpec, NormKind, NormPlacement, NormSpec, OutputMatrix, RotaryScaling, RotarySpec, Task, Window,
};
use crate::runtime::Pooling;

/// BERT: post-norm layers, learned positions from 0, token types; the classifier reads the first
/// token through the pooler.
pub(super) fn bert(config: &mut Config, task: Task) -> Result<ModelSpec, String> {
    config.must_be("position_embedding_type", &json!("absolute"))?;
    let mut spec = post_norm(config, task, 0)?;
    spec.naming = TensorNaming::Bert;
    Ok(spec)
}

/// RoBERTa and XLM-RoBERTa: BERT's layers; positions begin behind the padding token's id, and the
/// classifier has a dense layer of its own.
pub(super) fn roberta(config: &mut Config, task: Task) -> Result<ModelSpec, String> {
    config.must_be("position_embedding_type", &json!("absolute"))?;
    let padding = config.number("pad_token_id")?.unwrap_or(1.) as usize;
    let mut spec = post_norm(config, task, padding + 1)?;
    spec.naming = TensorNaming::Roberta;
    Ok(spec)
}

/// GTE's `new` architecture (gte-multilingual-reranker-base): BERT's layers with rotary positions
/// and a gated MLP.
pub(super) fn gte(config: &mut Config, task: Task) -> Result<ModelSpec, String> {
    config.must_be("position_embedding_type", &json!("rope"))?;
    config.must_be("pack_qkv", &json!(true))?;
    config.must_be("layer_norm_type", &json!("layer_norm"))?;
    // How the reference computes, not what; and a bound that only `logn_attention_scale` uses.
    for key in ["unpad_inputs", "use_memory_efficient_attention", "logn_attention_clip1"] {
        config.take(key);
    }
    let rotary = gte_rotary(config)?;
    let mut spec = post_norm(config, task, 0)?;
    spec.naming = TensorNaming::Gte;
    spec.embedding.positions = None;
    spec.mlp.gated = true;
    if !spec.attention.head_dim.is_multiple_of(2) {
        return Err(format!("the width of a head, {}, is not an even number", spec.attention.head_dim));
    }
    spec.layers.iter_mut().for_each(|layer| layer.rotary = Some(0));
    spec.rotary = vec![rotary];
    Ok(spec)
}

/// `rope_theta`, and `rope_scaling` of the type `ntk`, which no other architecture has.
fn gte_rotary(config: &mut Config) -> Result<RotarySpec, String> {
    let theta = config.number("rope_theta")?.unwrap_or(10_000.);
    let scaling = match config.take("rope_scaling") {
        None => RotaryScaling::None,
        Some(keys) if keys["type"] == "ntk" && keys.get("mixed_b").is_none_or(Value::is_null) => {
            let factor = keys["factor"].as_f64().filter(|factor| *factor > 0.);
            RotaryScaling::Ntk { factor: factor.ok_or("rope_scaling.factor is not a positive number")? }
        }
        Some(keys) => return Err(format!("rope_scaling is {keys}; the type ntk without mixed_b is supported")),
    };
    Ok(RotarySpec { theta, scaling })
}

/// The common part of BERT, RoBERTa and GTE. `offset` is the first row of the position table that
/// is used.
fn post_norm(config: &mut Config, task: Task, offset: usize) -> Result<ModelSpec, String> {
    config.must_be("is_decoder", &json!(false))?;
    let hidden_size = config.size("hidden_size", MAX_ROWS, None)?;
    let layers = config.size("num_hidden_layers", MAX_LAYERS, None)?;
    let rows = config.size("max_position_embeddings", MAX_POSITIONS, Some(512))?;
    let max_positions = rows.saturating_sub(offset);
    if max_positions == 0 {
        return Err(format!("max_position_embeddings is {rows}, and positions begin at {offset}"));
    }
    let norm = NormSpec::new(NormKind::Layer { bias: true }, config.number("layer_norm_eps")?.unwrap_or(1e-12));
    let classifier = match task {
        Task::Classification => Some(ClassifierSpec {
            labels: config.labels()?,
            pooling: Pooling::First,
            dense: Some(DenseSpec { bias: true, activation: Activation::Tanh }),
            norm: None,
            bias: true,
            temperature: 1.,
            start_layer: None,
            module_tensors: None,
        }),
        Task::States | Task::CausalLm => None,
    };
    // The output matrix of masked language models is not read.
    config.take("tie_word_embeddings");
    Ok(ModelSpec {
        architecture: String::new(),
        naming: TensorNaming::Bert,
        causal: false,
        hidden_size,
        vocabulary: config.size("vocab_size", MAX_ROWS, None)?,
        max_positions,
        embedding: EmbeddingSpec {
            scale: 1.,
            positions: Some(LearnedPositions { rows, offset }),
            token_types: config.size("type_vocab_size", MAX_ROWS, Some(2))?,
            norm: Some(norm),
        },
        attention: attention(config, hidden_size, true)?,
        mlp: MlpSpec {
            intermediate: config.size("intermediate_size", MAX_ROWS, None)?,
            gated: false,
            activation: activation(config, "hidden_act", Activation::GeluErf)?,
            bias: true,
        },
        norm,
        placement: NormPlacement::Post,
        layers: vec![LayerSpec { attention_norm: true, rotary: None, window: Window::NONE }; layers],
        rotary: Vec::new(),
        final_norm: None,
        output: OutputMatrix::None,
        classifier,
    })
}

fn attention(config: &mut Config, hidden_size: usize, bias: bool) -> Result<AttentionSpec, String> {
    let heads = config.size("num_attention_heads", MAX_ROWS, None)?;
    if !hidden_size.is_multiple_of(heads) {
        return Err(format!("hidden_size {hidden_size} is not a multiple of num_attention_heads {heads}"));
    }
    let head_dim = hidden_size / heads;
    Ok(AttentionSpec {
        heads,
        kv_heads: heads,
        head_dim,
        scale: (head_dim as f32).sqrt().recip(),
        soft_cap: None,
        qkv_bias: bias,
        output_bias: bias,
        qk_norm: None,
    })
}

/// ModernBERT: pre-norm layers with rotary positions, most of them with a window; a gated MLP whose
/// first half is activated.
pub(super) fn modern_bert(config: &mut Config, task: Task) -> Result<ModelSpec, String> {
    let hidden_size = config.size("hidden_size", MAX_ROWS, None)?;
    let count = config.size("num_hidden_layers", MAX_LAYERS, None)?;
    let max_positions = config.size("max_position_embeddings", MAX_POSITIONS, Some(8192))?;
    let (norm_bias, mlp_bias) = (config.flag("norm_bias", false)?, config.flag("mlp_bias", false)?);
    let attention_bias = config.flag("attention_bias", false)?;
    let norm = NormSpec::new(NormKind::Layer { bias: norm_bias }, config.number("norm_eps")?.unwrap_or(1e-5));
    // Written beside norm_eps, and not read by the reference either.
    config.take("layer_norm_eps");
    config.take("position_embedding_type");
    config.take("tie_word_embeddings");
    let rotary = modern_bert_rotary(config, max_positions)?;
    let local = config.size("local_attention", MAX_POSITIONS, Some(128))? / 2;
    let every = config.size("global_attn_every_n_layers", MAX_LAYERS, Some(3))?;
    let types = layer_types(config, count)?;
    let layer = |number: usize| {
        let is_local = types.as_ref().map_or(!number.is_multiple_of(every), |types| types[number]);
        let window = if is_local { Window { before: local, after: local } } else { Window::NONE };
        LayerSpec { attention_norm: number > 0, rotary: Some(usize::from(is_local)), window }
    };
    let attention = attention(config, hidden_size, attention_bias)?;
    if !attention.head_dim.is_multiple_of(2) {
        return Err(format!("the width of a head, {}, is not an even number", attention.head_dim));
    }
    Ok(ModelSpec {
        architecture: String::new(),
        naming: TensorNaming::ModernBert,
        causal: false,
        hidden_size,
        vocabulary: config.size("vocab_size", MAX_ROWS, None)?,
        max_positions,
        embedding: EmbeddingSpec { scale: 1., positions: None, token_types: 0, norm: Some(norm) },
        attention,
        mlp: MlpSpec {
            intermediate: config.size("intermediate_size", MAX_ROWS, None)?,
            gated: true,
            activation: activation(config, "hidden_activation", Activation::GeluErf)?,
            bias: mlp_bias,
        },
        norm,
        placement: NormPlacement::Pre,
        layers: (0..count).map(layer).collect(),
        rotary,
        final_norm: Some(norm),
        output: OutputMatrix::None,
        classifier: if task == Task::Classification { Some(modern_bert_classifier(config, norm)?) } else { None },
    })
}

fn modern_bert_classifier(config: &mut Config, norm: NormSpec) -> Result<ClassifierSpec, String> {
    let pooling = match config.text("classifier_pooling")?.as_deref() {
        None | Some("cls") => Pooling::First,
        Some("mean") => Pooling::Mean,
        Some(other) => return Err(format!("classifier_pooling is `{other}`; cls and mean are supported")),
    };
    let dense = DenseSpec {
        bias: config.flag("classifier_bias", false)?,
        activation: activation(config, "classifier_activation", Activation::GeluErf)?,
    };
    let labels = config.labels()?;
    Ok(ClassifierSpec {
        labels,
        pooling,
        dense: Some(dense),
        norm: Some(norm),
        bias: true,
        temperature: 1.,
        start_layer: None,
        module_tensors: None,
    })
}

/// The tables of global and of local layers: flat keys, or `rope_parameters` by layer type as
/// transformers 5 writes them.
fn modern_bert_rotary(config: &mut Config, max_positions: usize) -> Result<Vec<RotarySpec>, String> {
    let global = config.number("global_rope_theta")?.unwrap_or(160_000.);
    // Null is the global base, absence is the default.
    let default = if config.is_null("local_rope_theta") { global } else { 10_000. };
    let local = config.number("local_rope_theta")?.unwrap_or(default);
    let mut parameters = config.take("rope_parameters").unwrap_or(Value::Null);
    let mut table = |kind: &str, theta: f64| match parameters.get_mut(kind).map(Value::take) {
        None | Some(Value::Null) => Ok(RotarySpec { theta, scaling: RotaryScaling::None }),
        Some(keys) => RotarySpec::of_parameters(&format!("rope_parameters.{kind}"), keys, theta, max_positions),
    };
    Ok(vec![table("full_attention", global)?, table("sliding_attention", local)?])
}
