//! Configuration errors. Each message names the key, the value and where the value came from.

use std::path::PathBuf;

use super::source::Origin;

/// A configuration that is refused. Values are TOML, with secrets in URLs masked.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is not valid TOML.
    #[error("{}: {problem}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column and problem, in several lines.
        problem: String,
    },
    /// The key does not exist.
    #[error("unknown configuration key `{key}` ({origin}); {}", suggestion(nearest.as_deref()))]
    UnknownKey {
        /// The key.
        key: String,
        /// Where it was given.
        origin: Origin,
        /// The key that was probably meant.
        nearest: Option<String>,
    },
    /// The value's type differs from the type of the key's default.
    #[error("`{key}` must be {expected}, not {value} ({origin})")]
    WrongType {
        /// The key.
        key: String,
        /// Where it was set.
        origin: Origin,
        /// The type of the key, with its article.
        expected: &'static str,
        /// The value.
        value: String,
    },
    /// The value is not one that the key may have.
    #[error("`{key}` must be {allowed}, not {value} ({origin})")]
    OutOfRange {
        /// The key.
        key: String,
        /// Where it was set.
        origin: Origin,
        /// The value.
        value: String,
        /// The values that are allowed.
        allowed: String,
    },
    /// The path of a keys file is set to nothing, often by a variable that is not defined. Ignoring
    /// it would leave the server open.
    #[error("`{key}` is empty ({origin}): give the path of a keys file, or remove this setting")]
    EmptyKeysFile {
        /// The key.
        key: String,
        /// Where it was set.
        origin: Origin,
    },
    /// The limit never takes effect, because another limit is always reached first.
    #[error(
        "`{key}` = {value} ({origin}) never takes effect, because `{bound}` = {bound_value} ({bound_origin}) is lower; \
         lower `{key}` or raise `{bound}`"
    )]
    Ineffective {
        /// The key.
        key: String,
        /// Its value.
        value: i64,
        /// Where it was set.
        origin: Origin,
        /// The key of the other limit.
        bound: &'static str,
        /// The value of the other limit.
        bound_value: i64,
        /// Where the other limit was set.
        bound_origin: Box<Origin>,
    },
    /// An environment variable looks like one of Podium's, but is not.
    #[error("unknown environment variable {name}; did you mean {meant}?")]
    Variable {
        /// The variable.
        name: String,
        /// The variable that was probably meant.
        meant: String,
    },
    /// An environment variable that sets no key has a value that means nothing.
    #[error("{name} must be one of {}, not {value:?}", allowed.join(", "))]
    VariableValue {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// The values that are allowed.
        allowed: &'static [&'static str],
    },
    /// The value names something that does not exist or cannot be used.
    #[error("`{key}`: {problem}")]
    Unusable {
        /// The key.
        key: String,
        /// The problem.
        problem: String,
    },
    /// A section is incomplete, or the defaults and the code disagree.
    #[error("invalid configuration: {0}")]
    Settings(String),
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(|| "`podium check` lists all keys".to_owned(), |nearest| format!("did you mean `{nearest}`?"))
}
