//! Loads models as the settings describe them.

use super::model_names::{add_served_names, default_names};
use super::settings::{check, check_without_names, families, policy, prompter_of};
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
    // A configuration may be used with another default model than the one that its cascades name.
    check_without_names(settings)?;
    let checkpoint = Checkpoint::open(&settings.model)?;
    let names = default_names(&checkpoint.name, &settings.model);
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
/// The errors of [`load_reranker`] and [`check`]; a default model that is larger than
/// `models.max_memory_bytes`.
pub fn load_models(settings: &Settings) -> anyhow::Result<ModelSet> {
    check(settings)?;
    let admission = AdmissionControl::new(&settings.schedule);
    let checkpoint = Checkpoint::open(&settings.model)?;
    let largest_batch = largest_batch(settings);
    let memory = Memory::measure(&checkpoint, &settings.model, largest_batch)?;
    memory.check(&checkpoint.name, settings.models.max_memory_bytes)?;
    let names = default_names(&checkpoint.name, &settings.model);
    let environment = Environment { prompts: &settings.prompts, policy: policy(settings)?, admission: &admission };
    let default = environment.load(names, &checkpoint, &settings.model)?;
    let loader = PackedLoader { prompts: settings.prompts.clone(), admission, largest_batch };
    Ok(ModelSet::new(default, settings.models.clone(), loader))
}

/// Tokens of the largest batch: a pass of the length that a slate may have runs alone.
fn largest_batch(settings: &Settings) -> usize {
    settings.schedule.max_batch_tokens.max(settings.limits.max_slate_tokens)
}

/// The memory that a model will take, in bytes.
struct Memory {
    weights: u64,
    prefix_cache: u64,
    batch: u64,
    batch_tokens: usize,
}

impl Memory {
    fn measure(checkpoint: &Checkpoint, model: &ModelSettings, batch_tokens: usize) -> anyhow::Result<Self> {
        let facts = PackedRuntime::read_facts(checkpoint, &ComputeSettings::of(model))?;
        let (weights, batch) = (facts.weight_bytes, facts.workspace.bytes(batch_tokens));
        Ok(Self { weights, prefix_cache: model.prefix_cache_bytes, batch, batch_tokens })
    }

    fn bytes(&self) -> u64 {
        self.weights + self.prefix_cache + self.batch
    }

    /// Refuses a default model that does not fit the limit, 0 being none.
    fn check(&self, name: &str, limit: u64) -> Result<(), ConfigError> {
        if limit == 0 || self.bytes() <= limit {
            return Ok(());
        }
        let Self { weights, prefix_cache, batch, batch_tokens } = self;
        let problem = format!(
            "is {limit}, and `{name}` takes {} bytes: {weights} for weights, {prefix_cache} for the prefix cache \
             (model.prefix_cache_bytes), {batch} for a batch of {batch_tokens} tokens (schedule.max_batch_tokens, \
             limits.max_slate_tokens)",
            self.bytes()
        );
        Err(ConfigError::Unusable { key: "models.max_memory_bytes".to_owned(), problem })
    }
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
    /// Loads a checkpoint under these names. Its family is found, and bound to it, before its
    /// weights are read.
    fn load(self, names: Vec<String>, checkpoint: &Checkpoint, model: &ModelSettings) -> anyhow::Result<Reranker> {
        let prompter = self.prompter(checkpoint, model)?;
        Ok(Reranker::new(names, prompter, load_runtime(checkpoint, model)?, self.policy, self.admission))
    }

    fn prompter(&self, checkpoint: &Checkpoint, model: &ModelSettings) -> anyhow::Result<Prompter> {
        let facts = PackedRuntime::read_facts(checkpoint, &ComputeSettings::of(model))?;
        let mut prompter = prompter_of(&families(self.prompts)?, checkpoint, &facts, &model.family)?;
        if model.early_exit {
            let key = "model.early_exit".to_owned();
            let unusable = |problem| ConfigError::Unusable { key, problem: format!("{}: {problem}", checkpoint.name) };
            prompter.exit_early_by_default().map_err(unusable)?;
        }
        if model.cutoff_layer > 0 {
            let key = "model.cutoff_layer".to_owned();
            let unusable = |problem| ConfigError::Unusable { key, problem: format!("{}: {problem}", checkpoint.name) };
            prompter.cut_off_by_default(model.cutoff_layer).map_err(unusable)?;
        }
        Ok(prompter)
    }
}

/// Loads the named models of the settings.
struct PackedLoader {
    prompts: PromptSettings,
    /// Shared with the default model.
    admission: AdmissionControl,
    /// In tokens.
    largest_batch: usize,
}

impl ModelLoader for PackedLoader {
    fn memory_bytes(&self, NamedModel { model, .. }: &NamedModel) -> anyhow::Result<u64> {
        Ok(Memory::measure(&Checkpoint::open(model)?, model, self.largest_batch)?.bytes())
    }

    fn load(&self, name: &str, NamedModel { model, .. }: &NamedModel, policy: Policy) -> anyhow::Result<Reranker> {
        let mut names = vec![name.to_owned()];
        add_served_names(&mut names, model);
        let environment = Environment { prompts: &self.prompts, policy, admission: &self.admission };
        environment.load(names, &Checkpoint::open(model)?, model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Configuration, Sources};

    #[test]
    fn a_default_model_over_the_memory_limit_is_refused_with_the_numbers() -> anyhow::Result<()> {
        let mut settings = Configuration::load(&Sources::default())?.settings;
        settings.models.max_memory_bytes = 50_000_000;
        let Err(error) = load_models(&settings) else { anyhow::bail!("it loaded") };
        let error = error.to_string();
        let memory = Memory::measure(&Checkpoint::open(&settings.model)?, &settings.model, largest_batch(&settings))?;
        assert!(error.starts_with("`models.max_memory_bytes`: is 50000000, and `podium-mini` takes "), "{error}");
        assert!(error.contains(&format!("{} for weights", memory.weights)), "{error}");
        assert!(error.contains(&format!("{} for a batch of {} tokens", memory.batch, memory.batch_tokens)), "{error}");
        assert!(memory.check("podium-mini", memory.bytes()).is_ok() && memory.check("podium-mini", 0).is_ok());
        Ok(())
    }
}
