//! Which prompt families there are beside those that are compiled in.

use serde::{Deserialize, Serialize};

/// Prompts (`[prompts]` in the configuration).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptSettings {
    /// A folder with more families; empty is none.
    pub folder: String,
}
