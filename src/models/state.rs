//! What can be said of one model: its state, its memory, and why it is not there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::settings::{LoadWhen, NamedModel};
use crate::pipeline::Reranker;
use crate::rerank::shortened;

/// The states of the named models.
pub(super) type States = BTreeMap<String, State>;

/// Where a named model is.
#[derive(Clone, Default)]
pub(super) enum State {
    /// Not here.
    #[default]
    Unloaded,
    /// On its way in; its bytes are taken as soon as they are known.
    Loading { bytes: u64 },
    /// Here.
    Loaded(Arc<Reranker>),
    /// Finishing what it accepted.
    Unloading(Arc<Reranker>),
    /// It could not be loaded.
    Failed { error: Arc<ModelError>, at: Instant },
}

impl State {
    /// Bytes that are taken.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Unloaded | Self::Failed { .. } => 0,
            Self::Loading { bytes } => *bytes,
            Self::Loaded(reranker) | Self::Unloading(reranker) => reranker.facts().memory_bytes(),
        }
    }

    const fn as_str(&self) -> &'static str {
        match self {
            Self::Unloaded => "unloaded",
            Self::Loading { .. } => "loading",
            Self::Loaded(_) => "loaded",
            Self::Unloading(_) => "unloading",
            Self::Failed { .. } => "failed",
        }
    }
}

/// How much memory there is for models.
pub(super) struct Room {
    /// All there may be; 0 is no limit.
    pub limit: u64,
    /// What is taken.
    pub used: u64,
}

impl Room {
    /// Whether there is room for so many bytes more.
    pub fn has(&self, bytes: u64) -> bool {
        self.limit == 0 || self.used.saturating_add(bytes) <= self.limit
    }
}

/// Why a model was not loaded or unloaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// The configuration has no such model.
    #[error("model: `{name}` is not configured; there are: {}", available.join(", "))]
    Unknown {
        /// The name that was asked for, cut where it is long.
        name: String,
        /// The names there are.
        available: Vec<String>,
    },
    /// The default model stays.
    #[error("model: `{name}` is the default model, which is loaded as long as the server runs")]
    Default {
        /// Its name.
        name: String,
    },
    /// The model is on its way in or out.
    #[error("model: `{name}` is being loaded or unloaded; try again when that is done")]
    Busy {
        /// Its name.
        name: String,
    },
    /// It is over the limit.
    #[error(
        "model: `{name}` takes {bytes} bytes; {used} of models.max_memory_bytes = {limit} are taken; unload another first"
    )]
    NoRoom {
        /// Its name.
        name: String,
        /// What it takes.
        bytes: u64,
        /// What the loaded models take.
        used: u64,
        /// The limit.
        limit: u64,
    },
    /// The checkpoint cannot be loaded.
    #[error("model: `{name}` cannot be loaded: {problem}")]
    Failed {
        /// Its name.
        name: String,
        /// What is wrong.
        problem: String,
    },
}

impl ModelError {
    pub(super) fn unknown(name: &str, available: Vec<String>) -> Self {
        Self::Unknown { name: shortened(name), available }
    }
}

/// A model, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelStatus {
    /// What it answers to, its own name first.
    pub names: Vec<String>,
    /// `loaded`, `loading`, `unloading`, `unloaded` or `failed`.
    pub state: &'static str,
    /// When it is loaded.
    pub load: LoadWhen,
    /// Bytes that it takes now: its weights, and what it may keep.
    pub memory_bytes: u64,
    /// The weights' type, where it is loaded.
    pub dtype: Option<String>,
    /// Tokens that are read of a document, where it is loaded.
    pub document_tokens: Option<usize>,
    /// Why it could not be loaded. For administrators: it names files.
    pub error: Option<String>,
}

impl ModelStatus {
    pub(super) fn of_default(reranker: &Reranker) -> Self {
        Self {
            names: reranker.names().to_vec(),
            state: "loaded",
            load: LoadWhen::Start,
            memory_bytes: reranker.facts().memory_bytes(),
            dtype: Some(reranker.facts().dtype.clone()),
            document_tokens: Some(reranker.document_tokens()),
            error: None,
        }
    }

    pub(super) fn of_named(name: &str, model: &NamedModel, state: &State) -> Self {
        let reranker = match state {
            State::Loaded(reranker) | State::Unloading(reranker) => Some(reranker),
            State::Unloaded | State::Loading { .. } | State::Failed { .. } => None,
        };
        let error = match state {
            State::Failed { error, .. } => Some(error.to_string()),
            State::Unloaded | State::Loading { .. } | State::Loaded(_) | State::Unloading(_) => None,
        };
        let served = model.model.served().filter(|other| *other != name).map(str::to_owned);
        Self {
            names: std::iter::once(name.to_owned()).chain(served).collect(),
            state: state.as_str(),
            load: model.load,
            memory_bytes: state.bytes(),
            dtype: reranker.map(|reranker| reranker.facts().dtype.clone()),
            document_tokens: reranker.map(|reranker| reranker.document_tokens()),
            error,
        }
    }
}
