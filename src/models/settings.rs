//! The configuration of named models.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::rerank::Keep;
use crate::runtime::ModelSettings;

/// When a named model is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadWhen {
    /// When the server starts.
    Start,
    /// At the first request for it, which is told when to try again.
    OnDemand,
    /// When an administrator asks for it.
    Off,
}

impl LoadWhen {
    /// The word in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::OnDemand => "on_demand",
            Self::Off => "off",
        }
    }
}

impl TryFrom<toml::Value> for LoadWhen {
    type Error = toml::de::Error;

    fn try_from(value: toml::Value) -> Result<Self, Self::Error> {
        value.try_into()
    }
}

/// One model beside the default one (`[models.NAME]` in the configuration).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedModel {
    /// When it is loaded.
    pub load: LoadWhen,
    /// Its checkpoint and how to run it.
    pub model: ModelSettings,
}

/// A name that stands for several models in turn (`[models.NAME] cascade = [...]`).
#[derive(Debug, Clone, PartialEq)]
pub struct CascadeSettings {
    /// At least two. Cascades in it are replaced by their own stages.
    pub stages: Vec<StageSettings>,
    /// Later stages are skipped if the order is right with this probability; 0 skips none.
    pub stop_when_sure: f64,
    /// Additional names, separated by commas.
    pub served_names: String,
}

impl CascadeSettings {
    /// [`CascadeSettings::served_names`], one by one.
    pub fn served(&self) -> impl Iterator<Item = &str> {
        self.served_names.split(',').map(str::trim).filter(|name| !name.is_empty())
    }

    /// The names of its models, in order.
    pub fn models(&self) -> impl Iterator<Item = &str> {
        self.stages.iter().filter_map(|stage| stage.model.as_deref())
    }
}

/// One stage of a cascade.
#[derive(Debug, Clone, PartialEq)]
pub struct StageSettings {
    /// The name of its model; `None` is the caller's own scores.
    pub model: Option<String>,
    /// The documents that it passes on. The last stage keeps everything.
    pub keep: Keep,
}

/// A model or cascade that ranks a share of another one's requests, for comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct ShadowSettings {
    /// The name of the model whose requests it ranks.
    pub of: String,
    /// The share of requests, in [0, 1].
    pub share: f64,
}

/// The models beside the default one (`[models]` in the configuration).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ModelsSettings {
    /// Bytes that all loaded models may take: weights, prefix caches and largest batches; 0 is no
    /// limit.
    pub max_memory_bytes: u64,
    /// The models, by name.
    pub named: BTreeMap<String, NamedModel>,
    /// The cascades, by name.
    pub cascades: BTreeMap<String, CascadeSettings>,
    /// The shadows, by the name of the model or cascade that is one.
    pub shadows: BTreeMap<String, ShadowSettings>,
}
