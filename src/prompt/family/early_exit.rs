//! Where a family's documents may leave the model before its last layer.

use serde::Deserialize;

/// `[[pointwise.early_exit]]`: an exit that was measured, or trained by the vendor, for models of
/// one depth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyExitFacts {
    /// Layers of the model.
    pub layers: usize,
    /// After how many of them documents leave.
    pub layer: u16,
    /// How many documents of a pass go on.
    pub keep: usize,
}

impl EarlyExitFacts {
    pub(in crate::prompt) fn is_valid(&self) -> bool {
        (1..self.layers).contains(&usize::from(self.layer)) && self.keep > 0
    }
}
