//! A model's architecture as plain data, read from a checkpoint's `config.json`.
//!
//! One function per model (Bert, Qwen3, ...) fills a [`ModelSpec`] ([`decoders`], [`encoders`]). It
//! rejects, by name, every key whose meaning is not implemented ([`config`]). Everything that runs
//! a model reads the spec and never the architecture.

mod config;
mod decoders;
mod encoders;
mod modules;
mod naming;
mod rotary;
#[cfg(test)]
mod tests;

use std::path::Path;

use self::config::Config;
pub(super) use self::naming::TensorNaming;
pub(super) use self::rotary::{RotaryScaling, RotarySpec};
use super::{LoadError, Pooling};

/// Everything that decides what a model computes, apart from its weights.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ModelSpec {
    /// The checkpoint's own name for its class, e.g. `Qwen3ForCausalLM`.
    pub architecture: String,
    pub naming: TensorNaming,
    /// Tokens see only those before them.
    pub causal: bool,
    pub hidden_size: usize,
    /// Rows of the word embeddings.
    pub vocabulary: usize,
    /// Length of the longest sequence.
    pub max_positions: usize,
    pub embedding: EmbeddingSpec,
    pub attention: AttentionSpec,
    pub mlp: MlpSpec,
    /// The norms of the layers.
    pub norm: NormSpec,
    pub placement: NormPlacement,
    pub layers: Vec<LayerSpec>,
    /// The rotary tables that layers choose from.
    pub rotary: Vec<RotarySpec>,
    pub final_norm: Option<NormSpec>,
    pub output: OutputMatrix,
    pub classifier: Option<ClassifierSpec>,
}

/// The embeddings added to word embeddings, and the norm and scale of the sum.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct EmbeddingSpec {
    /// Factor of the word embeddings.
    pub scale: f32,
    pub positions: Option<LearnedPositions>,
    /// Rows of the token type table; 0 if there is none.
    pub token_types: usize,
    pub norm: Option<NormSpec>,
}

/// A table of position embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LearnedPositions {
    pub rows: usize,
    /// The row of a sequence's first token.
    pub offset: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct AttentionSpec {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// Scores become `cap * tanh(score / cap)`.
    pub soft_cap: Option<f32>,
    /// Biases of the query, key and value projections.
    pub qkv_bias: bool,
    pub output_bias: bool,
    /// Queries and keys are normalised per head, by RMS with this eps.
    pub qk_norm: Option<NormSpec>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct MlpSpec {
    pub intermediate: usize,
    /// `down(activation(gate(x)) * up(x))` rather than `down(activation(up(x)))`.
    pub gated: bool,
    pub activation: Activation,
    pub bias: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Activation {
    Silu,
    /// `x * (1 + erf(x / sqrt(2))) / 2`.
    GeluErf,
    /// The approximation with a tanh.
    GeluTanh,
    Relu,
    Tanh,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct NormSpec {
    pub kind: NormKind,
    pub eps: f64,
    /// Added to the stored weights: 1 in Gemma, else 0.
    pub weight_offset: f32,
}

impl NormSpec {
    /// A norm whose weights are stored as they are.
    pub const fn new(kind: NormKind, eps: f64) -> Self {
        Self { kind, eps, weight_offset: 0. }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NormKind {
    /// Divides by the root mean square.
    Rms,
    /// Subtracts the mean, divides by the standard deviation.
    Layer { bias: bool },
}

/// Where a layer's norms are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NormPlacement {
    /// `x + f(norm(x))`.
    Pre,
    /// `norm(x + f(x))`.
    Post,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct LayerSpec {
    /// Whether attention has a norm. The first layer of ModernBERT has none.
    pub attention_norm: bool,
    /// Index into [`ModelSpec::rotary`] of the table for queries and keys; `None`: no RoPE.
    pub rotary: Option<usize>,
    pub window: Window,
}

/// How many tokens before and after itself a token attends to; `usize::MAX` is no limit. In a
/// causal model `after` has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub before: usize,
    pub after: usize,
}

impl Window {
    pub const NONE: Self = Self { before: usize::MAX, after: usize::MAX };
}

/// The matrix that turns states into logits over the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OutputMatrix {
    /// The word embeddings.
    Tied,
    /// `lm_head.weight`.
    Own,
    /// Nothing.
    None,
}

/// `out(norm(activation(dense(x))))`, each step if there is one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ClassifierSpec {
    pub labels: usize,
    pub pooling: Pooling,
    pub dense: Option<DenseSpec>,
    pub norm: Option<NormSpec>,
    /// Whether the last matrix has a bias.
    pub bias: bool,
    /// Divisor of the results.
    pub temperature: f32,
    /// Each layer from this one on has a last matrix of its own, the last layer included. `None`:
    /// there is one matrix.
    pub start_layer: Option<usize>,
    /// Tensor names of dense layer, norm and last matrix, where each is a module of its own.
    pub module_tensors: Option<[String; 3]>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct DenseSpec {
    pub bias: bool,
    pub activation: Activation,
}

/// The classes of the `architectures` key that can be run.
const SUPPORTED: &[&str] = &[
    "BertForSequenceClassification",
    "BertModel",
    "GemmaForCausalLM",
    "GemmaForSequenceClassification",
    "GemmaModel",
    "JinaForRanking",
    "LayerWiseMiniCPMForCausalLM",
    "LlamaBidirectionalForSequenceClassification",
    "LlamaBidirectionalModel",
    "LlamaForCausalLM",
    "LlamaForSequenceClassification",
    "LlamaModel",
    "MistralForCausalLM",
    "MistralForSequenceClassification",
    "MistralModel",
    "ModernBertForSequenceClassification",
    "ModernBertModel",
    "NewForSequenceClassification",
    "NewModel",
    "Qwen2ForCausalLM",
    "Qwen2ForSequenceClassification",
    "Qwen2Model",
    "Qwen3ForCausalLM",
    "Qwen3ForSequenceClassification",
    "Qwen3Model",
    "RobertaForSequenceClassification",
    "RobertaModel",
    "XLMRobertaForSequenceClassification",
    "XLMRobertaModel",
];

/// The use that a class of a model makes of the final states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    /// `*Model`: the states themselves.
    States,
    /// `*ForCausalLM`: logits over the vocabulary.
    CausalLm,
    /// `*ForSequenceClassification`: a classifier.
    Classification,
}

impl ModelSpec {
    /// Reads `json`, which came from `path`.
    ///
    /// # Errors
    /// [`LoadError::UnknownArchitecture`]; [`LoadError::Malformed`] for a key that is missing, has
    /// an impossible value, or a meaning that is not implemented.
    pub fn parse(json: &[u8], path: &Path) -> Result<Self, LoadError> {
        let malformed = |problem: String| LoadError::Malformed { path: path.to_path_buf(), problem };
        let mut config = Config::parse(json).map_err(malformed)?;
        let architecture = config.architecture();
        let unknown = || LoadError::UnknownArchitecture {
            path: path.to_path_buf(),
            architecture: architecture.clone(),
            supported: SUPPORTED,
        };
        let known = SUPPORTED.contains(&architecture.as_str());
        let (model, task) = split(&architecture).filter(|_| known).ok_or_else(unknown)?;
        let build = match model {
            "Bert" => encoders::bert,
            "XLMRoberta" | "Roberta" => encoders::roberta,
            "ModernBert" => encoders::modern_bert,
            "New" => encoders::gte,
            "Qwen2" => decoders::qwen2,
            "Qwen3" | "Jina" => decoders::qwen3,
            "Llama" => decoders::llama,
            "Gemma" => decoders::gemma,
            "LayerWiseMiniCPM" => decoders::layer_wise_minicpm,
            "LlamaBidirectional" => decoders::llama_bidirectional,
            "Mistral" => decoders::mistral,
            _ => return Err(unknown()),
        };
        let mut spec = build(&mut config, task).map_err(malformed)?;
        config.finish().map_err(malformed)?;
        spec.architecture = architecture;
        Ok(spec)
    }

    /// Width of all query heads together.
    pub fn query_width(&self) -> usize {
        self.attention.heads * self.attention.head_dim
    }

    /// Width of all key heads together.
    pub fn key_width(&self) -> usize {
        self.attention.kv_heads * self.attention.head_dim
    }
}

/// `Qwen3` and the task of `Qwen3ForCausalLM`.
fn split(architecture: &str) -> Option<(&str, Task)> {
    let suffixes = [
        ("ForSequenceClassification", Task::Classification),
        ("ForCausalLM", Task::CausalLm),
        ("ForRanking", Task::States),
        ("Model", Task::States),
    ];
    suffixes.into_iter().find_map(|(suffix, task)| Some((architecture.strip_suffix(suffix)?, task)))
}
