//! Settings of one model: where it comes from and how it runs.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The environment variable that limits the CPU kernels' vector instructions, for tests and
/// measurements.
pub const CPU_INSTRUCTIONS_VARIABLE: &str = "PODIUM_CPU_INSTRUCTIONS";
/// Its values: no limit, no more than AVX2 (x86-64), no more than NEON without dot products (ARM),
/// no vector instructions.
pub const CPU_INSTRUCTIONS: [&str; 4] = ["all", "avx2", "neon", "plain"];

/// The model (`[model]` in the configuration).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// `podium-mini` or `podium-nano` (embedded), a local folder, or a hub id such as
    /// `Qwen/Qwen3-Reranker-0.6B`.
    pub source: String,
    /// More names for the model, separated by commas.
    pub served_names: String,
    /// Branch, tag or commit on the hub.
    pub revision: String,
    /// The prompt family; `auto` finds it from the checkpoint.
    pub family: String,
    /// `auto` (in a build for GPUs the first GPU, if there is one; else the CPU), `cpu`, `cuda`
    /// (the first GPU), `cuda:N` (GPU number N, from 0) or `metal`.
    pub device: String,
    /// The type that the model computes in: `auto`, `f32` or `bf16`.
    pub dtype: String,
    /// The form that weights are quantised to when they are loaded, or `none`.
    pub quantize: String,
    /// Whether documents leave the model early, where the family declares an exit.
    pub early_exit: bool,
    /// The layer that documents are scored after, of a checkpoint with a head for each layer; 0 is
    /// the last.
    pub cutoff_layer: u16,
    /// Most bytes of the prefix cache; 0 disables it.
    pub prefix_cache_bytes: u64,
    /// Folder of the hub's cache; empty is the hub's own default (`HF_HOME`).
    pub cache: PathBuf,
    /// Never contact the hub: use the cache only.
    pub offline: bool,
}

impl ModelSettings {
    /// The values of `quantize`.
    pub const QUANTISED: &[&str] =
        &["none", "int8", "q8_0", "q6k", "q5k", "q4k", "q3k", "q2k", "q5_0", "q4_0", "fp8", "hqq8", "hqq4"];

    /// Whether `name` is the name of a device.
    #[must_use]
    pub fn is_device(name: &str) -> bool {
        matches!(name, "auto" | "cpu" | "cuda" | "metal") || Self::gpu_number(name).is_some()
    }

    /// N of the device `cuda:N`.
    #[must_use]
    pub fn gpu_number(name: &str) -> Option<usize> {
        name.strip_prefix("cuda:").filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
    }

    /// [`ModelSettings::served_names`], one by one.
    pub fn served(&self) -> impl Iterator<Item = &str> {
        self.served_names.split(',').map(str::trim).filter(|name| !name.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_may_have_a_number() {
        assert_eq!(["cuda:0", "cuda:12"].map(ModelSettings::gpu_number), [Some(0), Some(12)]);
        for name in ["cuda:", "cuda:+1", "cuda:-1", "cuda:x", "cuda1", "metal:1"] {
            assert!(!ModelSettings::is_device(name), "{name}");
        }
        assert!(["auto", "cpu", "cuda", "cuda:3", "metal"].into_iter().all(ModelSettings::is_device));
    }
}
