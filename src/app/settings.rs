//! Resolves what the settings name: the policy with its instructions, the prompt families, and the
//! prompter of a checkpoint.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use serde::Deserialize;

use super::model_names::check_model_names;
use crate::config::{ConfigError, Settings};
use crate::evidence::{EvidenceConfig, EvidenceModel};
use crate::pipeline::{InstructionSettings, Policy, ProfileError, load_instructions};
use crate::prompt::{
    ANY_FAMILY, Answers, BiEncoderReadout, Calibration, ChatFormat, CheckpointFacts, ClassifierReadout,
    ColbertSettings, Description, Families, Family, LexicalTable, ModelLimits, PodiumConfig, PromptError,
    PromptSettings, Prompter, Recognised, SlateScore, Tokenizer, classifier_calibration,
};
use crate::rerank::Instructions;
use crate::runtime::{Checkpoint, ClassifierFacts, ModelFacts};

/// Checks what settings name (profiles, prompt families, the models of cascades and shadows),
/// without loading a model.
///
/// # Errors
/// [`ConfigError::Unusable`], with the key.
pub fn check(settings: &Settings) -> Result<(), ConfigError> {
    check_without_names(settings)?;
    check_model_names(settings)
}

/// As [`check`], apart from the names of models.
///
/// # Errors
/// The errors of [`check`].
pub(super) fn check_without_names(settings: &Settings) -> Result<(), ConfigError> {
    policy(settings)?;
    let families = families(&settings.prompts)?;
    let named = settings.models.named.iter().map(|(name, named)| (format!("models.{name}.family"), &named.model));
    for (key, model) in std::iter::once(("model.family".to_owned(), &settings.model)).chain(named) {
        if model.family != ANY_FAMILY {
            families.named(&model.family).map_err(|error| unusable(&key, &error))?;
        }
    }
    Ok(())
}

/// The policy that the settings define.
///
/// # Errors
/// The errors of [`instructions`].
pub fn policy(settings: &Settings) -> Result<Policy, ConfigError> {
    Ok(Policy {
        limits: settings.limits.clone(),
        passages: settings.passages.clone(),
        instructions: instructions(&settings.instructions)?,
    })
}

/// The stored instructions, those of an operator's file included.
///
/// # Errors
/// [`ConfigError::Unusable`] for a file that cannot be read or is malformed, and for a default that
/// names no profile.
pub fn instructions(settings: &InstructionSettings) -> Result<Instructions, ConfigError> {
    const FILE: &str = "instructions.file";
    let path = settings.file.trim();
    let file = (!path.is_empty()).then(|| std::fs::read_to_string(path)).transpose();
    let file = file.map_err(|error| unusable(FILE, format_args!("cannot read {path}: {error}")))?;
    load_instructions(settings, file.as_deref()).map_err(|error| match error {
        ProfileError::Default { name, available } => {
            let problem = format!("there is no profile {name:?}; there are {}", available.join(", "));
            unusable("instructions.default", problem)
        }
        problem @ (ProfileError::Syntax(_) | ProfileError::Name { .. } | ProfileError::Empty { .. }) => {
            unusable(FILE, format_args!("{path}: {problem}"))
        }
    })
}

/// The prompt families: those that are compiled in, and those of the operator's folder.
///
/// # Errors
/// [`ConfigError::Unusable`] for a folder or a family in it that cannot be read.
pub fn families(settings: &PromptSettings) -> Result<Families, ConfigError> {
    const FOLDER: &str = "prompts.folder";
    let mut families = Families::built_in().map_err(|error| unusable(FOLDER, &error))?;
    let folder = settings.folder.trim();
    if !folder.is_empty() {
        families.add_folder(Path::new(folder)).map_err(|error| unusable(FOLDER, &error))?;
    }
    Ok(families)
}

fn unusable(key: &str, problem: impl Display) -> ConfigError {
    ConfigError::Unusable { key: key.to_owned(), problem: problem.to_string() }
}

/// As [`prompter_of`], with the families that are compiled in.
///
/// # Errors
/// The errors of [`prompter_of`].
pub fn prompter(checkpoint: &Checkpoint, facts: &ModelFacts, family: &str) -> anyhow::Result<Prompter> {
    prompter_of(&Families::built_in()?, checkpoint, facts, family)
}

/// Finds a checkpoint's family, unless `family` names one, and binds it to the checkpoint's
/// tokenizer.
///
/// # Errors
/// A tokenizer, table or configuration that cannot be read, or that does not fit the family.
pub fn prompter_of(
    families: &Families,
    checkpoint: &Checkpoint,
    facts: &ModelFacts,
    family: &str,
) -> anyhow::Result<Prompter> {
    let file = |name: &str| checkpoint.location.join(name).display().to_string();
    let config: serde_json::Value = serde_json::from_slice(&checkpoint.config)?;
    let podium = PodiumConfig::from_config(&config, &file("config.json"))?;
    let read = |name: &str| checkpoint.read_other_file(name);
    let tokenizer = Tokenizer::from_bytes(&checkpoint.tokenizer, file("tokenizer.json"))?;
    let tokenizer = tokenizer.with_chat_format(ChatFormat::read(&read)?);
    let description = Description::read(checkpoint.hub_id.as_deref(), &config, &read)?;
    let described: Option<serde_json::Value> =
        read("config_sentence_transformers.json").as_deref().map(serde_json::from_slice).transpose()?;
    // Only of a checkpoint that has a score of its own: a decoder's activation is not read.
    let calibration = || match podium.as_ref().and_then(|podium| podium.calibration) {
        Some(calibration) => Ok(calibration),
        None => classifier_calibration(&config, described.as_ref()),
    };
    let names: Vec<&str> = description.names.iter().map(|named| named.name.as_str()).collect();
    let limits = ModelLimits {
        name: names.join(" "),
        context: facts.max_positions,
        layers: facts.layers,
        vocabulary: facts.vocabulary,
        bidirectional: !facts.causal,
        token_types: facts.token_types > 1,
        classifier: classifier_readout(facts, &calibration)?,
        answers: description.answers.map(|answers| answers_of(answers, &calibration)).transpose()?,
        default_prompt: described.as_ref().and_then(default_prompt),
        colbert: facts.token_projection.then(|| ColbertSettings::read(&read)).transpose()?,
        evidence: evidence(checkpoint, facts, &config)?,
    };
    let bind = |family: &Family, tokenizer: Tokenizer| -> anyhow::Result<Prompter> {
        let evidence = checkpoint.lexical.as_deref().map(LexicalTable::from_bytes).transpose()?;
        let prompter = Prompter::new(family, tokenizer, &limits, podium.as_ref(), evidence)?;
        check_heads(family.name(), &prompter, facts)?;
        Ok(prompter)
    };
    let found = CheckpointFacts {
        name: &checkpoint.name,
        architecture: &facts.architecture,
        config: &config,
        projector: facts.projector,
        podium: podium.as_ref(),
        description: &description,
        tokenizer: &tokenizer,
        fits: &|family| bind(family, tokenizer.clone()).is_ok(),
    };
    let Recognised { family, by } = families.detect(family, &found)?;
    tracing::info!(model = checkpoint.name, family = family.name(), by, "family chosen");
    bind(family, tokenizer)
}

/// The read-out of the tokens' states, where the checkpoint has one.
fn evidence(
    checkpoint: &Checkpoint,
    facts: &ModelFacts,
    config: &serde_json::Value,
) -> anyhow::Result<Option<Arc<EvidenceModel>>> {
    let Some(bytes) = checkpoint.instructions.as_deref() else { return Ok(None) };
    let file = |name: &str| checkpoint.location.join(name).display().to_string();
    let constants = config.get("podium").unwrap_or(&serde_json::Value::Null);
    let constants =
        EvidenceConfig::deserialize(constants).with_context(|| format!("{}: podium", file("config.json")))?;
    let model = EvidenceModel::new(constants, bytes, facts.hidden_size);
    Ok(Some(Arc::new(model.with_context(|| file("instructions.safetensors"))?)))
}

type CalibrationOf<'a> = &'a dyn Fn() -> Result<Calibration, PromptError>;

/// The classifier that stands in place of an output matrix.
fn classifier_readout(facts: &ModelFacts, of: CalibrationOf<'_>) -> Result<Option<ClassifierReadout>, PromptError> {
    let Some(ClassifierFacts { labels, pooling, start_layer }) = facts.classifier.filter(|_| !facts.vocabulary_head)
    else {
        return Ok(None);
    };
    Ok(Some(ClassifierReadout { labels, pooling, start_layer, calibration: of()? }))
}

/// The tokens of a `LogitScore`.
fn answers_of((positive, negative): (u32, Option<u32>), of: CalibrationOf<'_>) -> Result<Answers, PromptError> {
    Ok(Answers { positive, negative, calibration: of()? })
}

/// The prompt that sentence-transformers puts before every query, if there is one.
fn default_prompt(described: &serde_json::Value) -> Option<String> {
    let prompt = described["prompts"][described["default_prompt_name"].as_str()?].as_str()?;
    (!prompt.is_empty()).then(|| prompt.to_owned())
}

/// Rejects a family that needs a head that the checkpoint lacks, and slates on an encoder.
fn check_heads(family: &str, prompter: &Prompter, facts: &ModelFacts) -> anyhow::Result<()> {
    let architecture = &facts.architecture;
    anyhow::ensure!(
        facts.causal || prompter.slate_score().is_none(),
        "family `{family}` reads documents together, and {architecture} is an encoder, which reads one pair at a time"
    );
    let (projector, first_token) = match prompter.slate_score() {
        Some(SlateScore::LateInteraction { .. }) => (true, false),
        Some(SlateScore::FirstToken { .. }) => (false, true),
        None => (false, false),
    };
    let logits = first_token || prompter.answers().is_some();
    let compares_tokens = prompter.bi_encoder() == Some(&BiEncoderReadout::MaxSim);
    for (is_needed, is_there, head) in [
        (projector, facts.projector, "a projector"),
        (logits, facts.vocabulary_head, "an output matrix"),
        (compares_tokens, facts.token_projection, "a projection of token states (`linear.weight`)"),
    ] {
        anyhow::ensure!(
            is_there || !is_needed,
            "family `{family}` needs {head}, and this checkpoint ({architecture}) has none; --family names another family"
        );
    }
    Ok(())
}
