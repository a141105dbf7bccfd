//! Decoders: Qwen2, Qwen3, Llama, Mistral, Gemma, layer-wise `MiniCPM`, and the bidirectional
//! Llama.

use serde_json::{Value, json};

use super::TensorNaming;
use super::config::{Config, MAX_LAYERS, MAX_POSITIONS, MAX_ROWS};
use super::{
    Activation, AttentionSpec, ClassifierSpec, EmbeddingSpec, LayerSpec, MlpSpec, ModelSpec, NormKind, NormPlacement,
    NormSpec, OutputMatrix, RotarySpec, Task, Window,
};
use crate::runtime::Pooling;

/// Qwen2: biases of the query, key and value projections.
pub(super) fn qwen2(config: &mut Config, task: Task) -> Result<ModelSpec, String> {
    let mut spec = decoder(config, task, &Defaults { theta: 10_000., positions: 32_768, tied: false })?;
    spec.attention.qkv_bias = config.flag("attention_bias", true)?;
    apply_windows(config, &mut spec, Some(28))?;
    Ok(spec)
}

/// Qwen3: norms of queries and keys per head.
pub(super) fn qwen3(config: &mut Config, task: Task) -> Result<ModelSpec, String> {
    let mut spec = decoder(config, task, &Defaults { theta: 10_000., positions: 32_768, tied: false })?;
    spec.attention.qkv_bias = config.flag("attention_bias", false)?;
    spec.attention.output_bias = spec.attention.qkv_bias;
    spec.attention.qk_norm = Some(spec.norm);
    apply_windows(config, &mut spec, Some(28))?;
    Ok(spec)
}

/// Llama 2 and 3.
pub(super) fn llama(config: &mut Config, task: Task) -> Result<ModelSpec, String> {
    let mut spec = decoder(config, task, &Defaults { theta: 10_000., positions: 2048, tied: false })?;
    spec.attention.qkv_bias = config.flag("attention_bias", false)?;
    spec.attention.output_bias = spec.attention.qkv_bias;
    spec.mlp.bias = config.flag("mlp_bias", false)?;
    apply_windows(config, &mut spec, None)?;
    Ok(spec)
}

/// Mistral: Llama with a sliding window in every layer.
pub(super) fn mistral(config: &mut Config, task: Task) -> Result<ModelSpec, String> {
    let mut spec = decoder(config, task, &Defaults { theta: 10_000., positions: 131_072, tied: false })?;
    let window = config.size("sliding_window", MAX_POSITIONS, Some(MAX_POSITIONS))?;
    if window < spec.max_positions {
        spec.layers.iter_mut().for_each(|layer| layer.window = sliding(window));
    }
    apply_windows(config, &mut spec, None)?;
    Ok(spec)
}

/// Gemma: scaled embeddings, norms whose weights are stored less 1, and GELU with a tanh unless
/// `hidden_activation` names another. Gemma's first configurations have a wrong `hidden_act`,
/// `gelu`; it is not read, as in vLLM.
pub(super) fn gemma(config: &mut Config, task: Task) -> Result<ModelSpec, String> {
    let mut spec = decoder(config, task, &Defaults { theta: 10_000., positions: 8192, tied: true })?;
    spec.mlp.activation = activation(config, "hidden_activation", Activation::GeluTanh)?;
    spec.attention.qkv_bias = config.flag("attention_bias", false)?;
    spec.attention.output_bias = spec.attention.qkv_bias;
    spec.embedding.scale = (spec.hidden_size as f32).sqrt();
    spec.norm.weight_offset = 1.;
    spec.final_norm = Some(spec.norm);
    apply_windows(config, &mut spec, None)?;
    Ok(spec)
}

/// `MiniCPM` with a head after each layer from `start_layer` on
/// (bge-reranker-v2-minicpm-layerwise).
///
/// Its layers are Llama's, with a factor of what attention and MLP add: `x + s * f(norm(x))`, `s =
/// scale_depth / sqrt(layers)`. In `y = x / s` this is Llama's own `y + f(norm(y))`, because an RMS
/// norm does not depend on the length of its row but for `eps`: `norm(x)` with `eps` is `norm(y)`
/// with `eps / s^2`. So `s` changes the scale of the embeddings and `eps`, and no layer.
pub(super) fn layer_wise_minicpm(config: &mut Config, task: Task) -> Result<ModelSpec, String> {
    config.must_be("head_type", &json!("simple"))?;
    config.must_be("head_multi", &json!(true))?;
    // The factor of the other types of heads.
    config.take("dim_model_base");
    let mut scale = |key: &str| match config.number(key)?.unwrap_or(1.) {
        scale if scale > 0. => Ok(scale),
        scale => Err(format!("{key} is {scale}, not a positive number")),
    };
    let (embedding_scale, depth_scale) = (scale("scale_emb")?, scale("scale_depth")?);
    let start_layer = config.size("start_layer", MAX_LAYERS, Some(8))?;
    let mut spec = llama(config, task)?;
    let layers = spec.layers.len();
    if start_layer > layers {
        return Err(format!("start_layer is {start_layer}, over num_hidden_layers {layers}"));
    }
    let added = depth_scale / (layers as f64).sqrt();
    spec.embedding.scale = (embedding_scale / added) as f32;
    spec.norm.eps /= added * added;
    spec.final_norm = Some(spec.norm);
    spec.output = OutputMatrix::None;
    spec.classifier = Some(ClassifierSpec { start_layer: Some(start_layer), ..last_token_classifier(1) });
    Ok(spec)
}

/// Llama without the causal mask (Nemotron rerankers): `pooling` says what the classifier reads,
/// `temperature` what its result is divided by.
pub(super) fn llama_bidirectional(config: &mut Config, task: Task) -> Result<ModelSpec, String> {
    config.must_be("is_causal", &json!(false))?;
    let pooling = match config.text("pooling")?.as_deref().unwrap_or("avg") {
        "avg" => Pooling::Mean,
        "cls" => Pooling::First,
        "last" => Pooling::Last,
        other => return Err(format!("pooling is `{other}`; avg, cls and last are supported")),
    };
    let temperature = config.number("temperature")?.unwrap_or(1.);
    let mut spec = llama(config, task)?;
    spec.causal = false;
    if let Some(classifier) = &mut spec.classifier {
        classifier.pooling = pooling;
        classifier.temperature = temperature as f32;
    }
    Ok(spec)
}

/// Defaults for keys that a configuration leaves out.
struct Defaults {
    theta: f64,
    positions: usize,
    /// Whether the output matrix is the word embeddings.
    tied: bool,
}

/// The common part of all decoders: RMS norms before attention and MLP, a gated MLP, rotary
/// positions.
fn decoder(config: &mut Config, task: Task, defaults: &Defaults) -> Result<ModelSpec, String> {
    let hidden_size = config.size("hidden_size", MAX_ROWS, None)?;
    let heads = config.size("num_attention_heads", MAX_ROWS, None)?;
    let kv_heads = config.size("num_key_value_heads", MAX_ROWS, Some(heads))?;
    let head_dim = config.size("head_dim", MAX_ROWS, Some((hidden_size / heads).max(1)))?;
    if !heads.is_multiple_of(kv_heads) {
        return Err(format!("num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"));
    }
    if !head_dim.is_multiple_of(2) {
        return Err(format!("head_dim {head_dim} is not an even number"));
    }
    let layers = config.size("num_hidden_layers", MAX_LAYERS, None)?;
    let max_positions = config.size("max_position_embeddings", MAX_POSITIONS, Some(defaults.positions))?;
    let norm = NormSpec::new(NormKind::Rms, config.number("rms_norm_eps")?.unwrap_or(1e-6));
    let rotary = RotarySpec::parse(config, defaults.theta, max_positions)?;
    let tied = config.flag("tie_word_embeddings", defaults.tied)?;
    let classifier = (task == Task::Classification).then(|| config.labels().map(last_token_classifier));
    Ok(ModelSpec {
        architecture: String::new(),
        naming: TensorNaming::Llama,
        causal: true,
        hidden_size,
        vocabulary: config.size("vocab_size", MAX_ROWS, None)?,
        max_positions,
        embedding: EmbeddingSpec { scale: 1., positions: None, token_types: 0, norm: None },
        attention: AttentionSpec {
            heads,
            kv_heads,
            head_dim,
            scale: (head_dim as f32).sqrt().recip(),
            soft_cap: None,
            qkv_bias: false,
            output_bias: false,
            qk_norm: None,
        },
        mlp: MlpSpec {
            intermediate: config.size("intermediate_size", MAX_ROWS, None)?,
            gated: true,
            activation: activation(config, "hidden_act", Activation::Silu)?,
            bias: false,
        },
        norm,
        placement: NormPlacement::Pre,
        layers: vec![LayerSpec { attention_norm: true, rotary: Some(0), window: Window::NONE }; layers],
        rotary: vec![rotary],
        final_norm: Some(norm),
        output: match task {
            Task::Classification => OutputMatrix::None,
            Task::CausalLm if !tied => OutputMatrix::Own,
            Task::States if !tied => OutputMatrix::None,
            Task::CausalLm | Task::States => OutputMatrix::Tied,
        },
        classifier: classifier.transpose()?,
    })
}

/// The classifier of a decoder: a matrix on the last token's state.
fn last_token_classifier(labels: usize) -> ClassifierSpec {
    ClassifierSpec {
        labels,
        pooling: Pooling::Last,
        dense: None,
        norm: None,
        bias: false,
        temperature: 1.,
        start_layer: None,
        module_tensors: None,
    }
}

/// A sliding window as transformers defines it: `window` tokens, the token itself included.
fn sliding(window: usize) -> Window {
    Window { before: window - 1, after: usize::MAX }
}

/// Windows by `layer_types`, or by `use_sliding_window` from layer `max_window_layers` on, as in
/// Qwen's configurations. A `sliding_window` that no layer uses means nothing.
fn apply_windows(config: &mut Config, spec: &mut ModelSpec, qwen: Option<usize>) -> Result<(), String> {
    let window = config.take("sliding_window");
    let switch = config.take("use_sliding_window").map(|value| value == json!(true));
    let first = config.count("max_window_layers")?.or(qwen).unwrap_or(usize::MAX);
    let types = layer_types(config, spec.layers.len())?;
    let is_sliding = |number: usize| match &types {
        Some(types) => types[number],
        None => switch == Some(true) && number >= first,
    };
    if !(0..spec.layers.len()).any(is_sliding) {
        return Ok(());
    }
    if types.is_some() && switch == Some(false) {
        return Err("layer_types has sliding_attention, but use_sliding_window is false".to_owned());
    }
    let window = window.as_ref().and_then(Value::as_u64).filter(|window| *window > 0);
    let window = window.ok_or("some layers have a sliding window, but sliding_window is not a positive number")?;
    for (_, layer) in spec.layers.iter_mut().enumerate().filter(|(number, _)| is_sliding(*number)) {
        // A window as long as the longest sequence hides nothing.
        if (window as usize) < spec.max_positions {
            layer.window = sliding(window as usize);
        }
    }
    Ok(())
}

/// For each layer, whether `layer_types` says `sliding_attention`; `None` if the key is absent.
pub(super) fn layer_types(config: &mut Config, layers: usize) -> Result<Option<Vec<bool>>, String> {
    let Some(types) = config.take("layer_types") else { return Ok(None) };
    let read = |kind: &Value| match kind.as_str() {
        Some("full_attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => Err(format!("layer_types has {kind}; full_attention and sliding_attention are supported")),
    };
    let types: Vec<bool> = types.as_array().into_iter().flatten().map(read).collect::<Result<_, _>>()?;
    match types.len() {
        0 => Ok(None),
        count if count == layers => Ok(Some(types)),
        count => Err(format!("layer_types has {count} entries for {layers} layers")),
    }
}

/// The activation that a key names.
pub(super) fn activation(config: &mut Config, key: &str, default: Activation) -> Result<Activation, String> {
    Ok(match config.text(key)?.as_deref() {
        None => default,
        Some("silu" | "swish") => Activation::Silu,
        Some("gelu") => Activation::GeluErf,
        Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => Activation::GeluTanh,
        Some("relu") => Activation::Relu,
        Some("tanh") => Activation::Tanh,
        Some(other) => return Err(format!("{key} is `{other}`; silu, gelu, gelu_new, relu and tanh are supported")),
    })
}
