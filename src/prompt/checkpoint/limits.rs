//! Facts of a checkpoint that its prompts depend on.

use std::sync::Arc;

use super::classifier::ClassifierReadout;
use super::colbert::ColbertSettings;
use super::podium_config::Calibration;
use crate::evidence::EvidenceModel;

/// The answers whose logits make a pointwise score:
/// raw = logit(positive) - logit(negative), relevance = sigmoid(scale * raw + bias).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Answers {
    /// Id of the answer for a relevant document.
    pub positive: u32,
    /// Id of the answer for an irrelevant one, where it is part of the score.
    pub negative: Option<u32>,
    /// Scale and bias.
    pub calibration: Calibration,
}

/// The facts of a model that limit its prompts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ModelLimits {
    /// The checkpoint's hub id or folder.
    pub name: String,
    /// The model's context, in tokens.
    pub context: usize,
    /// Its layers.
    pub layers: usize,
    /// Rows of its embedding matrix.
    pub vocabulary: usize,
    /// Whether tokens see those after them.
    pub bidirectional: bool,
    /// Whether it tells the second text of a pair from the first by token types.
    pub token_types: bool,
    /// Its classifier, where it has one in place of an output matrix.
    pub classifier: Option<ClassifierReadout>,
    /// How it makes its sequences, where its tokens' states are projected and compared.
    pub colbert: Option<ColbertSettings>,
    /// The read-out of its tokens' states, where it has one.
    pub evidence: Option<Arc<EvidenceModel>>,
    /// The tokens of its `LogitScore`.
    pub answers: Option<Answers>,
    /// The prompt that sentence-transformers uses by default: before the query of a pair, as the
    /// system message of a chat template.
    pub default_prompt: Option<String>,
}
