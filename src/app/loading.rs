//! Loads models as the settings describe them.

use std::collections::BTreeMap;
use std::path::Path;

use super::settings::{check, families, policy, prompter_of};
use crate::config::{ConfigError, Settings};
use crate::models::{ModelLoader, ModelSet, NamedModel};
use crate::pipeline::{Policy, Reranker};
use crate::prompt::{PromptSettings, Prompter};
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
    let names = default_names(&checkpoint, &settings.model);
    let admission = AdmissionControl::new(&settings.schedule);
    let environment = Environment { prompts: &settings.prompts, policy: policy(settings)?, admission: &admission };
    let prompter = environment.prompter(&checkpoint, &settings.model)?;
    let runtime = wrap(&checkpoint, load_runtime(&checkpoint, &settings.model)?)?;
    Ok(Reranker::new(names, prompter, runtime, environment.policy, &admission))
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
    let names = default_names(&checkpoint, &settings.model);
    check_names_unique(&names, settings)?;
    let environment = Environment { prompts: &settings.prompts, policy: policy(settings)?, admission: &admission };
    let default = environment.load(names, &checkpoint, &settings.model)?;
    let loader = PackedLoader { prompts: settings.prompts.clone(), admission };
    Ok(ModelSet::new(default, settings.models.clone(), loader))
}

fn load_runtime(checkpoint: &Checkpoint, model: &ModelSettings) -> anyhow::Result<PackedRuntime> {
    let runtime = PackedRuntime::load(checkpoint, &ComputeSettings::of(model))?;
    Ok(runtime.with_prefix_cache(model.prefix_cache_bytes))
}

/// State that all models of a server share.
struct Environment<'a> {
    prompts: &'a PromptSettings,
    policy: Policy,
    admission: &'a AdmissionControl,
}

impl Environment<'_> {
    /// Loads a checkpoint under these names. Its family is found, and bound to it, before its weights
    /// are read.
    fn load(self, names: Vec<String>, checkpoint: &Checkpoint, model: &ModelSettings) -> anyhow::Result<Reranker> {
        let prompter = self.prompter(checkpoint, model)?;
        Ok(Reranker::new(names, prompter, load_runtime(checkpoint, model)?, self.policy, self.admission))
    }

    fn prompter(&self, checkpoint: &Checkpoint, model: &ModelSettings) -> anyhow::Result<Prompter> {
        let facts = PackedRuntime::read_facts(checkpoint, &ComputeSettings::of(model))?;
        prompter_of(&families(self.prompts)?, checkpoint, &facts, &model.family)
    }
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
    for (own, named) in &settings.models.named {
        for name in std::iter::once(own.as_str()).chain(named.model.served().filter(|name| name != own)) {
            if let Some(other) = owners.insert(name, own) {
                let problem = format!("the name `{name}` is taken by {other}");
                return Err(ConfigError::Unusable { key: format!("models.{own}"), problem });
            }
        }
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
        let mut names = vec![name.to_owned()];
        add_served_names(&mut names, model);
        let environment = Environment { prompts: &self.prompts, policy, admission: &self.admission };
        environment.load(names, &Checkpoint::open(model)?, model)
    }
}
