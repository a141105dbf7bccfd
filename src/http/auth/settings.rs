//! The `[auth]` section. Keys themselves are not settings, because settings are printed.

use serde::{Deserialize, Serialize};

/// API keys and their limits (`[auth]` in the configuration).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthSettings {
    /// File with one key per line; empty for none.
    pub keys_file: String,
    /// Requests per minute for each key without its own limit; 0 is no limit.
    pub requests_per_minute: u32,
    /// Whether `/metrics` needs a key.
    pub protect_metrics: bool,
    /// File with the administrators' keys; empty for none.
    pub admin_keys_file: String,
}
