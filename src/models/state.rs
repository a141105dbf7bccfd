//! The state of one named model, its memory, and its errors.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::settings::{LoadWhen, NamedModel};
use super::shadows::ShadowReport;
use crate::pipeline::{CanaryReport, Reranker};
use crate::rerank::shortened;

/// The states of the named models.
pub(super) type States = BTreeMap<String, State>;

/// The state of a named model.
#[derive(Clone, Default)]
pub(super) enum State {
    /// Not in memory.
    #[default]
    Unloaded,
    /// Loading; `bytes` is 0 until they are known.
    Loading { bytes: u64 },
    /// Takes requests.
    Loaded(Arc<Reranker>),
    /// Takes no requests, and finishes those that it has accepted.
    Unloading(Arc<Reranker>),
    /// It could not be loaded.
    Failed { error: Arc<ModelError>, at: Instant },
}

impl State {
    /// The model, if it takes requests.
    pub fn loaded(&self) -> Option<&Arc<Reranker>> {
        match self {
            Self::Loaded(reranker) => Some(reranker),
            Self::Unloaded | Self::Loading { .. } | Self::Unloading(_) | Self::Failed { .. } => None,
        }
    }

    /// The model, if it is in memory.
    pub fn in_memory(&self) -> Option<&Arc<Reranker>> {
        match self {
            Self::Loaded(reranker) | Self::Unloading(reranker) => Some(reranker),
            Self::Unloaded | Self::Loading { .. } | Self::Failed { .. } => None,
        }
    }

    /// Bytes that count towards the limit.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Unloaded | Self::Failed { .. } => 0,
            Self::Loading { bytes } => *bytes,
            Self::Loaded(reranker) | Self::Unloading(reranker) => reranker.memory_bytes(),
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

/// The memory for models, in bytes.
pub(super) struct MemoryLimit {
    /// `models.max_memory_bytes`; 0 is no limit.
    pub limit: u64,
    /// Bytes of the models that are loaded, loading or unloading.
    pub used: u64,
}

impl MemoryLimit {
    /// Whether a model of `bytes` bytes fits beside those that are counted.
    pub fn fits(&self, bytes: u64) -> bool {
        self.limit == 0 || self.used.saturating_add(bytes) <= self.limit
    }
}

/// A model was not loaded or unloaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// The configuration has no such model.
    #[error("model: `{name}` is not configured; there are: {}", available.join(", "))]
    Unknown {
        /// The name in the request; a long one is cut.
        name: String,
        /// The configured names.
        available: Vec<String>,
    },
    /// The default model can be neither loaded nor unloaded: it is always loaded.
    #[error("model: `{name}` is the default model, which is loaded as long as the server runs")]
    Default {
        /// Its name.
        name: String,
    },
    /// A cascade is not unloaded: its models may serve others.
    #[error("model: `{name}` is a cascade; unload its models: {}", models.join(", "))]
    Cascade {
        /// Its name.
        name: String,
        /// The names of its models.
        models: Vec<String>,
    },
    /// The model is loading or unloading.
    #[error("model: `{name}` is being loaded or unloaded; try again when that is done")]
    Busy {
        /// Its name.
        name: String,
    },
    /// The model is over the limit on memory.
    #[error(
        "model: `{name}` takes {bytes} bytes; {used} of models.max_memory_bytes = {limit} are taken; unload another first"
    )]
    NoRoom {
        /// Its name.
        name: String,
        /// Bytes that it takes.
        bytes: u64,
        /// Bytes that the loaded models take.
        used: u64,
        /// The limit.
        limit: u64,
    },
    /// The checkpoint cannot be loaded.
    #[error("model: `{name}` cannot be loaded: {problem}")]
    Failed {
        /// Its name.
        name: String,
        /// The error.
        problem: String,
    },
}

impl ModelError {
    pub(super) fn unknown(name: &str, available: Vec<String>) -> Self {
        Self::Unknown { name: shortened(name), available }
    }
}

/// A model in the lists that clients and administrators see.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelStatus {
    /// The names that it answers to, its own first.
    pub names: Vec<String>,
    /// `loaded`, `loading`, `unloading`, `unloaded` or `failed`.
    pub state: &'static str,
    /// When it is loaded.
    pub load: LoadWhen,
    /// Bytes that count towards the limit now: its weights, the limit of its prefix cache and
    /// its largest batch.
    pub memory_bytes: u64,
    /// The type of the weights, if it is loaded.
    pub dtype: Option<String>,
    /// Tokens that it reads of a document, if it is loaded.
    pub document_tokens: Option<usize>,
    /// How it answered the canary's questions, if it is loaded.
    pub canary: Option<CanaryReport>,
    /// Why it could not be loaded. Only for administrators: it names files.
    pub error: Option<String>,
    /// The names of its models, if it is a cascade.
    pub stages: Option<Vec<String>>,
    /// Its comparison so far, if it is the shadow of another model.
    pub shadow: Option<ShadowReport>,
}

impl ModelStatus {
    pub(super) fn of_default(reranker: &Reranker) -> Self {
        Self {
            names: reranker.names().to_vec(),
            state: "loaded",
            load: LoadWhen::Start,
            memory_bytes: reranker.memory_bytes(),
            dtype: Some(reranker.facts().dtype.clone()),
            document_tokens: Some(reranker.document_tokens()),
            canary: reranker.canary().cloned(),
            error: None,
            stages: None,
            shadow: None,
        }
    }

    pub(super) fn of_named(name: &str, model: &NamedModel, state: &State) -> Self {
        let reranker = state.in_memory();
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
            canary: reranker.and_then(|reranker| reranker.canary().cloned()),
            error,
            stages: None,
            shadow: None,
        }
    }
}
