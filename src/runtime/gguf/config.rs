//! The `config.json` of a GGUF file's model.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::GgufTensor;
use super::metadata::Metadata;

/// The values of `general.architecture` that can be run.
pub(super) const ARCHITECTURES: &[&str] = &["bert", "llama", "qwen2", "qwen3"];

/// The keys of an architecture that are read, or that change nothing that is computed here.
const KNOWN_KEYS: &[&str] = &[
    "attention.causal",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "classifier.output_labels",
    "context_length",
    "embedding_length",
    "expert_count",
    "expert_used_count",
    "feed_forward_length",
    "pooling_type",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "tensor_data_layout",
    "vocab_size",
];

/// Why there is no configuration.
pub(super) enum Problem {
    /// The architecture is not supported.
    Architecture(String),
    Malformed(String),
}

impl From<String> for Problem {
    fn from(problem: String) -> Self {
        Self::Malformed(problem)
    }
}

/// The configuration, in the terms of Hugging Face's `config.json`.
/// `rope_factors` are the divisors of the rotary frequencies, where the file has them.
pub(super) fn of(
    metadata: &Metadata<'_>,
    tensors: &HashMap<String, GgufTensor>,
    rope_factors: Option<&[f32]>,
) -> Result<Value, Problem> {
    if !ARCHITECTURES.contains(&metadata.architecture) {
        return Err(Problem::Architecture(metadata.architecture.to_owned()));
    }
    if let Some(key) = metadata.own_keys().into_iter().find(|key| !KNOWN_KEYS.contains(key)) {
        return Err(format!("has the key {}, which is not supported", metadata.own(key)).into());
    }
    if metadata.whole(&metadata.own("expert_count"))?.is_some_and(|experts| experts > 0) {
        return Err(format!("has {}: mixtures of experts are not supported", metadata.own("expert_count")).into());
    }
    let mut config = match metadata.architecture {
        "bert" => bert(metadata, tensors),
        _ => decoder(metadata, tensors),
    }?;
    if let Some(factors) = rope_factors {
        config.insert("rope_scaling".to_owned(), llama3_scaling(factors, &config)?);
    }
    if let Some(name) = model_name(metadata)? {
        config.insert("_name_or_path".to_owned(), name.into());
    }
    Ok(Value::Object(config))
}

/// A whole number that must be there.
fn needed(metadata: &Metadata<'_>, key: &str) -> Result<u64, String> {
    let key = metadata.own(key);
    metadata.whole(&key)?.ok_or_else(|| format!("has no {key}"))
}

fn rows(tensors: &HashMap<String, GgufTensor>, name: &str) -> Option<usize> {
    tensors.get(name).and_then(|tensor| tensor.shape.first().copied())
}

fn decoder(metadata: &Metadata<'_>, tensors: &HashMap<String, GgufTensor>) -> Result<Map<String, Value>, String> {
    let class = match metadata.architecture {
        "qwen2" => "Qwen2ForCausalLM",
        "qwen3" => "Qwen3ForCausalLM",
        _ => "LlamaForCausalLM",
    };
    refuse_pooling(metadata)?;
    let (hidden, heads) = (needed(metadata, "embedding_length")?, needed(metadata, "attention.head_count")?);
    let own = |key: &str| metadata.whole(&metadata.own(key));
    let head_dim = own("attention.key_length")?.unwrap_or(hidden / heads.max(1));
    for key in ["attention.value_length", "rope.dimension_count"] {
        if let Some(found) = own(key)?.filter(|found| *found != head_dim) {
            let key = metadata.own(key);
            return Err(format!("{key} is {found}; only {head_dim}, the width of a head, is supported"));
        }
    }
    if metadata.flag(&metadata.own("attention.causal"))? == Some(false) {
        return Err(format!("{} is false, which is not supported", metadata.own("attention.causal")));
    }
    let mut config = json!({
        "architectures": [class],
        "hidden_size": hidden,
        "intermediate_size": needed(metadata, "feed_forward_length")?,
        "num_hidden_layers": needed(metadata, "block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": own("attention.head_count_kv")?.unwrap_or(heads),
        "head_dim": head_dim,
        "max_position_embeddings": needed(metadata, "context_length")?,
        "rms_norm_eps": metadata.number(&metadata.own("attention.layer_norm_rms_epsilon"))?.unwrap_or(1e-5),
        "rope_theta": metadata.number(&metadata.own("rope.freq_base"))?.unwrap_or(10_000.),
        "hidden_act": "silu",
        "vocab_size": rows(tensors, "model.embed_tokens.weight").ok_or("has no tensor token_embd.weight")?,
        "tie_word_embeddings": !tensors.contains_key("lm_head.weight"),
        "attention_bias": tensors.contains_key("model.layers.0.self_attn.q_proj.bias"),
        "mlp_bias": tensors.contains_key("model.layers.0.mlp.up_proj.bias"),
        "rope_scaling": rope_scaling(metadata)?,
    });
    Ok(std::mem::take(config.as_object_mut().ok_or("is not an object")?))
}

/// Refuses an embedding model. llama.cpp's pooling types: 0 none, 1 mean, 2 first, 3 last, 4 rank.
/// A reranker of type `rank` is read like the chat model that it was made from: its classifier is
/// rows of the output matrix.
fn refuse_pooling(metadata: &Metadata<'_>) -> Result<(), String> {
    let key = metadata.own("pooling_type");
    let labels = metadata.texts(&metadata.own("classifier.output_labels"))?;
    match metadata.whole(&key)? {
        None | Some(0) => Ok(()),
        Some(4) if labels.as_deref() == Some(&["yes", "no"]) => Ok(()),
        Some(4) => Err(format!("{key} is 4 (a classifier), and its labels are not yes and no: this is not supported")),
        Some(kind) => Err(format!("{key} is {kind}: this is an embedding model, and Podium reads rerankers")),
    }
}

fn rope_scaling(metadata: &Metadata<'_>) -> Result<Value, String> {
    let number = |key: &str| metadata.number(&metadata.own(key));
    let kind = metadata.text(&metadata.own("rope.scaling.type"))?;
    let factor = number("rope.scaling.factor")?;
    match (kind, factor) {
        (None | Some("none"), _) => Ok(Value::Null),
        (Some("linear"), Some(factor)) => Ok(json!({"rope_type": "linear", "factor": factor})),
        (Some("yarn"), Some(factor)) => Ok(json!({
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": number("rope.scaling.original_context_length")?,
        })),
        (Some("linear" | "yarn"), None) => Err(format!("has no {}", metadata.own("rope.scaling.factor"))),
        (Some(other), _) => {
            Err(format!("{} is `{other}`; none, linear and yarn are supported", metadata.own("rope.scaling.type")))
        }
    }
}

/// The scaling of Llama 3.1 and 3.2, which llama.cpp stores as the divisor of each frequency.
fn llama3_scaling(factors: &[f32], config: &Map<String, Value>) -> Result<Value, String> {
    const ORIGINAL: f64 = 8192.;
    const LOW: f64 = 1.;
    const HIGH: f64 = 4.;
    let number = |key: &str| config.get(key).and_then(Value::as_f64).unwrap_or_default();
    let (theta, dim) = (number("rope_theta"), number("head_dim"));
    let factor = factors.iter().copied().map(f64::from).fold(1., f64::max);
    let expected = |pair: usize| {
        let turns = ORIGINAL * theta.powf(-2. * pair as f64 / dim) / std::f64::consts::TAU;
        let kept = ((turns - LOW) / (HIGH - LOW)).clamp(0., 1.);
        ((1. - kept) / factor + kept).recip()
    };
    let fits = factors.iter().enumerate().all(|(pair, found)| (f64::from(*found) / expected(pair) - 1.).abs() < 1e-4);
    if !fits || (factors.len() as f64 - dim / 2.).abs() > 0. {
        return Err(
            "tensor `rope_freqs.weight` is not the scaling of Llama 3.1, which is the only one supported".to_owned()
        );
    }
    Ok(json!({
        "rope_type": "llama3", "factor": factor, "low_freq_factor": LOW, "high_freq_factor": HIGH,
        "original_max_position_embeddings": ORIGINAL,
    }))
}

/// BERT, and RoBERTa, whose positions the converter cut to those that are used. llama.cpp's
/// converter leaves out the pooler of a BERT cross-encoder, without which its classifier means
/// nothing.
fn bert(metadata: &Metadata<'_>, tensors: &HashMap<String, GgufTensor>) -> Result<Map<String, Value>, String> {
    let classes = rows(tensors, "classifier.weight");
    if classes.is_some() && !tensors.contains_key("pooler.dense.weight") {
        return Err(
            "has a classifier (`cls.output.weight`) and not the dense layer before it (`cls.weight`), so its scores \
                    would be wrong; use the folder that the file was made from"
                .to_owned(),
        );
    }
    let mut config = json!({
        "architectures": [if classes.is_some() { "BertForSequenceClassification" } else { "BertModel" }],
        "num_labels": classes.unwrap_or_default(),
        "hidden_size": needed(metadata, "embedding_length")?,
        "intermediate_size": needed(metadata, "feed_forward_length")?,
        "num_hidden_layers": needed(metadata, "block_count")?,
        "num_attention_heads": needed(metadata, "attention.head_count")?,
        "layer_norm_eps": metadata.number(&metadata.own("attention.layer_norm_epsilon"))?.unwrap_or(1e-12),
        "hidden_act": "gelu",
        "vocab_size": rows(tensors, "embeddings.word_embeddings.weight").ok_or("has no tensor token_embd.weight")?,
        "max_position_embeddings":
            rows(tensors, "embeddings.position_embeddings.weight").ok_or("has no tensor position_embd.weight")?,
        "type_vocab_size":
            rows(tensors, "embeddings.token_type_embeddings.weight").ok_or("has no tensor token_types.weight")?,
    });
    Ok(std::mem::take(config.as_object_mut().ok_or("is not an object")?))
}

/// The hub id of the original model, or the name that the file has for it.
fn model_name(metadata: &Metadata<'_>) -> Result<Option<String>, String> {
    let part = |key: &str| metadata.text(key);
    let organization = part("general.base_model.0.organization")?.or(part("general.organization")?);
    let name = part("general.base_model.0.name")?.or(part("general.name")?);
    Ok(match (part("general.base_model.0.repo_url")?, organization, name) {
        (Some(url), ..) => Some(url.trim_start_matches("https://huggingface.co/").to_owned()),
        (None, Some(organization), Some(name)) => Some(format!("{organization}/{name}").replace(' ', "-")),
        (None, _, name) => name.map(str::to_owned),
    })
}
