//! Configuration: the settings of all modules, from defaults, a file, environment variables and
//! flags, in that order.
//!
//! Every value is checked against the compiled-in defaults: an unknown key, a value of another type
//! or out of its range is refused with the key, the value and where it came from. [`Settings`] has
//! one struct per section, defined in the module that uses it.

mod bounds;
mod cascades;
mod environment;
mod error;
mod limits;
mod named;
mod rules;
mod source;
mod suggest;
mod values;

use std::collections::BTreeSet;

use serde::Deserialize;
use toml::{Table, Value};

pub use error::ConfigError;
pub use source::{API_KEYS_VARIABLE, CONFIG_VARIABLE, ENVIRONMENT_PREFIX, FlagValue, Origin, Sources};
pub use values::DEFAULTS;

use crate::http::{AuthSettings, ServerSettings};
use crate::models::ModelsSettings;
use crate::pipeline::InstructionSettings;
use crate::prompt::PromptSettings;
use crate::rerank::{LimitSettings, PassageSettings};
use crate::runtime::ModelSettings;
use crate::schedule::ScheduleSettings;
use crate::telemetry::TelemetrySettings;
use source::Values;

/// All settings.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Address, timeouts and limits of connections.
    pub server: ServerSettings,
    /// API keys and rate limits.
    pub auth: AuthSettings,
    /// The default model.
    pub model: ModelSettings,
    /// The models beside the default one.
    #[serde(skip)]
    pub models: ModelsSettings,
    /// Prompt families beside the built-in ones.
    pub prompts: PromptSettings,
    /// Limits of one request.
    #[serde(with = "limits::LimitSettingsDef")]
    pub limits: LimitSettings,
    /// How long documents are read.
    #[serde(with = "limits::PassageSettingsDef")]
    pub passages: PassageSettings,
    /// Stored instructions.
    pub instructions: InstructionSettings,
    /// Admission control and batching.
    pub schedule: ScheduleSettings,
    /// Logs, metrics and traces.
    pub telemetry: TelemetrySettings,
}

/// A key whose value differs between two configurations. Values are TOML, with secrets in URLs
/// masked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// The value in the first configuration, if it has the key.
    pub from: Option<String>,
    /// The value in the second configuration, if it has the key.
    pub to: Option<String>,
}

/// The settings, and where each value came from.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// The settings.
    pub settings: Settings,
    values: Values,
}

impl Configuration {
    /// Reads all sources.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, an unknown key, a value of the wrong type or out of
    /// range, a limit that never takes effect.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        Self::from_values(values::read_sources(sources)?)
    }

    fn from_values(values: Values) -> Result<Self, ConfigError> {
        bounds::check_bounds(&values)?;
        Ok(Self { settings: deserialize(&values)?, values })
    }

    /// The keys whose values differ in `other`.
    #[must_use]
    pub fn changes_in(&self, other: &Self) -> Vec<Change> {
        let keys: BTreeSet<&String> = self.values.keys().chain(other.values.keys()).collect();
        let pairs = keys.into_iter().map(|key| {
            let value = |configuration: &Self| configuration.values.get(key).map(|(value, _)| value.clone());
            (key, value(self), value(other))
        });
        pairs
            .filter(|(_, from, to)| from != to)
            .map(|(key, from, to)| {
                let printed = |value: Option<Value>| value.as_ref().map(values::printed);
                Change { key: key.clone(), from: printed(from), to: printed(to) }
            })
            .collect()
    }

    /// This configuration, with the values of `other` for every key that `is_theirs`.
    ///
    /// # Errors
    /// A combination that is refused.
    pub fn with(&self, other: &Self, is_theirs: impl Fn(&str) -> bool) -> Result<Self, ConfigError> {
        let ours = self.values.iter().filter(|(key, _)| !is_theirs(key));
        let theirs = other.values.iter().filter(|(key, _)| is_theirs(key));
        Self::from_values(ours.chain(theirs).map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    /// Whether the value of `key` is the compiled-in default.
    #[must_use]
    pub fn is_default(&self, key: &str) -> bool {
        self.values.get(key).is_some_and(|(_, origin)| *origin == Origin::Default)
    }

    /// Every key in alphabetical order, with its value and where the value came from. Values are
    /// TOML, with secrets in URLs masked.
    pub fn entries(&self) -> impl Iterator<Item = (&str, String, &Origin)> {
        self.values.iter().map(|(key, (value, origin))| (key.as_str(), values::printed(value), origin))
    }
}

impl Sources {
    /// Names of the environment variables that begin with `PODIUM_` and are not read.
    ///
    /// # Errors
    /// [`ConfigError::Variable`] for a variable that is close to one of Podium's;
    /// [`ConfigError::VariableValue`] for a value of one of Podium's that means nothing.
    pub fn unknown_variables(&self) -> Result<Vec<String>, ConfigError> {
        let defaults = values::defaults()?;
        let keys: Vec<&str> = defaults.keys().map(String::as_str).collect();
        let names = environment::unknown_variables(&self.environment, &keys)?;
        Ok(names.into_iter().map(str::to_owned).collect())
    }
}

fn deserialize(values: &Values) -> Result<Settings, ConfigError> {
    let mut root = Table::new();
    for (key, (value, _)) in values.iter().filter(|(key, _)| !key.starts_with(named::SECTION)) {
        let (section, name) = key.split_once('.').unwrap_or(("", key));
        let section = root.entry(section).or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(section) = section {
            section.insert(name.to_owned(), value.clone());
        }
    }
    let settings: Settings =
        root.try_into().map_err(|error: toml::de::Error| ConfigError::Settings(error.to_string()))?;
    Ok(Settings { models: named::parse_models(values, &values::defaults()?)?, ..settings })
}

#[cfg(test)]
mod tests;
