//! A decoder's shape, read from a checkpoint's `config.json`.

use std::path::Path;

use mistralrs::core::layers::Activation;
use serde::Deserialize;

use crate::runtime::LoadError;

/// Architectures with code here, by the configuration's `model_type`.
const SUPPORTED: &[&str] = &["qwen2", "qwen3"];

/// `config.json` as Hugging Face writes it; old and new ways of naming the rotary base.
#[derive(Deserialize)]
struct RawConfig {
    #[serde(default)]
    architectures: Vec<String>,
    model_type: Option<String>,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_parameters: Option<RopeParameters>,
    rope_scaling: Option<RopeParameters>,
    #[serde(default)]
    tie_word_embeddings: bool,
    attention_bias: Option<bool>,
    hidden_act: Option<Activation>,
    #[serde(default)]
    use_sliding_window: bool,
    #[serde(default)]
    layer_types: Vec<String>,
}

#[derive(Deserialize)]
struct RopeParameters {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
}

/// The shape of a Qwen2 or Qwen3 decoder.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, named as the architectures name them")]
pub(super) struct DecoderConfig {
    /// The checkpoint's own name for its class, e.g. `Qwen3ForCausalLM`.
    pub architecture: String,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocabulary: usize,
    pub max_positions: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    /// The output matrix is the embedding matrix.
    pub tied: bool,
    /// Biases of the query, key and value projections.
    pub qkv_bias: bool,
    /// Bias of the output projection.
    pub output_bias: bool,
    /// Queries and keys are normalised per head (Qwen3).
    pub qk_norm: bool,
    pub activation: Activation,
}

impl DecoderConfig {
    /// Parses `json`, which came from `path`.
    pub fn parse(json: &[u8], path: &Path) -> Result<Self, LoadError> {
        let malformed = |problem: String| LoadError::Malformed { path: path.to_path_buf(), problem };
        let untyped: serde_json::Value =
            serde_json::from_slice(json).map_err(|error| malformed(format!("is not JSON: {error}")))?;
        let architecture = untyped["architectures"][0].as_str().or(untyped["model_type"].as_str()).unwrap_or("(none)");
        let model_type = untyped["model_type"].as_str().map_or_else(|| family_of(architecture), str::to_owned);
        if !SUPPORTED.contains(&model_type.as_str()) {
            return Err(LoadError::UnknownArchitecture {
                path: path.to_path_buf(),
                architecture: architecture.to_owned(),
                supported: SUPPORTED,
            });
        }
        let raw: RawConfig = serde_json::from_slice(json).map_err(|error| malformed(error.to_string()))?;
        raw.check().map_err(malformed)?;
        Ok(raw.into_decoder(&model_type))
    }
}

/// `qwen3` of `Qwen3ForCausalLM`, for configurations without a `model_type`.
fn family_of(architecture: &str) -> String {
    architecture.split("For").next().unwrap_or_default().trim_end_matches("Model").to_lowercase()
}

/// What no model comes near. Lists and tables are made as long as the configuration says before the weights can prove it
/// wrong.
const MOST_ROWS: usize = 1 << 24;
const MOST_LAYERS: usize = 4096;
const MOST_POSITIONS: usize = 1 << 22;

impl RawConfig {
    /// What would be computed wrongly is refused instead.
    fn check(&self) -> Result<(), String> {
        let heads = self.num_attention_heads;
        let kv_heads = self.num_key_value_heads.unwrap_or(heads);
        for (name, value, most) in [
            ("hidden_size", self.hidden_size, MOST_ROWS),
            ("intermediate_size", self.intermediate_size, MOST_ROWS),
            ("num_hidden_layers", self.num_hidden_layers, MOST_LAYERS),
            ("num_attention_heads", heads, MOST_ROWS),
            ("num_key_value_heads", kv_heads, MOST_ROWS),
            ("head_dim", self.head_dim.unwrap_or(1), MOST_ROWS),
            ("vocab_size", self.vocab_size, MOST_ROWS),
            ("max_position_embeddings", self.max_position_embeddings, MOST_POSITIONS),
        ] {
            if value == 0 {
                return Err(format!("{name} is 0"));
            }
            if value > most {
                return Err(format!("{name} is {value}, over {most}"));
            }
        }
        if !heads.is_multiple_of(kv_heads) {
            return Err(format!("num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"));
        }
        let head_dim = self.head_dim.unwrap_or(self.hidden_size / heads);
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            return Err(format!("head_dim {head_dim} is not a positive even number"));
        }
        for rope in [&self.rope_parameters, &self.rope_scaling].into_iter().flatten() {
            if let Some(kind) = rope.rope_type.as_deref().filter(|&kind| kind != "default") {
                return Err(format!("rotary embedding of type `{kind}` is not supported"));
            }
        }
        if self.use_sliding_window || self.layer_types.iter().any(|kind| kind != "full_attention") {
            return Err("sliding-window attention is not supported".to_owned());
        }
        Ok(())
    }

    fn into_decoder(self, model_type: &str) -> DecoderConfig {
        let qwen2 = model_type == "qwen2";
        let of_parameters = self.rope_parameters.as_ref().and_then(|rope| rope.rope_theta);
        let attention_bias = self.attention_bias.unwrap_or(qwen2);
        DecoderConfig {
            architecture: self.architectures.first().cloned().or(self.model_type).unwrap_or_default(),
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            kv_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            head_dim: self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads),
            vocabulary: self.vocab_size,
            max_positions: self.max_position_embeddings,
            rms_norm_eps: self.rms_norm_eps,
            rope_theta: self.rope_theta.or(of_parameters).unwrap_or(10_000.),
            tied: self.tie_word_embeddings,
            qkv_bias: attention_bias,
            output_bias: attention_bias && !qwen2,
            qk_norm: !qwen2,
            activation: self.hidden_act.unwrap_or(Activation::Silu),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(change: impl Fn(&mut serde_json::Value)) -> Result<DecoderConfig, String> {
        let mut json = serde_json::json!({
            "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
            "vocab_size": 100, "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
            "tie_word_embeddings": true, "rope_scaling": null, "hidden_act": "silu", "sliding_window": null
        });
        change(&mut json);
        DecoderConfig::parse(json.to_string().as_bytes(), Path::new("config.json")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_rotary_base_is_found_in_old_and_new_configurations() {
        assert!((parse(|_| ()).unwrap().rope_theta - 1e6).abs() < 1e-9);
        let new = parse(|json| {
            json["rope_theta"].take();
            json["rope_parameters"] = serde_json::json!({"rope_type": "default", "rope_theta": 5e5});
        });
        assert!((new.unwrap().rope_theta - 5e5).abs() < 1e-9);
    }

    #[test]
    fn a_size_that_no_model_has_is_refused_before_anything_is_as_long() {
        for (name, most) in [
            ("num_hidden_layers", MOST_LAYERS),
            ("max_position_embeddings", MOST_POSITIONS),
            ("vocab_size", MOST_ROWS),
            ("head_dim", MOST_ROWS),
        ] {
            let problem = parse(|config| config[name] = (most + 1).into()).unwrap_err();
            assert!(problem.ends_with(&format!("{name} is {}, over {most}", most + 1)), "{problem}");
        }
    }

    #[test]
    fn qwen2_has_biases_and_qwen3_has_norms() {
        let qwen3 = parse(|_| ()).unwrap();
        assert!((!qwen3.qkv_bias && qwen3.qk_norm) && qwen3.head_dim == 16);
        let qwen2 = parse(|json| {
            json["model_type"] = "qwen2".into();
            json.as_object_mut().unwrap().remove("head_dim");
        });
        let qwen2 = qwen2.unwrap();
        assert!((qwen2.qkv_bias && !qwen2.output_bias && !qwen2.qk_norm) && qwen2.head_dim == 8);
    }

    #[test]
    fn what_would_be_computed_wrongly_is_refused() {
        let refused = |change: fn(&mut serde_json::Value)| parse(change).unwrap_err();
        assert!(refused(|json| json["model_type"] = "llama".into()).contains("supported: qwen2, qwen3"));
        assert!(refused(|json| json["use_sliding_window"] = true.into()).contains("sliding-window"));
        assert!(refused(|json| json["rope_scaling"] = serde_json::json!({"type": "yarn"})).contains("`yarn`"));
        assert!(refused(|json| json["num_key_value_heads"] = 3.into()).contains("multiple"));
        assert!(refused(|json| json["hidden_size"] = "wide".into()).contains("invalid type"));
    }
}
