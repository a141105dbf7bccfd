//! Loads models as the settings describe them.

use std::collections::BTreeMap;
use std::path::Path;

use super::settings::{check, families, policy, prompter_of};
use crate::config::{ConfigError, Settings};
use crate::models::{ModelLoader, ModelSet, ModelsSettings, NamedModel};
use crate::pipeline::{Policy, Reranker};
use crate::prompt::PromptSettings;
use crate::runtime::packed::{ComputeSettings, PackedRuntime};
use crate::runtime::{Checkpoint, ModelSettings, Runtime};
use crate::schedule::AdmissionControl;

/// Loads the default model. Call it inside a tokio runtime.
///
/// # Errors
/// A checkpoint that cannot be loaded, a family that is unknown or does not fit it.
pub fn load_reranker(settings: &Settings) -> anyhow::Result<Reranker> {
    load_reranker_with(settings, |_, runtime| Ok(runtime))
}

/// As [`load_reranker`], but runs passes on the runtime that `wrap` returns for the loaded one.
///
/// # Errors
/// The errors of [`load_reranker`] and of `wrap`.
pub fn load_reranker_with<R: Runtime>(
    settings: &Settings,
    wrap: impl FnOnce(&Checkpoint, PackedRuntime) -> anyhow::Result<R>,
) -> anyhow::Result<Reranker> {
    check(settings)?;
    let checkpoint = Checkpoint::open(&settings.model)?;
    let runtime = wrap(&checkpoint, load_runtime(&checkpoint, &settings.model)?)?;
    let names = default_names(&checkpoint, &settings.model);
    let admission = AdmissionControl::new(&settings.schedule);
    let environment = Environment { prompts: &settings.prompts, policy: policy(settings)?, admission: &admission };
    assemble(names, &checkpoint, runtime, &settings.model.family, environment)
}

/// Loads the default model; the named models of the settings are not loaded yet. Call it inside a
/// tokio runtime.
///
/// # Errors
/// The errors of [`load_reranker`]; two models of one name.
pub fn load_models(settings: &Settings) -> anyhow::Result<ModelSet> {
    check(settings)?;
    let admission = AdmissionControl::new(&settings.schedule);
    let checkpoint = Checkpoint::open(&settings.model)?;
    let runtime = load_runtime(&checkpoint, &settings.model)?;
    let names = default_names(&checkpoint, &settings.model);
    check_names_unique(&names, settings)?;
    check_stages_and_shadows(&names, &settings.models)?;
    let environment = Environment { prompts: &settings.prompts, policy: policy(settings)?, admission: &admission };
    let default = assemble(names, &checkpoint, runtime, &settings.model.family, environment)?;
    let loader = PackedLoader { prompts: settings.prompts.clone(), admission };
    Ok(ModelSet::new(default, settings.models.clone(), loader))
}

fn load_runtime(checkpoint: &Checkpoint, model: &ModelSettings) -> anyhow::Result<PackedRuntime> {
    let runtime = PackedRuntime::load(checkpoint, &ComputeSettings::of(model))?;
    Ok(runtime.with_prefix_cache(model.prefix_cache_bytes))
}

/// Puts a checkpoint and its runtime together under these names.
fn assemble(
    names: Vec<String>,
    checkpoint: &Checkpoint,
    runtime: impl Runtime,
    family: &str,
    environment: Environment<'_>,
) -> anyhow::Result<Reranker> {
    let Environment { prompts, policy, admission } = environment;
    let prompter = prompter_of(&families(prompts)?, checkpoint, runtime.facts(), family)?;
    Ok(Reranker::new(names, prompter, runtime, policy, admission))
}

/// State that all models of a server share.
struct Environment<'a> {
    prompts: &'a PromptSettings,
    policy: Policy,
    admission: &'a AdmissionControl,
}

/// The names of the default model: its own, the hub's, and those of the settings.
fn default_names(checkpoint: &Checkpoint, model: &ModelSettings) -> Vec<String> {
    let mut names = vec![checkpoint.name.clone()];
    if model.source.contains('/') && !Path::new(&model.source).exists() {
        names.insert(0, model.source.clone());
    }
    add_served_names(&mut names, model);
    names
}

fn add_served_names(names: &mut Vec<String>, model: &ModelSettings) {
    for name in model.served().map(str::to_owned) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
}

/// Refuses a name that two models answer to.
fn check_names_unique(default: &[String], settings: &Settings) -> Result<(), ConfigError> {
    let mut owners: BTreeMap<&str, &str> = default.iter().map(|name| (name.as_str(), "the default model")).collect();
    let models = &settings.models;
    let named = models.named.iter().map(|(own, named)| (own, named.model.served().collect::<Vec<_>>()));
    let cascades = models.cascades.iter().map(|(own, cascade)| (own, cascade.served().collect::<Vec<_>>()));
    for (own, served) in named.chain(cascades) {
        for name in std::iter::once(own.as_str()).chain(served.into_iter().filter(|name| name != own)) {
            if let Some(other) = owners.insert(name, own) {
                let problem = format!("the name `{name}` is taken by {other}");
                return Err(ConfigError::Unusable { key: format!("models.{own}"), problem });
            }
        }
    }
    Ok(())
}

/// Refuses a stage of a cascade, or a shadow, that names no model of this server.
fn check_stages_and_shadows(default: &[String], models: &ModelsSettings) -> Result<(), ConfigError> {
    let served = models.named.iter().flat_map(|(own, named)| std::iter::once(own.as_str()).chain(named.model.served()));
    let models_by_name: Vec<&str> = default.iter().map(String::as_str).chain(served).collect();
    let check = |key: String, name: &str, known: &[&str]| {
        if known.contains(&name) {
            return Ok(());
        }
        let problem = format!("there is no model `{name}`; there are {}", known.join(", "));
        Err(ConfigError::Unusable { key, problem })
    };
    for (name, cascade) in &models.cascades {
        for stage in cascade.models() {
            check(format!("models.{name}.cascade"), stage, &models_by_name)?;
        }
    }
    let cascades = models.cascades.keys().map(String::as_str);
    let all: Vec<&str> = models_by_name.iter().copied().chain(cascades).collect();
    for (name, shadow) in &models.shadows {
        check(format!("models.{name}.shadow_of"), &shadow.of, &all)?;
    }
    Ok(())
}

/// Loads the named models of the settings.
struct PackedLoader {
    prompts: PromptSettings,
    /// Shared with the default model.
    admission: AdmissionControl,
}

impl ModelLoader for PackedLoader {
    fn memory_bytes(&self, NamedModel { model, .. }: &NamedModel) -> anyhow::Result<u64> {
        let checkpoint = Checkpoint::open(model)?;
        Ok(PackedRuntime::weight_bytes(&checkpoint, &ComputeSettings::of(model))? + model.prefix_cache_bytes)
    }

    fn load(&self, name: &str, NamedModel { model, .. }: &NamedModel, policy: Policy) -> anyhow::Result<Reranker> {
        let checkpoint = Checkpoint::open(model)?;
        let runtime = load_runtime(&checkpoint, model)?;
        let mut names = vec![name.to_owned()];
        add_served_names(&mut names, model);
        let environment = Environment { prompts: &self.prompts, policy, admission: &self.admission };
        assemble(names, &checkpoint, runtime, &model.family, environment)
    }
}
