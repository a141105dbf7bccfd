//! `[models.NAME]`: tables with names of the operator's choice, which take every key of `[model]`.

use std::collections::BTreeMap;

use toml::Table;

use super::error::ConfigError;
use super::source::Values;
use crate::models::{LoadWhen, ModelsSettings, NamedModel};

/// Prefix of the keys of named models.
pub(super) const SECTION: &str = "models.";
/// The key that only named models have, as [`pattern`] returns it.
pub(super) const LOAD: &str = "models.NAME.load";
/// Fields that a named model takes from `[model]` unless it sets them; other fields take the
/// defaults.
const SHARED: [&str; 3] = ["device", "cache", "offline"];
/// Maximum length of a name, which appears in paths, logs and metrics.
const MAX_NAME_BYTES: usize = 64;

/// Splits `models.NAME.FIELD` into the name and the field.
pub(super) fn split(key: &str) -> Option<(&str, &str)> {
    key.strip_prefix(SECTION)?.rsplit_once('.')
}

/// The key that defines type and range of `key`: for a named model, the key of the default model.
pub(super) fn pattern(key: &str) -> String {
    match split(key) {
        Some((_, "load")) => LOAD.to_owned(),
        Some((_, field)) => format!("model.{field}"),
        None => key.to_owned(),
    }
}

/// Refuses a key of a named model whose name is invalid.
pub(super) fn check_name(key: &str) -> Result<(), ConfigError> {
    let Some((name, _)) = split(key) else { return Ok(()) };
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(is_allowed) {
        return Ok(());
    }
    let problem =
        format!("a model's name has 1 to {MAX_NAME_BYTES} letters (a-z, A-Z), digits, dots, hyphens or underscores");
    Err(ConfigError::Unusable { key: format!("{SECTION}{name}"), problem })
}

/// The settings of the models beside the default one.
pub(super) fn parse_models(values: &Values, defaults: &Values) -> Result<ModelsSettings, ConfigError> {
    let mut tables: BTreeMap<&str, Table> = BTreeMap::new();
    for (key, (value, _)) in values {
        if let Some((name, field)) = split(key) {
            tables.entry(name).or_default().insert(field.to_owned(), value.clone());
        }
    }
    let invalid = |error: toml::de::Error| ConfigError::Settings(error.to_string());
    let mut named = BTreeMap::new();
    for (name, mut table) in tables {
        if !table.contains_key("source") {
            return Err(missing_source(&format!("{SECTION}{name}")));
        }
        let load = table.remove("load").map_or(Ok(LoadWhen::Start), LoadWhen::try_from).map_err(invalid)?;
        for (key, (value, _)) in defaults {
            let Some(field) = key.strip_prefix("model.") else { continue };
            let shared = SHARED.contains(&field).then(|| values.get(key)).flatten();
            let value = shared.map_or(value, |(value, _)| value).clone();
            table.entry(field).or_insert(value);
        }
        named.insert(name.to_owned(), NamedModel { load, model: table.try_into().map_err(invalid)? });
    }
    let limit = values.get("models.max_memory_bytes").and_then(|(value, _)| value.as_integer()).unwrap_or_default();
    Ok(ModelsSettings { max_memory_bytes: u64::try_from(limit).unwrap_or_default(), named })
}

/// The error for a table `models.NAME` without a source.
pub(super) fn missing_source(table: &str) -> ConfigError {
    ConfigError::Settings(format!("`{table}.source` is missing; set it to a folder with a checkpoint or a hub id"))
}
