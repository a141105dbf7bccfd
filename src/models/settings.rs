//! The configuration of named models.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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

/// The models beside the default one (`[models]` in the configuration).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelsSettings {
    /// Bytes that all loaded models may take, weights and prefix caches; 0 is no limit.
    pub max_memory_bytes: u64,
    /// The models, by name.
    pub named: BTreeMap<String, NamedModel>,
}
