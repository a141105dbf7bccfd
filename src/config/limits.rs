//! How `[limits]` is read into [`LimitSettings`], which knows nothing of files.

use serde::{Deserialize, Serialize};

use crate::rerank::LimitSettings;

/// The fields of [`LimitSettings`], for serde.
#[derive(Serialize, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names are the keys of the configuration")]
#[serde(remote = "LimitSettings", deny_unknown_fields)]
pub(super) struct LimitSettingsDef {
    max_documents: usize,
    max_slate_documents: usize,
    max_slate_tokens: usize,
}
