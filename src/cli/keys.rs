//! API keys from flags and the environment, for `serve` and `check`.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use clap::Args;
use toml::Value;

use crate::config::{API_KEYS_VARIABLE, FlagValue, Settings};
use crate::http::Authenticator;
use crate::http::auth::{Key, KeyError, KeySource};

const KEY_FLAG: &str = "--api-key";
const KEY_HELP: &str = "API key that clients may use; can be repeated. Every user of this machine can read it in the \
                        process list. Prefer --api-keys-file or PODIUM_API_KEYS (keys separated by commas)";

#[derive(Debug, Args)]
pub(super) struct KeyArgs {
    #[arg(long = "api-key", value_name = "KEY", allow_hyphen_values = true, help_heading = "Settings", help = KEY_HELP)]
    keys: Vec<Secret>,
    /// File with API keys, one per line; read again when it changes and on SIGHUP
    #[arg(long = "api-keys-file", value_name = "FILE", help_heading = "Settings")]
    keys_file: Option<String>,
}

impl KeyArgs {
    /// The setting that these flags give. Keys are not settings, because settings are printed.
    pub(super) fn flag_value(&self) -> Option<FlagValue> {
        let path = self.keys_file.as_deref()?;
        Some(FlagValue { flag: "--api-keys-file", key: "auth.keys_file", value: Value::from(path) })
    }

    /// Loads the keys of the flags, the environment and `auth.keys_file`.
    pub(super) fn authenticator(&self, settings: &Settings) -> Result<Authenticator, KeyError> {
        let flags = self.keys.iter().zip(1..);
        let mut keys = flags
            .map(|(key, number)| Key::parse(&key.0, KeySource::Flag(KEY_FLAG, number)))
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(list) = std::env::var_os(API_KEYS_VARIABLE) {
            keys.extend(Key::parse_list(&list.to_string_lossy(), API_KEYS_VARIABLE)?);
        }
        Authenticator::new(&settings.auth, keys)
    }
}

/// A text that `Debug` does not show.
#[derive(Clone)]
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("<hidden>")
    }
}

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        keys: KeyArgs,
    }

    #[test]
    fn keys_on_the_command_line_are_not_printed() {
        let line = Line::parse_from(["podium", "--api-key", "secret-1", "--api-key", "-secret-2"]);
        assert_eq!(format!("{:?}", line.keys), "KeyArgs { keys: [<hidden>, <hidden>], keys_file: None }");
    }
}
