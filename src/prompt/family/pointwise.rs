//! `[pointwise]` of a declaration: how documents are read one by one.

use serde::Deserialize;

/// How documents are read one by one.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointwiseFacts {
    /// The template's file. Without one, the tokenizer's template for a pair of texts.
    pub template: Option<String>,
    /// Whether the prompt is the checkpoint's chat template instead, with messages of the roles
    /// `query`, `document`, and `system` for an instruction.
    #[serde(default)]
    pub chat_template: bool,
    /// The longest prompt, where it is shorter than the model's context.
    pub budget: Option<PromptBudget>,
    /// The answers whose logits are the score. For a checkpoint with a classifier in place of an
    /// output matrix, the classifier's number is the score; without either, the answers are those
    /// of the checkpoint's `LogitScore`.
    pub readout: Option<AnswerFacts>,
    /// Where documents may leave the model early, for each depth of which that was measured.
    #[serde(default)]
    pub early_exit: Vec<EarlyExitFacts>,
}

/// The longest pointwise prompt. The document is truncated to fit.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptBudget {
    /// Tokens.
    pub tokens: usize,
    /// Which part of the prompt they count.
    pub counts: BudgetScope,
    /// The largest share of it that the query's piece may take.
    pub query_share: Option<f64>,
}

/// Which part of the prompt a [`PromptBudget`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BudgetScope {
    /// The whole prompt.
    Prompt,
    /// From the query's piece to the document's piece.
    Texts,
}

/// The answers whose logits make a pointwise score:
/// raw = logit(positive) - logit(negative), relevance = sigmoid(scale * raw + bias).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerFacts {
    /// The answer of a relevant document.
    pub positive: AnswerToken,
    /// The answer of an irrelevant one, where it is part of the score.
    pub negative: Option<AnswerToken>,
    /// Scale of the raw score.
    pub scale: f32,
    /// Added to the scaled score.
    pub bias: f32,
    /// Other values for some checkpoints of the family, by name.
    #[serde(default)]
    pub by_name: Vec<NamedCalibration>,
}

/// An answer, which is a single token.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum AnswerToken {
    /// Its text.
    Text(String),
    /// Its id, where tokenizers of the family's models differ in the text.
    Id(u32),
}

/// The calibration of checkpoints with this name.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedCalibration {
    /// Part of the checkpoint's name, in lower case.
    pub name: String,
    /// Scale of the raw score.
    pub scale: f32,
    /// Added to the scaled score.
    pub bias: f32,
}

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
    pub(super) fn is_valid(&self) -> bool {
        (1..self.layers).contains(&usize::from(self.layer)) && self.keep > 0
    }
}
