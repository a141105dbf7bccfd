//! `[models.NAME]`: tables with names of the operator's choice, in which every key of `[model]` may stand.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::{ConfigError, Origin, rules};
use crate::models::{LoadWhen, ModelsSettings, NamedModel};

/// Where the values of named models begin.
const SECTION: &str = "models.";
/// The key that only named models have.
pub(super) const LOAD: &str = "models.NAME.load";
/// What a named model has in common with the default one, unless it says otherwise.
const SHARED: [&str; 3] = ["device", "cache", "offline"];
/// A name stands in paths, logs and metrics.
const MOST_NAME_BYTES: usize = 64;

/// The name and the field of `models.NAME.FIELD`.
pub(super) fn split(key: &str) -> Option<(&str, &str)> {
    key.strip_prefix(SECTION)?.rsplit_once('.')
}

/// The key whose type and range hold for `key`: that of the default model, for a named one.
pub(super) fn pattern(key: &str) -> String {
    match split(key) {
        Some((_, "load")) => LOAD.to_owned(),
        Some((_, field)) => format!("model.{field}"),
        None => key.to_owned(),
    }
}

/// What is wrong with the name in `key`, if it has one.
pub(super) fn name_problem(key: &str) -> Option<String> {
    let (name, _) = split(key)?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_name = !name.is_empty() && name.len() <= MOST_NAME_BYTES && name.bytes().all(is_plain);
    (!is_name)
        .then(|| format!("a model's name has 1 to {MOST_NAME_BYTES} letters, digits, dots, hyphens or underscores"))
}

/// The settings of the models beside the default one.
pub(super) fn assemble(
    values: &BTreeMap<String, (Value, Origin)>,
    defaults: &BTreeMap<String, (Value, Origin)>,
) -> Result<ModelsSettings, ConfigError> {
    let mut tables: BTreeMap<&str, Table> = BTreeMap::new();
    for (key, (value, _)) in values {
        if let Some((name, field)) = split(key) {
            tables.entry(name).or_default().insert(field.to_owned(), value.clone());
        }
    }
    let wrong = |error: toml::de::Error| ConfigError::Settings(error.to_string());
    let mut named = BTreeMap::new();
    for (name, mut table) in tables {
        if !table.contains_key("source") {
            return Err(ConfigError::Settings(format!(
                "`models.{name}.source` is missing: it says which model this is"
            )));
        }
        let load = table.remove("load").map_or(Ok(LoadWhen::Start), LoadWhen::try_from).map_err(wrong)?;
        for (key, (value, _)) in defaults {
            let Some(field) = key.strip_prefix("model.") else { continue };
            let shared = SHARED.contains(&field).then(|| values.get(key)).flatten();
            let value = shared.map_or(value, |(value, _)| value).clone();
            table.entry(field).or_insert(value);
        }
        named.insert(name.to_owned(), NamedModel { load, model: table.try_into().map_err(wrong)? });
    }
    let limit = values.get("models.max_memory_bytes").and_then(|(value, _)| value.as_integer()).unwrap_or_default();
    Ok(ModelsSettings { max_memory_bytes: u64::try_from(limit).unwrap_or_default(), named })
}

/// A value of the type that `key` has.
pub(super) fn like(key: &str, values: &BTreeMap<String, (Value, Origin)>) -> Option<Value> {
    let pattern = pattern(key);
    if pattern == LOAD {
        return Some(Value::from(LoadWhen::Start.as_str()));
    }
    values.get(&pattern).map(|(value, _)| value.clone())
}

/// What the value of `key` had to be, if this one is not.
pub(super) fn violated(key: &str, value: &Value) -> Option<String> {
    name_problem(key).or_else(|| rules::violated(&pattern(key), value))
}
