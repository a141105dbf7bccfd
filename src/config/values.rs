//! Settings as key-value pairs: read from one source, checked, and put in place of an earlier
//! value.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::error::ConfigError;
use super::named::{self, pattern};
use super::rules::violated_rule;
use super::source::{ENVIRONMENT_PREFIX, Origin, Sources, Values};
use super::suggest::suggest_key;
use crate::telemetry::mask_url_secrets;

/// Every key with its comment and default: the operator's reference.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// Keys that name a file of API keys. An empty value from the operator is refused.
const KEYS_FILES: [&str; 2] = ["auth.keys_file", "auth.admin_keys_file"];

/// The values of `config/default.toml`.
pub(super) fn defaults() -> Result<Values, ConfigError> {
    let pairs = parse_toml(DEFAULTS, Path::new("config/default.toml"))?;
    Ok(pairs.into_iter().map(|(key, value)| (key, (value, Origin::Default))).collect())
}

/// The values of all sources; a later source wins: defaults, file, environment, flags.
pub(super) fn read_sources(sources: &Sources) -> Result<Values, ConfigError> {
    let mut values = defaults()?;
    if let Some(path) = &sources.file {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::File { path: path.clone(), source })?;
        for (key, value) in parse_toml(&text, path)? {
            set(&mut values, key, value, Origin::File(path.clone()))?;
        }
    }
    for (name, text) in &sources.environment {
        let Some(rest) = name.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
        let key = rest.to_lowercase().replace("__", ".");
        let origin = Origin::Environment(name.clone());
        // An unknown key has no type; `set` refuses it.
        let value = example_value(&key, &values)
            .map_or_else(|| Ok(Value::from(text.as_str())), |example| parse_text(&key, text, &example, &origin))?;
        set(&mut values, key, value, origin)?;
    }
    for flag in &sources.flags {
        set(&mut values, flag.key.to_owned(), flag.value.clone(), Origin::Flag(flag.flag))?;
    }
    Ok(values)
}

/// A value as TOML, with secrets in URLs masked.
pub(super) fn printed(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), |text| Value::from(mask_url_secrets(text).as_ref()).to_string())
}

fn parse_toml(text: &str, path: &Path) -> Result<Vec<(String, Value)>, ConfigError> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax {
        path: PathBuf::from(path),
        problem: error.to_string(),
    })?;
    Ok(flatten(table))
}

/// Turns tables into dotted keys. An empty table stays a value, so that its name is checked.
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

/// Checks a value and puts it in place.
fn set(values: &mut Values, key: String, value: Value, origin: Origin) -> Result<(), ConfigError> {
    let is_section = values.keys().any(|known| known.strip_prefix(&key).is_some_and(|rest| rest.starts_with('.')));
    if is_section && value.as_table().is_some_and(Table::is_empty) {
        return Ok(());
    }
    if key.strip_prefix(named::SECTION).is_some_and(|name| !name.contains('.')) && value.is_table() {
        return Err(named::missing_source(&key));
    }
    let Some(example) = example_value(&key, values) else {
        let nearest = suggest_key(&key, values.keys().map(String::as_str)).map(str::to_owned);
        return Err(ConfigError::UnknownKey { key, origin, nearest });
    };
    // A whole number is accepted where a fraction is expected.
    let value = match (&example, value) {
        (Value::Float(_), Value::Integer(number)) => Value::Float(number as f64),
        (_, value) => value,
    };
    named::check_name(&key)?;
    if !example.same_type(&value) {
        return Err(ConfigError::WrongType { key, origin, expected: type_name(&example), value: printed(&value) });
    }
    if let Some(allowed) = violated_rule(&key, &value) {
        return Err(ConfigError::OutOfRange { key, origin, value: printed(&value), allowed });
    }
    if KEYS_FILES.contains(&key.as_str()) && is_empty_setting(&value, &origin) {
        return Err(ConfigError::EmptyKeysFile { key, origin });
    }
    values.insert(key, (value, origin));
    Ok(())
}

/// Whether the value is blank where a path was meant. A configuration file may say `""` for "none",
/// as the defaults do.
fn is_empty_setting(value: &Value, origin: &Origin) -> bool {
    let text = value.as_str().unwrap_or_default();
    text.trim().is_empty() && !(text.is_empty() && matches!(origin, Origin::File(_)))
}

/// A value of the type that `key` has, if the key exists.
fn example_value(key: &str, values: &Values) -> Option<Value> {
    let pattern = pattern(key);
    named::example_value(&pattern).or_else(|| values.get(&pattern).map(|(value, _)| value.clone()))
}

/// Reads the text of an environment variable as a value of the type that `example` has.
fn parse_text(key: &str, text: &str, example: &Value, origin: &Origin) -> Result<Value, ConfigError> {
    let parsed = match example {
        Value::Integer(_) => text.trim().parse().ok().map(Value::Integer),
        Value::Float(_) => text.trim().parse().ok().map(Value::Float),
        Value::Boolean(_) => text.trim().to_lowercase().parse().ok().map(Value::Boolean),
        Value::String(_) => Some(Value::from(text)),
        Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
    };
    parsed.ok_or_else(|| ConfigError::WrongType {
        key: key.to_owned(),
        origin: origin.clone(),
        expected: type_name(example),
        value: printed(&Value::from(text)),
    })
}

/// A value's type, as messages name it.
fn type_name(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "an array",
        Value::Table(_) => "a table",
    }
}
