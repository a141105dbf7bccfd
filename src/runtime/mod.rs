//! Runs models: tokens in, numbers out. The only module that names mistral.rs or candle; it imports
//! no other module of this crate.
//!
//! The seam is plain data. A [`ForwardPass`] holds token sequences and says which numbers to read
//! from them; an [`Output`] holds just those numbers. Logits over a whole vocabulary are never
//! computed.

mod checkpoint;
mod error;
pub mod fake;
mod gguf;
pub mod packed;
mod pass;
mod prepared;
mod settings;
mod spec;
mod tensors;

use std::sync::Arc;

pub use checkpoint::{Checkpoint, EMBEDDED_MODEL};
pub use error::{LoadError, RuntimeError};
pub use pass::{
    CrossDocumentLayers, EarlyExit, ForwardPass, Head, Output, OutputSpec, Pooling, Positions, ReadStates, StateReader,
    TokenPosition, TokenStates, TokenTypes,
};
pub use prepared::PreparedBatch;
pub use settings::{CPU_INSTRUCTIONS, CPU_INSTRUCTIONS_VARIABLE, ModelSettings};

/// Properties of a loaded model: for display, and for the limits of other modules.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFacts {
    /// The checkpoint's architecture, as its configuration names it.
    pub architecture: String,
    /// `cpu`, `cuda`, `cuda:N` or `metal`.
    pub device: String,
    /// The number format that the layers compute in: `f32`, `bf16`, `int8`, `q4k`, ...
    pub dtype: String,
    /// The processor's instructions for products in that format: `avx512vnni`, `avx2`, `neon sdot`,
    /// ...; `plain` without any. `None` where other code than Podium's kernels multiplies.
    pub cpu_instructions: Option<&'static str>,
    /// Parameters, embeddings included.
    pub parameters: usize,
    /// Approximate bytes of the parameters in memory.
    pub weight_bytes: u64,
    /// Memory of a forward pass.
    pub workspace: WorkspaceSize,
    /// Width of a hidden state.
    pub hidden_size: usize,
    /// Layers.
    pub layers: usize,
    /// Rows of the embedding matrix.
    pub vocabulary: usize,
    /// Length of the longest sequence that a pass may hold, in tokens.
    pub max_positions: usize,
    /// Whether tokens see only those before them. If not, sequences cannot share a prefix.
    pub causal: bool,
    /// Token types that the model tells apart; 0 or 1 for a model without token types.
    pub token_types: usize,
    /// Whether the checkpoint has a projector (late interaction).
    pub projector: bool,
    /// Whether the checkpoint has a projection of token states (`ColBERT`).
    pub token_projection: bool,
    /// Whether the checkpoint can give logits of tokens.
    pub vocabulary_head: bool,
    /// The checkpoint's classifier, if it has one.
    pub classifier: Option<ClassifierFacts>,
    /// Limit of the prefix cache, in bytes.
    pub prefix_cache_bytes: u64,
}

/// A checkpoint's classifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassifierFacts {
    /// Numbers that it gives for a sequence.
    pub labels: usize,
    /// The positions that it reads.
    pub pooling: Pooling,
    /// Each layer from this one on has a classifier of its own, the last layer included. `None`:
    /// only the last one has.
    pub start_layer: Option<usize>,
}

impl ModelFacts {
    /// Bytes that a forward pass of so many tokens takes beside the weights, about.
    #[must_use]
    pub const fn workspace_bytes(&self, tokens: usize) -> u64 {
        self.workspace.bytes(tokens)
    }

    /// Bytes that a loaded model may take: its weights, the limit of its prefix cache, and a batch
    /// of this many tokens.
    #[must_use]
    pub const fn memory_bytes(&self, batch_tokens: usize) -> u64 {
        self.weight_bytes + self.prefix_cache_bytes + self.workspace_bytes(batch_tokens)
    }
}

/// Memory that a forward pass takes beside the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WorkspaceSize {
    /// Bytes for each token of the batch.
    pub bytes_per_token: u64,
    /// Bytes for each row that goes through the matrix products at the same time.
    pub bytes_per_block_row: u64,
    /// Most such rows.
    pub block_rows: usize,
}

impl WorkspaceSize {
    /// Bytes of a batch of so many tokens.
    #[must_use]
    pub const fn bytes(&self, tokens: usize) -> u64 {
        let block = if tokens < self.block_rows { tokens } else { self.block_rows };
        self.bytes_per_token * tokens as u64 + self.bytes_per_block_row * block as u64
    }
}

/// Prefix-cache statistics since the model was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PrefixCacheStatistics {
    /// Tokens that were looked up: the shareable beginnings of all passes.
    pub looked_up_tokens: u64,
    /// Tokens whose keys and values were found in the cache, and so not computed again.
    pub hit_tokens: u64,
    /// Bytes that the cache holds now.
    pub bytes: u64,
    /// Blocks that were evicted.
    pub evicted_blocks: u64,
}

/// A loaded model. Blocking: callers run it off the async threads.
pub trait Runtime: Send + Sync + 'static {
    /// Properties of the model.
    fn facts(&self) -> &ModelFacts;

    /// Statistics of the prefix cache; zeros for a runtime without one.
    fn prefix_cache(&self) -> PrefixCacheStatistics {
        PrefixCacheStatistics::default()
    }

    /// Runs a batch and returns one output per pass, in order. A pass's output does not depend on
    /// the rest of the batch.
    ///
    /// # Errors
    /// [`RuntimeError`] for the whole batch: an invalid pass, a device that fails, a number that is
    /// not finite.
    fn run(&self, batch: &[ForwardPass]) -> Result<Vec<Output>, RuntimeError>;

    /// Computes ahead of a batch's run what needs no device: the layout of its rows. Another batch
    /// may run meanwhile. [`Self::run_prepared`] reports what is wrong with a batch.
    fn prepare(&self, passes: Vec<ForwardPass>) -> PreparedBatch {
        PreparedBatch::new(passes)
    }

    /// Runs a batch that this runtime prepared.
    ///
    /// # Errors
    /// Those of [`Self::run`].
    fn run_prepared(&self, batch: PreparedBatch) -> Result<Vec<Output>, RuntimeError> {
        self.run(batch.passes())
    }
}

impl<R: Runtime + ?Sized> Runtime for Arc<R> {
    fn facts(&self) -> &ModelFacts {
        (**self).facts()
    }

    fn prefix_cache(&self) -> PrefixCacheStatistics {
        (**self).prefix_cache()
    }

    fn run(&self, batch: &[ForwardPass]) -> Result<Vec<Output>, RuntimeError> {
        (**self).run(batch)
    }

    fn prepare(&self, passes: Vec<ForwardPass>) -> PreparedBatch {
        (**self).prepare(passes)
    }

    fn run_prepared(&self, batch: PreparedBatch) -> Result<Vec<Output>, RuntimeError> {
        (**self).run_prepared(batch)
    }
}
