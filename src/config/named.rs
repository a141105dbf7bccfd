//! `[models.NAME]`: tables with names of the operator's choice, which take every key of `[model]`.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::cascades::{flatten, parse_cascade};
use super::error::ConfigError;
pub(super) use super::source::MODELS_SECTION as SECTION;
use super::source::Values;
use crate::models::{LoadWhen, ModelsSettings, NamedModel, ShadowSettings};

/// Keys that only named models have, as [`pattern`] returns them.
pub(super) const LOAD: &str = "models.NAME.load";
pub(super) const CASCADE: &str = "models.NAME.cascade";
pub(super) const STOP_WHEN_SURE: &str = "models.NAME.stop_when_sure";
pub(super) const SHADOW_OF: &str = "models.NAME.shadow_of";
pub(super) const SHARE: &str = "models.NAME.share";
pub(super) const OWN_KEYS: [&str; 5] = [LOAD, CASCADE, STOP_WHEN_SURE, SHADOW_OF, SHARE];

/// A value of the type that a key of [`OWN_KEYS`] has.
pub(super) fn example_value(pattern: &str) -> Option<Value> {
    match pattern {
        LOAD => Some(Value::from(LoadWhen::Start.as_str())),
        CASCADE => Some(Value::Array(Vec::new())),
        STOP_WHEN_SURE | SHARE => Some(Value::from(0.0)),
        SHADOW_OF => Some(Value::from("")),
        _ => None,
    }
}
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
        Some((_, field)) => {
            let own = OWN_KEYS.iter().find(|key| key.strip_prefix("models.NAME.") == Some(field));
            own.map_or_else(|| format!("model.{field}"), |key| (*key).to_owned())
        }
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
    let (mut named, mut cascades, mut shadows) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (name, mut table) in tables {
        if let Some(shadow) = take_shadow(name, &mut table)? {
            shadows.insert(name.to_owned(), shadow);
        }
        if table.contains_key("cascade") {
            cascades.insert(name.to_owned(), parse_cascade(name, &table)?);
            continue;
        }
        if !table.contains_key("source") {
            return Err(missing_source(&format!("{SECTION}{name}")));
        }
        if table.contains_key("stop_when_sure") {
            let key = format!("{SECTION}{name}.stop_when_sure");
            return Err(ConfigError::Unusable { key, problem: "is for cascades; this model is none".to_owned() });
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
    let max_memory_bytes = u64::try_from(limit).unwrap_or_default();
    Ok(ModelsSettings { max_memory_bytes, named, cascades: flatten(&cascades)?, shadows })
}

/// Takes out of a table what makes the model a shadow of another one.
fn take_shadow(name: &str, table: &mut Table) -> Result<Option<ShadowSettings>, ConfigError> {
    let of = table.remove("shadow_of").and_then(|of| of.as_str().map(str::to_owned)).filter(|of| !of.is_empty());
    let share = table.remove("share").and_then(|share| share.as_float());
    match (of, share) {
        (None, None) => Ok(None),
        (Some(of), Some(share)) if of != name => Ok(Some(ShadowSettings { of, share })),
        (Some(_), Some(_)) => {
            let problem = "a model cannot be its own shadow".to_owned();
            Err(ConfigError::Unusable { key: format!("{SECTION}{name}.shadow_of"), problem })
        }
        (of, _) => {
            let missing = if of.is_some() { "share" } else { "shadow_of" };
            let problem = "is missing; a shadow has `shadow_of`, a model's name, and `share`, from 0 to 1".to_owned();
            Err(ConfigError::Unusable { key: format!("{SECTION}{name}.{missing}"), problem })
        }
    }
}

/// The error for a table `models.NAME` without a source.
pub(super) fn missing_source(table: &str) -> ConfigError {
    let problem = "is missing; set it to a folder with a checkpoint or a hub id, or make the model a cascade";
    ConfigError::Settings(format!("`{table}.source` {problem}"))
}
