//! Tokens to numbers. The only room that names mistral.rs or candle; it imports no other room.
//!
//! The seam is plain data: a [`ForwardPass`] says which tokens are read, who sees whom, and which
//! numbers are wanted; a [`Readout`] holds just those numbers. Logits of a whole sequence over a
//! whole vocabulary never exist.

mod checkpoint;
mod error;
pub mod fake;
mod hub;
pub mod packed;
mod settings;

pub use checkpoint::{Checkpoint, EMBEDDED_MODEL};
pub use error::{LoadError, RuntimeError};
pub use settings::ModelSettings;

/// A position in a [`ForwardPass`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mark {
    /// 0 is the trunk, `n` is branch `n - 1`.
    pub segment: usize,
    /// Tokens from the segment's start.
    pub offset: usize,
}

impl Mark {
    /// A position in the trunk.
    #[must_use]
    pub const fn trunk(offset: usize) -> Self {
        Self { segment: 0, offset }
    }

    /// A position in branch number `branch`, counted from 0.
    #[must_use]
    pub const fn branch(branch: usize, offset: usize) -> Self {
        Self { segment: branch + 1, offset }
    }
}

/// The top layers in which some positions see beyond their own branch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JointLayers {
    /// How many layers, counted from the last. 0: branches never see each other.
    pub count: usize,
    /// The positions that every probed mark sees in those layers, whatever branch it is in.
    pub shared: Vec<Mark>,
}

/// What is read from a pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// The last layer's states after the final norm, at `marks`, in that order.
    HiddenStates {
        /// Where to read.
        marks: Vec<Mark>,
        /// Whether the checkpoint's projector is applied to them.
        project: bool,
    },
    /// The logits of `token_ids` as the token following each position of `after`.
    NextTokenLogits {
        /// Where to read.
        after: Vec<Mark>,
        /// Which rows of the output matrix.
        token_ids: Vec<u32>,
    },
}

impl Probe {
    /// The positions that are read.
    #[must_use]
    pub fn marks(&self) -> &[Mark] {
        match self {
            Self::HiddenStates { marks, .. } => marks,
            Self::NextTokenLogits { after, .. } => after,
        }
    }

    /// Whether the same is read for `other`, if at other marks.
    fn reads_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::HiddenStates { project, .. }, Self::HiddenStates { project: others, .. }) => project == others,
            (Self::NextTokenLogits { token_ids, .. }, Self::NextTokenLogits { token_ids: others, .. }) => {
                token_ids == others
            }
            (Self::HiddenStates { .. }, Self::NextTokenLogits { .. })
            | (Self::NextTokenLogits { .. }, Self::HiddenStates { .. }) => false,
        }
    }
}

/// One small tree of tokens through the model.
///
/// Every token sees the tokens before it in its own segment; a branch's tokens also see the whole
/// trunk, and take their positions from its end. With no branches this is a plain causal sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardPass {
    /// The tokens that all branches share.
    pub trunk: Vec<u32>,
    /// Continuations of the trunk that do not see each other.
    pub branches: Vec<Vec<u32>>,
    /// Where branches do see each other.
    pub joint_layers: JointLayers,
    /// What is read.
    pub probe: Probe,
}

impl ForwardPass {
    /// Tokens that are read: the trunk once, and every branch. What is kept of earlier passes is among them.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.trunk.len() + self.branches.iter().map(Vec::len).sum::<usize>()
    }

    /// The longest path: positions run below this.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.trunk.len() + self.branches.iter().map(Vec::len).max().unwrap_or(0)
    }
}

/// What a pass's probe asked for, in its order.
#[derive(Debug, Clone, PartialEq)]
pub enum Readout {
    /// One vector per mark.
    HiddenStates(Vec<Vec<f32>>),
    /// One row per mark: a logit for each of the probe's `token_ids`.
    NextTokenLogits(Vec<Vec<f32>>),
}

/// What a loaded model is, for people and for limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFacts {
    /// The checkpoint's architecture, as its configuration names it.
    pub architecture: String,
    /// `cpu`, `cuda` or `metal`.
    pub device: String,
    /// What it computes in: `f32`, `bf16`, `int8`, `q4k`, ...
    pub dtype: String,
    /// Parameters, embeddings included.
    pub parameters: usize,
    /// Bytes that they take in memory, about.
    pub weight_bytes: u64,
    /// Width of a hidden state.
    pub hidden_size: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Rows of the embedding matrix.
    pub vocabulary: usize,
    /// Positions the model was made for: the longest path of a pass.
    pub max_positions: usize,
    /// Whether the checkpoint has a projector (late interaction).
    pub projector: bool,
    /// Bytes that keys and values of earlier batches may take beside the weights.
    pub prefix_cache_bytes: u64,
}

impl ModelFacts {
    /// Bytes that the model takes for as long as it is loaded: its weights, and what it may keep.
    #[must_use]
    pub const fn memory_bytes(&self) -> u64 {
        self.weight_bytes + self.prefix_cache_bytes
    }
}

/// What keys and values of earlier batches were good for so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PrefixStatistics {
    /// Tokens at the beginning of passes that were looked for.
    pub looked_up_tokens: u64,
    /// Those of them that were found, and not computed again.
    pub found_tokens: u64,
    /// Bytes that are kept now.
    pub bytes: u64,
    /// Blocks of tokens that were kept and had to leave.
    pub evicted_blocks: u64,
}

/// Something that runs passes.
pub trait Runtime: Send + Sync + 'static {
    /// What the model is.
    fn facts(&self) -> &ModelFacts;

    /// What was reused of earlier batches; nothing where nothing is kept.
    fn prefixes(&self) -> PrefixStatistics {
        PrefixStatistics::default()
    }

    /// Runs a batch on the calling thread: one readout per pass, in order. A pass's readout does not
    /// depend on the batch.
    ///
    /// # Errors
    /// [`RuntimeError`]; nothing is returned of a batch in which one pass fails.
    fn run(&self, batch: &[ForwardPass]) -> Result<Vec<Readout>, RuntimeError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_of_one_kind_and_the_same_tokens_read_alike_at_any_marks() {
        let states = |project, offset| Probe::HiddenStates { marks: vec![Mark::trunk(offset)], project };
        let logits = |token_ids: &[u32], offset| Probe::NextTokenLogits {
            after: vec![Mark::trunk(offset)],
            token_ids: token_ids.to_vec(),
        };
        assert!(states(true, 1).reads_like(&states(true, 2)) && !states(true, 1).reads_like(&states(false, 1)));
        assert!(logits(&[3, 4], 1).reads_like(&logits(&[3, 4], 2)) && !logits(&[3, 4], 1).reads_like(&logits(&[3], 1)));
        assert!(!states(false, 1).reads_like(&logits(&[3], 1)) && !logits(&[3], 1).reads_like(&states(false, 1)));
    }
}
