//! More models in one process, as they are configured.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::runtime::ModelSettings;

/// When a model is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadWhen {
    /// With the server.
    Start,
    /// With the first request for it, which is told to come back.
    OnDemand,
    /// When an administrator says so.
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
    /// Which one it is.
    pub model: ModelSettings,
}

/// The models beside the default one (`[models]` in the configuration).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelsSettings {
    /// Bytes that all loaded models may take together, weights and what they may keep; 0 is no limit.
    pub max_memory_bytes: u64,
    /// The models, by name.
    pub named: BTreeMap<String, NamedModel>,
}
