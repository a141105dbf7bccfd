//! What can be wrong with a configuration. Every message says where to look.

use std::path::PathBuf;

use super::Origin;

/// A configuration that is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{}: {problem}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why, in several lines.
        problem: String,
    },
    /// There is no such key.
    #[error("unknown configuration key `{key}` ({origin}){}", hint(nearest.as_deref()))]
    UnknownKey {
        /// The key.
        key: String,
        /// Who gave it.
        origin: Origin,
        /// The key that was probably meant.
        nearest: Option<String>,
    },
    /// The value has another type than the key's default.
    #[error("`{key}` must be of type {expected}, not {value} ({origin})")]
    WrongType {
        /// The key.
        key: String,
        /// Who set it.
        origin: Origin,
        /// The type that the key has.
        expected: &'static str,
        /// The value, as TOML.
        value: String,
    },
    /// The value is not among those that the key may have.
    #[error("`{key}` must be {allowed}, not {value} ({origin})")]
    OutOfRange {
        /// The key.
        key: String,
        /// Who set it.
        origin: Origin,
        /// The value, as TOML.
        value: String,
        /// What it may be.
        allowed: String,
    },
    /// An environment variable that looks like one of Podium's and is none.
    #[error("the environment variable {name} is not read; did you mean {meant}?")]
    Variable {
        /// The variable.
        name: String,
        /// The variable that was probably meant.
        meant: String,
    },
    /// The value names something that is not there or cannot be used.
    #[error("`{key}`: {problem}")]
    Unusable {
        /// The key.
        key: String,
        /// What is wrong with what it names.
        problem: String,
    },
    /// A room does not take its section, though every key passed: the defaults and the code disagree.
    #[error("the settings do not fit: {0}")]
    Settings(String),
}

fn hint(nearest: Option<&str>) -> String {
    nearest
        .map_or_else(|| "; `podium check` lists all keys".to_owned(), |nearest| format!("; did you mean `{nearest}`?"))
}
