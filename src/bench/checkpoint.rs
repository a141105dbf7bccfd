//! Writes checkpoints with random weights, as folders in Hugging Face's layout.
//!
//! Speed does not depend on the weights' values, so a model can be timed without its weights. The
//! scores are meaningless.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use half::bf16;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::shape::Shape;
use super::tokenizer;
use crate::prompt::{Families, Family, PromptError};
use crate::runtime::packed::tensor_shapes;
use crate::runtime::{Checkpoint, LoadError};

/// Standard deviation of the weights: the usual one for initialising decoders.
const DEVIATION: f32 = 0.02;

/// Number of values that one thread generates at a time; it bounds the memory.
const CHUNK: usize = 1 << 20;

/// Inner and output width of jina-reranker-v3's projector.
const PROJECTOR: (usize, usize) = (512, 512);

/// Maximum positions of jina-reranker-v3. Otherwise its decoder is that of Qwen3-0.6B.
const JINA_POSITIONS: usize = 131_072;

/// The type of the weights in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// bfloat16, two bytes.
    Bf16,
    /// float32, four bytes.
    F32,
}

impl Stored {
    const fn width(self) -> usize {
        match self {
            Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "BF16",
            Self::F32 => "F32",
        }
    }
}

/// The description of a checkpoint to write.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The decoder's sizes. The vocabulary is enlarged if the tokenizer has more tokens.
    pub shape: Shape,
    /// The prompt family that the checkpoint is for.
    pub family: String,
    /// The type of the weights in the file.
    pub stored: Stored,
    /// The bytes of a `tokenizer.json`; `None` to generate one.
    pub tokenizer: Option<Vec<u8>>,
    /// Seed of the random weights.
    pub seed: u64,
}

/// The size of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointSize {
    /// Number of parameters.
    pub parameters: usize,
    /// Size of `model.safetensors`, in bytes.
    pub bytes: u64,
}

/// The reason why a checkpoint could not be written.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The family is unknown.
    #[error(transparent)]
    Family(#[from] PromptError),
    /// The tokenizer is invalid.
    #[error("the tokenizer is invalid: {0}")]
    Tokenizer(String),
    /// The configuration is not that of a supported model.
    #[error(transparent)]
    Model(#[from] LoadError),
    /// A file could not be written.
    #[error("cannot write the checkpoint: {0}")]
    Write(#[from] io::Error),
}

/// The default prompt family of a shape.
#[must_use]
pub fn default_family(shape: &str) -> &'static str {
    match shape {
        "nano" => "podium-nano",
        "qwen2.5-0.5b" => "mxbai-v2",
        _ => "jina-v3",
    }
}

/// Writes `config.json`, `tokenizer.json` and `model.safetensors` into `folder`, which must exist.
/// For podium-nano, also writes the lexical table.
///
/// # Errors
/// Any [`CreateError`].
pub fn create(recipe: &Recipe, folder: &Path) -> Result<CheckpointSize, CreateError> {
    let families = Families::built_in()?;
    let family = families.named(&recipe.family)?;
    let embedded = Checkpoint::podium_nano();
    let lexical = family.facts.name == "podium-nano";
    let tokenizer = match &recipe.tokenizer {
        Some(bytes) => bytes.clone(),
        // The tokenizer of the embedded model.
        None if lexical => embedded.tokenizer,
        None => tokenizer::build(&control_tokens(family)),
    };
    let mut shape = recipe.shape.clone();
    shape.vocab_size = shape.vocab_size.max(vocabulary_size(&tokenizer)?);
    if family.facts.recognise.projector && !lexical {
        shape.max_position_embeddings = shape.max_position_embeddings.max(JINA_POSITIONS);
    }
    let mut config = configuration(&shape, recipe.stored)?;
    if lexical {
        let own: Value = serde_json::from_slice(&embedded.config).map_err(io::Error::from)?;
        config["podium"] = own["podium"].clone();
        fs::write(folder.join("lexical.safetensors"), embedded.lexical.unwrap_or_default())?;
    }
    let tensors = tensors(&config, family.facts.recognise.projector || lexical)?;
    fs::write(folder.join("config.json"), serde_json::to_vec_pretty(&config).map_err(io::Error::from)?)?;
    fs::write(folder.join("tokenizer.json"), tokenizer)?;
    let parameters = tensors.iter().map(Tensor::elements).sum();
    let path = folder.join("model.safetensors");
    write_weights(&tensors, recipe.stored, recipe.seed, File::create(&path)?)?;
    Ok(CheckpointSize { parameters, bytes: fs::metadata(path)?.len() })
}

/// The `config.json` of a decoder with these sizes.
fn configuration(shape: &Shape, stored: Stored) -> Result<Value, CreateError> {
    let mut config = serde_json::to_value(shape).map_err(io::Error::from)?;
    let class = if shape.model_type == "qwen2" { "Qwen2" } else { "Qwen3" };
    config["architectures"] = json!([format!("{class}ForCausalLM")]);
    config["hidden_act"] = "silu".into();
    config["torch_dtype"] = if stored == Stored::Bf16 { "bfloat16" } else { "float32" }.into();
    if shape.model_type == "qwen3" {
        config["attention_bias"] = false.into();
    }
    Ok(config)
}

/// The control tokens of a family.
fn control_tokens(family: &Family) -> Vec<String> {
    // Control tokens of Qwen's chat format, for families that use the checkpoint's own.
    let mut tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(str::to_owned).to_vec();
    let others = family.facts.control_tokens.iter().filter(|token| !tokens.contains(token));
    tokens.extend(others.cloned().collect::<Vec<_>>());
    tokens
}

/// The vocabulary size of a `tokenizer.json`: one more than the highest token id.
fn vocabulary_size(tokenizer: &[u8]) -> Result<usize, CreateError> {
    let json: Value = serde_json::from_slice(tokenizer).map_err(|error| CreateError::Tokenizer(error.to_string()))?;
    let vocabulary = json["model"]["vocab"].as_object().into_iter().flat_map(Map::values);
    let added = json["added_tokens"].as_array().into_iter().flatten().map(|token| &token["id"]);
    let last = vocabulary.chain(added).filter_map(Value::as_u64).max();
    last.map(|last| last as usize + 1).ok_or_else(|| CreateError::Tokenizer("it has no vocabulary".to_owned()))
}

#[derive(Debug)]
struct Tensor {
    name: String,
    shape: Vec<usize>,
    /// Whether all values are 1 (weights of norms) instead of random.
    ones: bool,
}

impl Tensor {
    fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The tensors of a checkpoint with this configuration, with a projector if requested.
fn tensors(config: &Value, projector: bool) -> Result<Vec<Tensor>, CreateError> {
    let config = serde_json::to_vec(config).map_err(io::Error::from)?;
    let mut shapes = tensor_shapes(&config)?;
    if projector {
        let hidden = shapes[0].1[1];
        shapes.push(("projector.0.weight".to_owned(), vec![PROJECTOR.0, hidden]));
        shapes.push(("projector.2.weight".to_owned(), vec![PROJECTOR.1, PROJECTOR.0]));
    }
    let is_norm = |name: &str| name.to_lowercase().ends_with("norm.weight");
    Ok(shapes.into_iter().map(|(name, shape)| Tensor { ones: is_norm(&name), name, shape }).collect())
}

/// Writes a safetensors file: the header, then the tensors in the header's order. All threads
/// generate chunks of values.
fn write_weights(tensors: &[Tensor], stored: Stored, seed: u64, file: File) -> io::Result<()> {
    let mut header = Map::new();
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + tensor.elements() * stored.width();
        let entry = json!({"dtype": stored.name(), "shape": tensor.shape, "data_offsets": [offset, end]});
        header.insert(tensor.name.clone(), entry);
        offset = end;
    }
    let mut header = serde_json::to_vec(&header)?;
    // Tensor data must start at a multiple of eight bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut out = BufWriter::new(file);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    let mut chunk_seed = seed;
    for tensor in tensors {
        let mut remaining = tensor.elements();
        while remaining > 0 {
            let chunks: Vec<(u64, usize)> = (0..rayon::current_num_threads())
                .map_while(|_| {
                    let size = remaining.min(CHUNK);
                    remaining -= size;
                    chunk_seed = chunk_seed.wrapping_add(1);
                    (size > 0).then_some((chunk_seed, size))
                })
                .collect();
            let written: Vec<Vec<u8>> =
                chunks.into_par_iter().map(|(seed, size)| generate_values(seed, size, tensor.ones, stored)).collect();
            for bytes in written {
                out.write_all(&bytes)?;
            }
        }
    }
    out.flush()
}

/// Generates values as bytes: ones, or a uniform distribution with mean 0 and [`DEVIATION`].
fn generate_values(seed: u64, size: usize, ones: bool, stored: Stored) -> Vec<u8> {
    let mut generator = Xoshiro256PlusPlus::seed_from_u64(seed);
    let width = DEVIATION * 12_f32.sqrt();
    let mut bytes = Vec::with_capacity(size * stored.width());
    for _ in 0..size {
        let value = if ones { 1.0 } else { (generator.random::<f32>() - 0.5) * width };
        match stored {
            Stored::Bf16 => bytes.extend_from_slice(&bf16::from_f32(value).to_le_bytes()),
            Stored::F32 => bytes.extend_from_slice(&value.to_le_bytes()),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app;
    use crate::config::{Configuration, Sources};
    use crate::rerank::RerankRequest;
    use crate::runtime::EMBEDDED_MODEL;

    fn recipe(shape: &str, family: &str, stored: Stored) -> Recipe {
        let mut shape = Shape::named(shape).unwrap();
        // Small enough for a test, with the same ratio of query heads to key heads.
        shape.hidden_size = 64;
        shape.head_dim = 16;
        shape.intermediate_size = 96;
        shape.num_hidden_layers = 2;
        shape.vocab_size = 100;
        Recipe { shape, family: family.to_owned(), stored, tokenizer: None, seed: 5 }
    }

    #[tokio::test]
    async fn checkpoints_of_every_family_load_and_rank() {
        for (shape, family, stored) in [
            ("qwen3-0.6b", "jina-v3", Stored::Bf16),
            ("qwen3-8b", "qwen3-reranker", Stored::F32),
            ("qwen2.5-0.5b", "mxbai-v2", Stored::Bf16),
            ("qwen3-4b", "zerank", Stored::Bf16),
            ("qwen2.5-0.5b", "first", Stored::Bf16),
            ("nano", "podium-nano", Stored::F32),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let size = create(&recipe(shape, family, stored), folder.path()).unwrap();
            let mut settings = Configuration::load(&Sources::default()).unwrap().settings;
            settings.model.source = folder.path().display().to_string();
            family.clone_into(&mut settings.model.family);
            "cpu".clone_into(&mut settings.model.device);
            let reranker = app::load_reranker(&settings).unwrap();
            assert_eq!(reranker.facts().parameters, size.parameters, "{family}");
            assert!(size.bytes > (size.parameters * stored.width()) as u64, "{family}");
            let documents = vec!["The garden was small.".to_owned(), "Rain fell on the coast.".to_owned()];
            let ranking = reranker.rerank(RerankRequest::new("Where did it rain?", documents)).await.unwrap();
            assert_eq!(ranking.results.len(), 2, "{family}");
            let difference = ranking.results[0].raw_score - ranking.results[1].raw_score;
            assert!(difference.abs() > 0.0, "{family}: {ranking:?}");
        }
    }

    #[test]
    fn weights_depend_on_the_seed_and_have_the_standard_deviation() {
        let values = |seed| generate_values(seed, 100_000, false, Stored::F32);
        assert_eq!(values(1), values(1));
        assert_ne!(values(1), values(2));
        let numbers: Vec<f32> = values(1).as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let variance = numbers.iter().map(|value| value * value).sum::<f32>() / numbers.len() as f32;
        assert!((variance.sqrt() - DEVIATION).abs() < 1e-3, "{variance}");
    }

    #[test]
    fn shapes_have_the_published_numbers_of_parameters() {
        let parameters = |shape: &str| -> usize {
            let config = configuration(&Shape::named(shape).unwrap(), Stored::Bf16).unwrap();
            tensors(&config, false).unwrap().iter().map(Tensor::elements).sum()
        };
        assert_eq!(parameters("qwen3-0.6b"), 596_049_920);
        assert_eq!(parameters("qwen2.5-0.5b"), 494_032_768);
        assert_eq!(parameters("qwen3-8b"), 8_190_735_360);
    }

    #[test]
    fn an_unknown_family_and_a_broken_tokenizer_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = create(&recipe("nano", "bert", Stored::F32), folder.path()).unwrap_err().to_string();
        assert!(error.contains("no family `bert`") && error.contains(EMBEDDED_MODEL), "{error}");
        let broken = Recipe { tokenizer: Some(b"[]".to_vec()), ..recipe("nano", "jina-v3", Stored::F32) };
        let error = create(&broken, folder.path()).unwrap_err().to_string();
        assert_eq!(error, "the tokenizer is invalid: it has no vocabulary");
    }
}
