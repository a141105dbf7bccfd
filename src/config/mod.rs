//! The sum of the rooms' settings: defaults, file, environment and flags, in that order.
//!
//! Each source is read into plain key-value pairs first, and every pair is held against the compiled-in defaults: a
//! key that is not there, a value of another type or out of its range is refused with the key, the value and where
//! it came from. What a setting means is in the room that reads it; what it may be is in `rules`.

mod environment;
mod error;
mod limits;
mod named;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

pub use error::ConfigError;

use crate::http::{AuthSettings, ServerSettings};
use crate::models::ModelsSettings;
use crate::pipeline::InstructionSettings;
use crate::prompt::PromptSettings;
use crate::rerank::LimitSettings;
use crate::runtime::ModelSettings;
use crate::schedule::ScheduleSettings;
use crate::spelling;
use crate::telemetry::TelemetrySettings;

/// The operator's reference: every key with its comment and default.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// What the names of environment variables that set keys begin with.
pub const ENVIRONMENT_PREFIX: &str = "PODIUM__";

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How clients connect.
    pub server: ServerSettings,
    /// Who may ask, and how often.
    pub auth: AuthSettings,
    /// Which model is loaded.
    pub model: ModelSettings,
    /// The models beside it.
    #[serde(skip)]
    pub models: ModelsSettings,
    /// Prompt families beside those that are compiled in.
    pub prompts: PromptSettings,
    /// What one request may ask for.
    #[serde(with = "limits::LimitSettingsDef")]
    pub limits: LimitSettings,
    /// Stored instructions.
    pub instructions: InstructionSettings,
    /// How much waits and runs at once.
    pub schedule: ScheduleSettings,
    /// What is logged.
    pub telemetry: TelemetrySettings,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `config/default.toml`, compiled in.
    Default,
    /// A file of the operator's.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A command line flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::File(path) => write!(formatter, "file {}", path.display()),
            Self::Environment(name) => write!(formatter, "environment {name}"),
            Self::Flag(flag) => write!(formatter, "flag {flag}"),
        }
    }
}

/// A value given on the command line.
#[derive(Debug, Clone, PartialEq)]
pub struct FlagValue {
    /// The flag, as it is typed.
    pub flag: &'static str,
    /// The key that it sets.
    pub key: &'static str,
    /// The value.
    pub value: Value,
}

/// What the configuration is made from, besides the defaults.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The operator's file.
    pub file: Option<PathBuf>,
    /// Environment variables; those without the prefix are passed over.
    pub environment: Vec<(String, String)>,
    /// Flags.
    pub flags: Vec<FlagValue>,
}

impl Sources {
    /// The environment variables that look like Podium's and are read by nobody.
    ///
    /// # Errors
    /// [`ConfigError::Variable`] for one that is nearly a variable of Podium's.
    pub fn unread_variables(&self) -> Result<Vec<String>, ConfigError> {
        let names = self.environment.iter().map(|(name, _)| name.as_str());
        Ok(environment::check_environment(names)?.into_iter().map(str::to_owned).collect())
    }
}

/// A key that another configuration has otherwise; values as TOML, nothing where the key is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// Its value here.
    pub from: Option<String>,
    /// Its value there.
    pub to: Option<String>,
}

/// The settings, and where each one came from.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// The settings.
    pub settings: Settings,
    values: BTreeMap<String, (Value, Origin)>,
}

impl Configuration {
    /// Puts the sources together.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, a key that does not exist, a value of the wrong type or out of range.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut values = defaults()?;
        if let Some(path) = &sources.file {
            for (key, value) in read_file(path)? {
                set(&mut values, key, value, Origin::File(path.clone()))?;
            }
        }
        for (name, text) in &sources.environment {
            let Some(rest) = name.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
            let key = rest.to_lowercase().replace("__", ".");
            let origin = Origin::Environment(name.clone());
            let default = named::like(&key, &values);
            // An unknown key has no type to read the text as; `set` refuses it by its name.
            let value =
                default.map_or_else(|| Ok(Value::String(text.clone())), |like| read_as(&key, text, &like, &origin))?;
            set(&mut values, key, value, origin)?;
        }
        for flag in &sources.flags {
            set(&mut values, flag.key.to_owned(), flag.value.clone(), Origin::Flag(flag.flag))?;
        }
        let settings = assemble(&values)?;
        Ok(Self { settings, values })
    }

    /// What is otherwise in `other`, by key.
    #[must_use]
    pub fn changes_in(&self, other: &Self) -> Vec<Change> {
        let value = |of: &Self, key: &String| of.values.get(key).map(|(value, _)| value.to_string());
        let keys: BTreeSet<&String> = self.values.keys().chain(other.values.keys()).collect();
        let changes =
            keys.into_iter().map(|key| Change { key: key.clone(), from: value(self, key), to: value(other, key) });
        changes.filter(|change| change.from != change.to).collect()
    }

    /// These settings, with those of `other` for every key that `is_theirs`.
    ///
    /// # Errors
    /// Settings that do not go together.
    pub fn with(&self, other: &Self, is_theirs: impl Fn(&str) -> bool) -> Result<Self, ConfigError> {
        let kept = self.values.iter().filter(|(key, _)| !is_theirs(key));
        let taken = other.values.iter().filter(|(key, _)| is_theirs(key));
        let values = kept.chain(taken).map(|(key, value)| (key.clone(), value.clone())).collect();
        Ok(Self { settings: assemble(&values)?, values })
    }

    /// Whether nothing but the defaults says what `key` is.
    #[must_use]
    pub fn is_default(&self, key: &str) -> bool {
        self.values.get(key).is_some_and(|(_, origin)| *origin == Origin::Default)
    }

    /// Every key in alphabetical order, with its value (as TOML) and where it came from.
    pub fn entries(&self) -> impl Iterator<Item = (&str, String, &Origin)> {
        self.values.iter().map(|(key, (value, origin))| (key.as_str(), value.to_string(), origin))
    }
}

fn defaults() -> Result<BTreeMap<String, (Value, Origin)>, ConfigError> {
    let table: Table = DEFAULTS.parse().map_err(|error: toml::de::Error| ConfigError::Syntax {
        path: PathBuf::from("config/default.toml"),
        problem: error.to_string(),
    })?;
    Ok(flatten(table).into_iter().map(|(key, value)| (key, (value, Origin::Default))).collect())
}

fn read_file(path: &Path) -> Result<Vec<(String, Value)>, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::File { path: path.to_owned(), source })?;
    let table: Table = text
        .parse()
        .map_err(|error: toml::de::Error| ConfigError::Syntax { path: path.to_owned(), problem: error.to_string() })?;
    Ok(flatten(table))
}

/// Tables become dotted keys; an empty table stays, so that its name is checked too.
fn flatten(table: Table) -> Vec<(String, Value)> {
    let mut flat = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) if !inner.is_empty() => {
                flat.extend(flatten(inner).into_iter().map(|(rest, value)| (format!("{key}.{rest}"), value)));
            }
            Value::Table(_)
            | Value::String(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Array(_) => flat.push((key, value)),
        }
    }
    flat
}

fn set(
    values: &mut BTreeMap<String, (Value, Origin)>,
    key: String,
    value: Value,
    origin: Origin,
) -> Result<(), ConfigError> {
    let is_section = values.keys().any(|known| known.strip_prefix(&key).is_some_and(|rest| rest.starts_with('.')));
    if is_section && value.as_table().is_some_and(Table::is_empty) {
        return Ok(());
    }
    if key.strip_prefix("models.").is_some_and(|name| !name.contains('.')) && value.is_table() {
        return Err(ConfigError::Settings(format!(
            "`{key}.source` is missing: it says which model this is ({origin})"
        )));
    }
    let Some(current) = named::like(&key, values) else {
        let nearest = spelling::nearest(&key, values.keys().map(String::as_str)).map(str::to_owned);
        return Err(ConfigError::UnknownKey { key, origin, nearest });
    };
    // `1` is as good as `1.0` where a fraction may stand.
    let value = match (&current, value) {
        (Value::Float(_), Value::Integer(number)) => Value::Float(number as f64),
        (_, value) => value,
    };
    if !current.same_type(&value) {
        let expected = current.type_str();
        return Err(ConfigError::WrongType { key, origin, expected, value: value.to_string() });
    }
    if let Some(allowed) = named::violated(&key, &value) {
        return Err(ConfigError::OutOfRange { key, origin, value: value.to_string(), allowed });
    }
    values.insert(key, (value, origin));
    Ok(())
}

/// Reads the text of an environment variable as the type that the key's default has.
fn read_as(key: &str, text: &str, like: &Value, origin: &Origin) -> Result<Value, ConfigError> {
    let wrong = || ConfigError::WrongType {
        key: key.to_owned(),
        origin: origin.clone(),
        expected: like.type_str(),
        value: format!("{text:?}"),
    };
    match like {
        Value::Integer(_) => text.trim().parse().map(Value::Integer).map_err(|_| wrong()),
        Value::Float(_) => text.trim().parse().map(Value::Float).map_err(|_| wrong()),
        Value::Boolean(_) => text.trim().to_lowercase().parse().map(Value::Boolean).map_err(|_| wrong()),
        Value::String(_) => Ok(Value::String(text.to_owned())),
        Value::Datetime(_) | Value::Array(_) | Value::Table(_) => Err(wrong()),
    }
}

fn assemble(values: &BTreeMap<String, (Value, Origin)>) -> Result<Settings, ConfigError> {
    let mut root = Table::new();
    for (key, (value, _)) in values.iter().filter(|(key, _)| !key.starts_with("models.")) {
        let (section, name) = key.split_once('.').unwrap_or(("", key));
        let section = root.entry(section).or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(section) = section {
            section.insert(name.to_owned(), value.clone());
        }
    }
    let settings: Settings =
        root.try_into().map_err(|error: toml::de::Error| ConfigError::Settings(error.to_string()))?;
    Ok(Settings { models: named::assemble(values, &defaults()?)?, ..settings })
}

#[cfg(test)]
mod tests;
