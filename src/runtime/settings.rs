//! Which model is loaded, and how.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The model (`[model]` in the configuration).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// `podium-nano` (embedded), a local folder, or a hub id such as `Qwen/Qwen3-Reranker-0.6B`.
    pub source: String,
    /// More names for the model, separated by commas.
    pub served_names: String,
    /// Branch, tag or commit on the hub.
    pub revision: String,
    /// The prompt family; `auto` finds it from the checkpoint.
    pub family: String,
    /// `auto` (in a build for GPUs the GPU, if there is one; else the CPU), `cpu`, `cuda` or `metal`.
    pub device: String,
    /// In which numbers the model computes: `auto`, `f32` or `bf16`.
    pub dtype: String,
    /// What weights are quantised to when they are loaded, or `none`.
    pub quantize: String,
    /// Bytes of keys and values that are kept of what passes begin with; 0 keeps nothing.
    pub prefix_cache_bytes: u64,
    /// Where hub files are kept; empty is the hub's own default (`HF_HOME`).
    pub cache: PathBuf,
    /// Never ask the hub: only what the cache has.
    pub offline: bool,
}

impl ModelSettings {
    /// What `quantize` may be.
    pub const QUANTISED: &[&str] =
        &["none", "int8", "q8_0", "q6k", "q5k", "q4k", "q3k", "q2k", "q5_0", "q4_0", "fp8", "hqq8", "hqq4"];

    /// [`ModelSettings::served_names`], one by one.
    pub fn served(&self) -> impl Iterator<Item = &str> {
        self.served_names.split(',').map(str::trim).filter(|name| !name.is_empty())
    }
}
