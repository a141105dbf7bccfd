//! Recognises the family of a checkpoint.

use serde_json::Value;

use super::declaration::{Family, Recognise};
use super::families::Families;
use super::pointwise::AnswerToken;
use crate::prompt::PromptError;
use crate::prompt::checkpoint::{Description, ModelKind, NamedOrigin, PodiumConfig};
use crate::prompt::tokenizer::Tokenizer;

/// The value of `model.family` that detects the family from the checkpoint.
pub const ANY_FAMILY: &str = "auto";

/// The facts of a checkpoint that decide its family.
#[derive(Clone, Copy)]
pub struct CheckpointFacts<'a> {
    /// Its hub id or folder, for messages only.
    pub name: &'a str,
    /// The first architecture of `config.json`.
    pub architecture: &'a str,
    /// `config.json`.
    pub config: &'a Value,
    /// Whether its tensors include a projector.
    pub projector: bool,
    /// The key `podium` of its `config.json`.
    pub podium: Option<&'a PodiumConfig>,
    /// The description in its other files.
    pub description: &'a Description,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Whether a family can be bound to it: it has the head, the control tokens and the answers.
    pub fits: &'a dyn Fn(&Family) -> bool,
}

/// A checkpoint's family, and what decided it.
#[derive(Debug, Clone, Copy)]
pub struct Recognised<'a> {
    /// The family.
    pub family: &'a Family,
    /// The rule that decided, for the log: `--family`, `the hub id`, ...
    pub by: &'static str,
}

/// A rule that decides a family, and whether it matches one.
type Rule<'a> = (&'static str, &'a dyn Fn(&Family) -> bool);

impl Families {
    /// Finds the family of a checkpoint: the family called `wanted`, unless that is `auto`; else
    /// the first of these that decides: the key `podium` of `config.json`; the architecture or the
    /// projector; sentence-transformers' files; a name of the checkpoint or of its origin in the
    /// order of [`Description::names`].
    ///
    /// # Errors
    /// [`PromptError::UnknownFamily`] for an unknown name; [`PromptError::WrongKind`] for an
    /// embedding model and its like; [`PromptError::NotRecognised`] when nothing decides.
    pub fn detect(&self, wanted: &str, checkpoint: &CheckpointFacts) -> Result<Recognised<'_>, PromptError> {
        let found = if wanted != ANY_FAMILY {
            Some(Recognised { family: self.named(wanted)?, by: "--family" })
        } else if let Some(podium) = checkpoint.podium {
            Some(Recognised { family: self.named(&podium.family)?, by: "config.json's podium.family" })
        } else {
            self.recognise(checkpoint)?
        };
        let kind = checkpoint.description.kind;
        match (found, kind) {
            (Some(found), Some(kind)) if !found.family.facts.recognise.kinds.contains(&kind) => {
                Err(wrong_kind(checkpoint, kind, Some(found.family)))
            }
            (Some(found), _) => Ok(found),
            (None, Some(kind)) if kind != ModelKind::CrossEncoder => Err(wrong_kind(checkpoint, kind, None)),
            (None, _) => Err(self.not_recognised(checkpoint, &[])),
        }
    }

    fn recognise(&self, checkpoint: &CheckpointFacts) -> Result<Option<Recognised<'_>>, PromptError> {
        let rules: [Rule; 5] = [
            ("the architecture", &|family| is_of_architecture(family, checkpoint)),
            ("the projector", &|family| {
                checkpoint.projector && family.facts.recognise.projector && has_windows(family, checkpoint.config)
            }),
            ("LogitScore's tokens", &|family| has_answers(family, checkpoint)),
            ("modules.json", &|family| has_modules(family, checkpoint.description)),
            ("sentence-transformers' description", &|family| {
                let late = ModelKind::LateInteraction;
                checkpoint.description.kind == Some(late) && family.facts.recognise.kinds.contains(&late)
            }),
        ];
        for (by, rule) in rules {
            let fitting: Vec<&Family> = self.iter().filter(|family| rule(family)).collect();
            match fitting.as_slice() {
                [] => {}
                [family] => return Ok(Some(Recognised { family, by })),
                several => {
                    let named = by_name(several, checkpoint.description);
                    return named.map(Some).ok_or_else(|| self.not_recognised(checkpoint, several));
                }
            }
        }
        let all: Vec<&Family> = self.iter().collect();
        Ok(by_name(&all, checkpoint.description))
    }

    /// The refusal of a checkpoint that fits `several` families equally well, or that none of them
    /// knows.
    fn not_recognised(&self, checkpoint: &CheckpointFacts, several: &[&Family]) -> PromptError {
        let mut problem = if several.is_empty() {
            let architecture = checkpoint.architecture;
            format!("its architecture ({architecture}) does not decide, and no family knows it by name")
        } else {
            format!("its architecture ({}) fits several, and no name decides", checkpoint.architecture)
        };
        let names = checkpoint.description.names_listed();
        if !names.is_empty() {
            problem = format!("{problem} ({names})");
        }
        let fits = |family: &&Family| (checkpoint.fits)(family);
        let fitting: Vec<String> = if several.is_empty() {
            self.iter().filter(fits).map(|family| family.name().to_owned()).collect()
        } else {
            several.iter().map(|family| family.name().to_owned()).collect()
        };
        PromptError::NotRecognised { checkpoint: checkpoint.name.to_owned(), problem, fitting }
    }
}

fn wrong_kind(checkpoint: &CheckpointFacts, kind: ModelKind, family: Option<&Family>) -> PromptError {
    PromptError::WrongKind {
        checkpoint: checkpoint.name.to_owned(),
        kind: kind.with_article(),
        file: checkpoint.description.kind_file,
        modules: checkpoint.description.modules.join(", "),
        family: family.map(|family| family.name().to_owned()),
    }
}

fn is_of_architecture(family: &Family, checkpoint: &CheckpointFacts) -> bool {
    let known = &family.facts.recognise.architectures;
    known.iter().any(|known| known == checkpoint.architecture) && has_windows(family, checkpoint.config)
}

/// Whether the layers of a configuration have a sliding window or not, as the family declares.
fn has_windows(family: &Family, config: &Value) -> bool {
    let sliding = Value::from("sliding_attention");
    let has = match config["layer_types"].as_array() {
        Some(types) => types.contains(&sliding),
        None => config["use_sliding_window"] == true,
    };
    family.facts.recognise.sliding_window.is_none_or(|wanted| wanted == has)
}

fn has_modules(family: &Family, description: &Description) -> bool {
    let wanted = &family.facts.recognise.modules;
    description.kind == Some(ModelKind::CrossEncoder)
        && !wanted.is_empty()
        && wanted.iter().all(|module| description.modules.contains(module))
}

/// Whether a family's answers are those of the checkpoint's `LogitScore`, and its control tokens
/// exist.
fn has_answers(family: &Family, checkpoint: &CheckpointFacts) -> bool {
    let (Some((positive, negative)), Some(pointwise)) = (checkpoint.description.answers, &family.facts.pointwise)
    else {
        return false;
    };
    let id = |answer: &AnswerToken| match answer {
        AnswerToken::Text(text) => checkpoint.tokenizer.single_token(text),
        AnswerToken::Id(id) => Some(*id),
    };
    let Some(readout) = &pointwise.readout else { return false };
    let is_asked_for_only = family.facts.recognise == Recognise::default();
    !is_asked_for_only
        && id(&readout.positive) == Some(positive)
        && readout.negative.as_ref().and_then(id) == negative
        && (checkpoint.fits)(family)
}

/// The family that the first of the names decides, which any of the families knows.
fn by_name<'a>(families: &[&'a Family], description: &Description) -> Option<Recognised<'a>> {
    description.names.iter().find_map(|NamedOrigin { place, name }| {
        let lowered = name.to_lowercase();
        let longest = |family: &Family| {
            let Recognise { names, not_names, .. } = &family.facts.recognise;
            let matches =
                |names: &[String]| names.iter().filter(|known| lowered.contains(known.as_str())).map(String::len).max();
            matches(names).filter(|_| matches(not_names).is_none())
        };
        let known = families.iter().filter_map(|family| Some((longest(family)?, *family)));
        known.max_by_key(|(length, _)| *length).map(|(_, family)| Recognised { family, by: place })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::prompt::testing;

    /// The family of a checkpoint, or the error.
    fn detect_as(wanted: &str, config: &Value, projector: bool, description: &Description) -> String {
        let podium = PodiumConfig::from_config(config, "config.json").unwrap();
        let checkpoint = CheckpointFacts {
            name: "/models/model",
            architecture: config["architectures"][0].as_str().unwrap(),
            config,
            projector,
            podium: podium.as_ref(),
            description,
            tokenizer: &testing::tokenizer(),
            fits: &|family| family.facts.pointwise.is_some(),
        };
        match Families::built_in().unwrap().detect(wanted, &checkpoint) {
            Ok(found) => format!("{} by {}", found.family.name(), found.by),
            Err(error) => error.to_string(),
        }
    }

    fn named(place: &'static str, name: &str) -> Description {
        Description { names: vec![NamedOrigin { place, name: name.to_owned() }], ..Description::default() }
    }

    fn detect(architecture: &str, description: &Description) -> String {
        detect_as("auto", &json!({"architectures": [architecture]}), false, description)
    }

    #[test]
    fn an_architecture_or_a_projector_decides_without_a_name() {
        let nothing = Description::default();
        let sliding = json!(["sliding_attention", "full_attention"]);
        for (config, projector, family) in [
            (json!({"architectures": ["JinaForRanking"]}), true, "jina-v3 by the architecture"),
            (
                json!({"architectures": ["JinaForRanking"], "layer_types": sliding}),
                true,
                "jina-v3.5 by the architecture",
            ),
            (json!({"architectures": ["Qwen3Model"]}), true, "jina-v3 by the projector"),
            (
                json!({"architectures": ["Qwen3Model"], "podium": {"family": "podium-nano"}}),
                true,
                "podium-nano by config.json's podium.family",
            ),
        ] {
            assert_eq!(detect_as("auto", &config, projector, &nothing), family, "{config}");
        }
    }

    #[test]
    fn a_name_in_the_checkpoint_decides_where_the_architecture_does_not() {
        for (name, architecture, family) in [
            ("Qwen/Qwen3-Reranker-0.6B", "Qwen3ForCausalLM", "qwen3-reranker"),
            ("tencent/R3-rerank-0.6b", "Qwen3ForCausalLM", "qwen3-reranker"),
            ("ContextualAI/ctxl-rerank-v2-instruct-multilingual-6b", "MistralForCausalLM", "contextual"),
            ("mixedbread-ai/mxbai-rerank-large-v2", "Qwen2ForCausalLM", "mxbai-v2"),
            ("zeroentropy/zerank-1-small", "Qwen3ForCausalLM", "zerank"),
            ("BAAI/bge-reranker-v2-gemma", "GemmaForCausalLM", "bge-gemma"),
        ] {
            assert_eq!(detect(architecture, &named("the hub id", name)), format!("{family} by the hub id"), "{name}");
        }
        let longest = named("the hub id", "someone/jina-reranker-v3.5-copy");
        assert_eq!(detect("Qwen3Model", &longest), "jina-v3.5 by the hub id");
        let mut several = named("the hub id", "me/mine");
        several.names.extend(named("the model card's base_model", "Qwen/Qwen3-Reranker-4B").names);
        assert_eq!(detect("Qwen3ForCausalLM", &several), "qwen3-reranker by the model card's base_model");
    }

    #[test]
    fn a_logit_score_decides_by_its_tokens() {
        let tokenizer = testing::tokenizer();
        let detect_named = |positive: &str, negative: Option<&str>, names: Description| {
            let id = |text: &str| tokenizer.single_token(text).unwrap();
            let answers = Some((id(positive), negative.map(id)));
            detect("Qwen3ForCausalLM", &Description { kind: Some(ModelKind::CrossEncoder), answers, ..names })
        };
        let detect = |positive: &str, negative| detect_named(positive, negative, Description::default());
        assert_eq!(detect("yes", Some("no")), "qwen3-reranker by LogitScore's tokens");
        // bge-gemma has this answer too, and this tokenizer has its `<bos>`.
        assert!(detect("Yes", None).contains("fits several, and no name decides"), "{}", detect("Yes", None));
        for (name, family) in [("zeroentropy/zerank-2", "zerank"), ("BAAI/bge-reranker-v2-gemma", "bge-gemma")] {
            let found = detect_named("Yes", None, named("the hub id", name));
            assert_eq!(found, format!("{family} by the hub id"));
        }
        assert_eq!(detect("1", Some("0")), "mxbai-v2 by LogitScore's tokens");
        assert!(detect("0", Some("1")).starts_with("cannot tell"));
    }

    #[test]
    fn a_configured_name_wins() {
        let qwen = json!({"architectures": ["Qwen3ForCausalLM"]});
        let name = named("the hub id", "Qwen/Qwen3-Reranker-0.6B");
        assert_eq!(detect_as("zerank", &qwen, false, &name), "zerank by --family");
        assert!(detect_as("bert", &qwen, false, &name).starts_with("there is no family `bert`"));
    }

    #[test]
    fn a_checkpoint_that_says_nothing_is_refused_with_the_families_that_fit() {
        let text = detect("Qwen3ForCausalLM", &Description::default());
        let start = "cannot tell which family `/models/model` is of: its architecture (Qwen3ForCausalLM) does not \
                     decide, and no family knows it by name; these families fit it: ";
        assert!(text.starts_with(start), "{text}");
        assert!(text.contains("qwen3-reranker, ") && text.contains("first") && !text.contains("jina-v3"), "{text}");
        assert!(
            text.ends_with("; give the right one with --family, because a wrong one ranks wrongly without an error")
        );
        let chat = detect("Qwen3ForCausalLM", &named("the hub id", "Qwen/Qwen3-4B"));
        assert!(chat.contains("(the hub id is `Qwen/Qwen3-4B`)"), "{chat}");
    }

    #[test]
    fn an_embedding_model_is_refused_whatever_its_name_says() {
        let embedding = Description {
            kind: Some(ModelKind::Embedding),
            kind_file: "modules.json",
            modules: vec!["Transformer".to_owned(), "Pooling".to_owned()],
            ..named("the hub id", "me/qwen3-reranker-embedding")
        };
        assert_eq!(
            detect("Qwen3ForCausalLM", &embedding),
            "`/models/model` is an embedding model, which makes one vector of a text (modules.json: Transformer, \
             Pooling); family `qwen3-reranker` does not read it; give a reranker instead"
        );
        let anonymous = Description { names: Vec::new(), ..embedding };
        assert!(
            detect("Qwen3ForCausalLM", &anonymous).ends_with("Pooling); no family reads it; give a reranker instead")
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
