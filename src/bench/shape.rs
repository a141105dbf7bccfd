//! The sizes of a model, named as in `config.json`.

use serde::{Deserialize, Serialize};

/// The sizes of a decoder or encoder. Field names are those of `config.json`, except the last two.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// `qwen2` or `qwen3`.
    pub model_type: String,
    /// Width of a hidden state.
    pub hidden_size: usize,
    /// Width inside the gated MLP.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Rows of the embedding matrix.
    pub vocab_size: usize,
    /// Maximum number of positions.
    pub max_position_embeddings: usize,
    /// Epsilon of RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary position embedding.
    pub rope_theta: f64,
    /// Whether the output layer shares the embedding matrix.
    pub tie_word_embeddings: bool,
    /// Whether tokens see those after them: an encoder.
    #[serde(default, skip_serializing)]
    pub bidirectional: bool,
    /// Whether the MLP has two matrices rather than the three of a gated one: BERT and RoBERTa.
    #[serde(default, skip_serializing)]
    pub plain_mlp: bool,
}

/// Names of the known shapes.
pub const NAMES: [&str; 5] = ["nano", "qwen2.5-0.5b", "qwen3-0.6b", "qwen3-4b", "qwen3-8b"];

impl Shape {
    /// The published shape with this name, one of [`NAMES`].
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let qwen3 =
            |hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, tie_word_embeddings| Self {
                model_type: "qwen3".to_owned(),
                hidden_size,
                intermediate_size,
                num_hidden_layers,
                num_attention_heads,
                num_key_value_heads: 8,
                head_dim: 128,
                vocab_size: 151_936,
                max_position_embeddings: 40_960,
                rms_norm_eps: 1e-6,
                rope_theta: 1e6,
                tie_word_embeddings,
                bidirectional: false,
                plain_mlp: false,
            };
        Some(match name {
            "nano" => Self { num_key_value_heads: 4, head_dim: 64, vocab_size: 32_000, ..qwen3(256, 640, 4, 8, true) }
                .with_positions(2_048),
            "qwen2.5-0.5b" => Self {
                model_type: "qwen2".to_owned(),
                num_key_value_heads: 2,
                head_dim: 64,
                ..qwen3(896, 4_864, 24, 14, true)
            }
            .with_positions(32_768),
            "qwen3-0.6b" => qwen3(1_024, 3_072, 28, 16, true),
            "qwen3-4b" => qwen3(2_560, 9_728, 36, 32, true),
            "qwen3-8b" => qwen3(4_096, 12_288, 36, 32, false),
            _ => return None,
        })
    }

    /// Parses the shape from a `config.json`.
    ///
    /// # Errors
    /// If a field is missing or has the wrong type.
    pub fn from_config(config: &[u8]) -> Result<Self, serde_json::Error> {
        let mut config: serde_json::Value = serde_json::from_slice(config)?;
        let heads = config["num_attention_heads"].as_u64().unwrap_or_default().max(1);
        let head_dim = config["hidden_size"].as_u64().unwrap_or_default() / heads;
        let rope_theta = config["rope_parameters"]["rope_theta"].as_f64().unwrap_or(10_000.0);
        let architecture = config["architectures"][0].as_str().unwrap_or_default().to_lowercase();
        let plain_mlp = ["bert", "roberta", "xlmroberta"].iter().any(|name| architecture.starts_with(name));
        let bidirectional =
            plain_mlp || ["modernbert", "llamabidirectional"].iter().any(|name| architecture.starts_with(name));
        // Optional keys with their defaults, and what the architecture says.
        for (key, value) in [
            ("model_type", serde_json::json!(if architecture.starts_with("qwen2") { "qwen2" } else { "qwen3" })),
            ("num_key_value_heads", heads.into()),
            ("head_dim", head_dim.into()),
            ("rope_theta", rope_theta.into()),
            ("tie_word_embeddings", false.into()),
            ("rms_norm_eps", 1e-6.into()),
            ("bidirectional", bidirectional.into()),
            ("plain_mlp", plain_mlp.into()),
        ] {
            if config[key].is_null() {
                config[key] = value;
            }
        }
        serde_json::from_value(config)
    }

    /// The same shape with another maximum number of positions.
    #[must_use]
    pub fn with_positions(self, max_position_embeddings: usize) -> Self {
        Self { max_position_embeddings, ..self }
    }

    /// Total width of the query heads.
    #[must_use]
    pub const fn query_width(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Total width of the key heads, and of the value heads.
    #[must_use]
    pub const fn key_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Checkpoint;

    #[test]
    fn every_name_has_a_shape_and_nano_matches_the_embedded_model() {
        for name in NAMES {
            let shape = Shape::named(name).unwrap();
            assert_eq!(shape.num_attention_heads % shape.num_key_value_heads, 0, "{name}");
        }
        assert_eq!(Shape::named("gpt"), None);
        let embedded = Shape::from_config(&Checkpoint::podium_nano().config).unwrap();
        assert_eq!(Shape { rope_theta: 1e6, ..embedded }, Shape::named("nano").unwrap());
    }

    #[test]
    fn missing_configuration_keys_get_their_defaults() {
        let shape = Shape::from_config(
            br#"{"architectures": ["Qwen2ForCausalLM"], "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
                "num_attention_heads": 4, "vocab_size": 100, "max_position_embeddings": 512, "rms_norm_eps": 1e-6}"#,
        )
        .unwrap();
        assert_eq!((shape.model_type.as_str(), shape.head_dim, shape.num_key_value_heads), ("qwen2", 16, 4));
        assert!(Shape::from_config(b"{}").is_err());
    }
}
