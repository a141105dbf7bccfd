//! Who may ask, as it is configured. Keys themselves are no settings: they would be printed with them.

use serde::{Deserialize, Serialize};

/// API keys and their limits (`[auth]` in the configuration).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthSettings {
    /// A file with one key a line, or nothing.
    pub keys_file: String,
    /// Requests a minute for each key that has no limit of its own; 0 is no limit.
    pub requests_per_minute: u32,
    /// Whether `/metrics` needs a key.
    pub protect_metrics: bool,
    /// A file with administrators' keys, or nothing.
    pub admin_keys_file: String,
}
