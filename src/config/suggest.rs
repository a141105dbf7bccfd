//! Did-you-mean suggestions for unknown keys and environment variables.

use strsim::levenshtein;

use super::source::{API_KEYS_VARIABLE, ENVIRONMENT_PREFIX, VARIABLES};
use crate::spelling;

/// Prefix of every environment variable that Podium reads.
pub(super) const VARIABLE_PREFIX: &str = "PODIUM_";

/// Maximum edit distance between a variable and the one that is suggested for it.
const MAX_DISTANCE: usize = 2;

/// Names that other servers use for a key, with and without the key's section before them.
const ALIASES: [(&str, &[&str]); 3] = [
    ("server.listen", &["port", "host", "address", "addr", "bind", "bind_address", "listen_address"]),
    ("model.source", &["model", "model_id", "model_name", "model_path"]),
    ("telemetry.log_level", &["log", "logging", "loglevel", "verbosity"]),
];

/// The known key that was probably meant by `key`.
pub(super) fn suggest_key<'a>(key: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    key_of_alias(&key.replace('.', "_")).or_else(|| spelling::nearest(key, known))
}

/// The variable that was probably meant by `PODIUM_` followed by `rest`.
pub(super) fn suggest_variable<'a>(rest: &str, keys: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let plain = rest.to_lowercase().replace("__", "_");
    if let Some(key) = key_of_alias(&plain) {
        return Some(variable_of(key));
    }
    let variables = VARIABLES.iter().map(|variable| {
        let name = variable.strip_prefix(VARIABLE_PREFIX).unwrap_or(variable);
        (levenshtein(rest, name), (*variable).to_owned())
    });
    let settings = keys.into_iter().map(|key| {
        let spelled = key.replace('.', "_").to_uppercase();
        // A name without its section counts if it is exact.
        let exact = if spelling::last_part(key) == plain { 1 } else { usize::MAX };
        (levenshtein(rest, &spelled).min(exact), variable_of(key))
    });
    let nearest = variables.chain(settings).filter(|(distance, _)| *distance <= MAX_DISTANCE).min();
    let mentions_keys = rest.split('_').any(|word| word == "KEY" || word == "KEYS");
    nearest.map(|(_, meant)| meant).or_else(|| mentions_keys.then(|| API_KEYS_VARIABLE.to_owned()))
}

/// The key that `name` is an alias of. Sections and words are separated by `_`.
fn key_of_alias(name: &str) -> Option<&'static str> {
    for (key, aliases) in ALIASES {
        let section = key.split('.').next().unwrap_or_default();
        let without_section = name.strip_prefix(section).and_then(|rest| rest.strip_prefix('_'));
        if aliases.contains(&name) || without_section.is_some_and(|name| aliases.contains(&name)) {
            return Some(key);
        }
    }
    None
}

/// The environment variable that sets `key`.
fn variable_of(key: &str) -> String {
    format!("{ENVIRONMENT_PREFIX}{}", key.replace('.', "__").to_uppercase())
}
