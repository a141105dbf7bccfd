//! Where settings come from: flags, environment variables and files.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use toml::Value;

use crate::runtime::CPU_INSTRUCTIONS_VARIABLE;

/// The environment variable with the path of the operator's file.
pub const CONFIG_VARIABLE: &str = "PODIUM_CONFIG";
/// The environment variable with API keys, separated by commas.
pub const API_KEYS_VARIABLE: &str = "PODIUM_API_KEYS";

/// Every environment variable that Podium reads and that sets no key.
pub(super) const VARIABLES: [&str; 3] = [CONFIG_VARIABLE, API_KEYS_VARIABLE, CPU_INSTRUCTIONS_VARIABLE];

/// Prefix of the environment variables that set keys: `PODIUM__SECTION__KEY`.
pub const ENVIRONMENT_PREFIX: &str = "PODIUM__";

/// Prefix of the keys of named models.
pub(super) const MODELS_SECTION: &str = "models.";

/// Every key with its value and where the value came from.
pub(super) type Values = BTreeMap<String, (Value, Origin)>;

/// The inputs of a configuration, besides the defaults.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The operator's file.
    pub file: Option<PathBuf>,
    /// All environment variables, by name and value; most are not Podium's.
    pub environment: Vec<(String, String)>,
    /// Command-line flags that set a key.
    pub flags: Vec<FlagValue>,
}

/// A value given on the command line.
#[derive(Debug, Clone, PartialEq)]
pub struct FlagValue {
    /// The flag, as it is typed.
    pub flag: &'static str,
    /// The key that the flag sets.
    pub key: &'static str,
    /// The value.
    pub value: Value,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `config/default.toml`, compiled in.
    Default,
    /// The operator's file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A command-line flag.
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
