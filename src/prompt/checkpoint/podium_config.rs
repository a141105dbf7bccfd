//! The key `podium` of a checkpoint's `config.json`.

use serde::Deserialize;
use serde_json::Value;

use crate::prompt::PromptError;

/// The key `podium` of a checkpoint's `config.json`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct PodiumConfig {
    /// The prompt family.
    pub family: String,
    /// In how many of the last layers marks see each other.
    #[serde(default)]
    pub joint_layers: usize,
    /// Turns a raw score into a relevance.
    pub calibration: Option<Calibration>,
}

/// relevance = sigmoid(scale * raw + bias)
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Scale of the raw score.
    pub scale: f32,
    /// Added to the scaled score.
    pub bias: f32,
}

impl PodiumConfig {
    /// Reads the key `podium` of a `config.json`; `None` where it has no such key.
    ///
    /// # Errors
    /// [`PromptError::Declaration`] with `file`, when the key is malformed.
    pub fn from_config(config: &Value, file: &str) -> Result<Option<Self>, PromptError> {
        config
            .get("podium")
            .map(|podium| {
                Self::deserialize(podium).map_err(|error| PromptError::Declaration {
                    file: file.to_owned(),
                    problem: format!("podium: {error}"),
                })
            })
            .transpose()
    }
}
