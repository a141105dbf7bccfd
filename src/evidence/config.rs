//! The constants of the read-out, in `podium` of the checkpoint's `config.json`.

use serde::Deserialize;

use super::facts::FactsConfig;

/// The constants of the read-out.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct EvidenceConfig {
    /// The layers after which states are read: an earlier one and the last.
    pub states_after_layers: [u16; 2],
    /// The windows of a row.
    pub window: WindowConfig,
    /// How much less later rows of a document count.
    pub later_passages: LaterPassages,
    /// Counts taken from texts.
    pub facts: FactsConfig,
    /// Weights of the best window, of the best tokens and of the words in common.
    pub evidence_weights: [f32; 3],
    /// The look at the other documents.
    pub feedback: FeedbackConfig,
    /// base = scale * evidence + bias
    pub base: BaseConfig,
    /// How much an instruction asks.
    pub gate: GateConfig,
    /// The preference that an instruction states.
    pub wish: WishConfig,
}

/// The windows of a row, in states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct WindowConfig {
    /// States of a window.
    pub tokens: usize,
    /// From the start of a window to the next.
    pub stride: usize,
    /// A window starts at 0, or at least this far from the row's end.
    pub last_start: usize,
}

/// How much less the second and later rows of a document count, in cosines.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct LaterPassages {
    /// For windows.
    pub window_margin: f32,
    /// For tokens.
    pub token_margin: f32,
}

/// The look at the other documents of a slate.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct FeedbackConfig {
    /// Weight of the feedback.
    pub weight: f32,
    /// Temperature of the softmax over the slate.
    pub temperature: f32,
}

/// A linear map.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct BaseConfig {
    /// Factor.
    pub scale: f32,
    /// Addend.
    pub bias: f32,
}

/// How probabilities become a gate.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct GateConfig {
    /// Up to this probability of asking the gate is 0.
    pub closed: f32,
    /// From this probability of asking on it is open.
    pub open: f32,
    /// How far a preference opens it, against 1 for a demand.
    pub preference: f32,
}

/// The sizes of the wish.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct WishConfig {
    /// Numbers of a projected text.
    pub width: usize,
    /// Numbers of the first inner layer.
    pub inner: usize,
    /// Inner numbers of the words' network.
    pub token: usize,
    /// Factor of the whole.
    pub scale: f32,
}
