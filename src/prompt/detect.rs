//! Recognises the family of a checkpoint.

use serde::Deserialize;

use super::PromptError;
use super::families::Families;
use super::family::Family;

/// The value of `model.family` that detects the family from the checkpoint.
pub const ANY_FAMILY: &str = "auto";

/// The facts of a checkpoint that decide its family.
#[derive(Debug, Clone, Copy)]
pub struct CheckpointFacts<'a> {
    /// Its hub id or folder.
    pub name: &'a str,
    /// The first architecture of `config.json`.
    pub architecture: &'a str,
    /// Whether its tensors include a projector.
    pub projector: bool,
    /// The key `podium` of its `config.json`.
    pub podium: Option<&'a PodiumConfig>,
}

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
    pub fn from_config(config: &serde_json::Value, file: &str) -> Result<Option<Self>, PromptError> {
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

impl Families {
    /// Finds the family of a checkpoint: the family called `wanted`, unless that is `auto`; else
    /// the one that the checkpoint names; else the one that declares its architecture, its name or
    /// its projector, in this order; else the fallback for its architecture.
    ///
    /// # Errors
    /// [`PromptError::UnknownFamily`] for an unknown name; [`PromptError::NotRecognised`] when no
    /// family fits, or several equally well.
    pub fn detect(&self, wanted: &str, checkpoint: &CheckpointFacts) -> Result<&Family, PromptError> {
        if wanted != ANY_FAMILY {
            return self.named(wanted);
        }
        if let Some(podium) = checkpoint.podium {
            return self.named(&podium.family);
        }
        let lowered = checkpoint.name.to_lowercase();
        let name_has = |names: &[String]| names.iter().any(|name| lowered.contains(name.as_str()));
        let architecture =
            |family: &Family| family.facts.recognise.architectures.iter().any(|known| known == checkpoint.architecture);
        let rules: [&dyn Fn(&Family) -> bool; 4] = [
            &|family| !family.facts.recognise.fallback && architecture(family),
            &|family| name_has(&family.facts.recognise.names),
            &|family| checkpoint.projector && family.facts.recognise.projector,
            &|family| family.facts.recognise.fallback && architecture(family),
        ];
        for rule in rules {
            let is_excluded = |family: &Family| name_has(&family.facts.recognise.not_names);
            let fits: Vec<&Family> = self.iter().filter(|family| rule(family) && !is_excluded(family)).collect();
            match fits.as_slice() {
                [] => {}
                [family] => return Ok(family),
                several => {
                    let names: Vec<&str> = several.iter().map(|family| family.name()).collect();
                    return Err(self.not_recognised(checkpoint, format!("it fits {}", names.join(" and "))));
                }
            }
        }
        let problem = format!("no family knows architecture `{}` or this name", checkpoint.architecture);
        Err(self.not_recognised(checkpoint, problem))
    }

    fn not_recognised(&self, checkpoint: &CheckpointFacts, problem: String) -> PromptError {
        PromptError::NotRecognised { checkpoint: checkpoint.name.to_owned(), problem, available: self.names() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(wanted: &str, name: &str, architecture: &str, projector: bool, podium: Option<&str>) -> String {
        let podium = podium.map(|family| PodiumConfig { family: family.into(), joint_layers: 1, calibration: None });
        let checkpoint = CheckpointFacts { name, architecture, projector, podium: podium.as_ref() };
        match Families::built_in().unwrap().detect(wanted, &checkpoint) {
            Ok(family) => family.name().to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn checkpoints_are_recognised() {
        for (name, architecture, projector, podium, family) in [
            ("jinaai/jina-reranker-v3", "JinaForRanking", true, None, "jina-v3"),
            ("/models/somewhere", "JinaForRanking", true, None, "jina-v3"),
            ("jinaai/jina-reranker-v3.5", "JinaForRanking", true, None, "jina-v3.5"),
            ("tencent/R3-rerank-0.6b", "Qwen3ForCausalLM", false, None, "qwen3-reranker"),
            ("ContextualAI/ctxl-rerank-v2-instruct-multilingual-6b", "MistralForCausalLM", false, None, "contextual"),
            ("/models/somewhere", "Qwen3Model", true, None, "jina-v3"),
            ("models/podium-nano", "Qwen3Model", true, Some("podium-nano"), "podium-nano"),
            ("Qwen/Qwen3-Reranker-0.6B", "Qwen3ForCausalLM", false, None, "qwen3-reranker"),
            ("mixedbread-ai/mxbai-rerank-large-v2", "Qwen2ForCausalLM", false, None, "mxbai-v2"),
            ("zeroentropy/zerank-1-small", "Qwen3ForCausalLM", false, None, "zerank"),
            ("Qwen/Qwen3-4B", "Qwen3ForCausalLM", false, None, "first"),
            ("Qwen/Qwen2.5-7B-Instruct", "Qwen2ForCausalLM", false, None, "first"),
        ] {
            assert_eq!(detect("auto", name, architecture, projector, podium), family, "{name}");
        }
    }

    #[test]
    fn a_configured_name_wins() {
        assert_eq!(detect("zerank", "Qwen/Qwen3-Reranker-0.6B", "Qwen3ForCausalLM", false, None), "zerank");
        assert!(detect("bert", "x", "Qwen3ForCausalLM", false, None).starts_with("there is no family `bert`"));
    }

    #[test]
    fn a_checkpoint_that_fits_no_family_is_refused_with_the_choices() {
        let unknown = detect("auto", "BAAI/bge-m3", "XLMRobertaModel", false, None);
        assert!(
            unknown.contains("`BAAI/bge-m3`") && unknown.contains("set one with --family: podium-nano"),
            "{unknown}"
        );
    }

    #[test]
    fn the_podium_key_is_read() {
        let config = serde_json::json!({"podium": {"family": "podium-nano", "joint_layers": 1,
            "calibration": {"scale": 8.0, "bias": -3.0}}});
        let podium = PodiumConfig::from_config(&config, "config.json").unwrap().unwrap();
        assert_eq!((podium.joint_layers, podium.calibration.unwrap().bias), (1, -3.0));
        assert_eq!(PodiumConfig::from_config(&serde_json::json!({}), "config.json").unwrap(), None);
        let broken = serde_json::json!({"podium": {"family": 3}});
        assert!(
            PodiumConfig::from_config(&broken, "x/config.json").unwrap_err().to_string().starts_with("x/config.json")
        );
    }
}
