//! Early exit: documents that leave the model before its last layer.

use super::RankedDocument;
use super::cascade::scale_down_groups;

/// A request's choice about an early exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlyExitChoice {
    /// Every document goes through all layers.
    Off,
    /// Documents leave where the family declares it.
    On,
    /// After `layer` layers, all but the best `keep` documents of a pass leave. For checkpoints
    /// with a head for that layer.
    After {
        /// At least 1, and below the model's layers.
        layer: u16,
        /// At least 1.
        keep: usize,
    },
    /// As `After`, of any decoder, whatever the family declares: to measure it.
    Measured {
        /// At least 1, and below the model's layers.
        layer: u16,
        /// At least 1.
        keep: usize,
    },
}

/// The effect of an early exit and of a cutoff layer on a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EarlyExitReport {
    /// Documents whose score was read before the last layer.
    pub left_early: usize,
    /// The layers that were not computed for them, counted as tokens through all layers.
    pub tokens_saved: usize,
}

impl EarlyExitReport {
    /// Adds another report.
    pub fn add(&mut self, other: Self) {
        self.left_early += other.left_early;
        self.tokens_saved += other.tokens_saved;
    }
}

/// Makes relevances fall along a list in which documents stand behind those that went through more
/// layers: scales their scores down until the best is at most the worst of the others.
pub fn scale_down_early_exits(results: &mut [RankedDocument]) {
    scale_down_groups(results, |left, right| left.exit_layer == right.exit_layer);
}
