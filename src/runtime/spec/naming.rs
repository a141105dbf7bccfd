//! Naming schemes of checkpoint tensors.

/// The scheme by which a checkpoint names the tensors of its layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorNaming {
    /// Llama, Mistral, Qwen.
    Llama,
    /// BERT.
    Bert,
    /// RoBERTa and XLM-RoBERTa, and Jina's files with fused projections.
    Roberta,
    /// GTE's `new` architecture: fused projections.
    Gte,
    /// ModernBERT.
    ModernBert,
}
