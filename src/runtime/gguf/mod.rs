//! GGUF files: llama.cpp's format of a model in one file.
//!
//! A file holds metadata and tensors. [`config`] turns the metadata into the `config.json`, and
//! [`tokenizer`] into the `tokenizer.json`, that a Hugging Face folder of the same model has;
//! [`tensors`] gives the tensors that folder's names. The rest of the runtime knows no other form.
//! candle reads the header and decodes the blocks.

mod config;
mod metadata;
mod tensors;
mod tokenizer;

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::Content;
use memmap2::Mmap;

use self::metadata::Metadata;
pub(super) use self::tensors::GgufTensor;
use super::LoadError;

/// A mapped GGUF file, and its contents in Hugging Face's terms.
pub(super) struct GgufFile {
    map: Mmap,
    path: PathBuf,
    /// `config.json` of the same model.
    pub config: Vec<u8>,
    /// `tokenizer.json` of the same model.
    pub tokenizer: Vec<u8>,
    /// The known part of the same model's `tokenizer_config.json`: the chat template, and the
    /// special tokens that it may name.
    pub tokenizer_config: Vec<u8>,
    /// By the names of the same model's folder.
    tensors: HashMap<String, GgufTensor>,
}

impl std::fmt::Debug for GgufFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("GgufFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl GgufFile {
    /// Maps a file and reads its header.
    ///
    /// # Errors
    /// [`LoadError`] for a file that is incomplete, of an architecture that is not supported, with
    /// metadata whose meaning is not implemented, or with tensors of a type that cannot be read.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let failed = |source| LoadError::File { path: path.to_path_buf(), source };
        let malformed = |problem: String| LoadError::Malformed { path: path.to_path_buf(), problem };
        let mut file = File::open(path).map_err(failed)?;
        let mut reader = BufReader::new(&file);
        let content = Content::read(&mut reader).map_err(|error| malformed(header_problem(&first_line(&error))))?;
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        // SAFETY: a mapped file must not shrink or change while it is mapped. Checkpoints are
        // written once, by a download that renames into place; the documentation warns against
        // editing one under a running server.
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        let metadata = Metadata::new(&content).map_err(malformed)?;
        let mut tensors = tensors::table(&content, &metadata, map.len() as u64).map_err(malformed)?;
        let factors = tensors.remove("rope_freqs.weight");
        let factors = factors.map(|tensor| tensor.read(&map, &(0..tensor.shape[0]).collect::<Vec<_>>())).transpose();
        let factors = factors.map_err(|error| malformed(first_line(&error)))?;
        let config = config::of(&metadata, &tensors, factors.as_deref()).map_err(|problem| match problem {
            config::Problem::Architecture(architecture) => LoadError::UnknownArchitecture {
                path: path.to_path_buf(),
                architecture,
                supported: config::ARCHITECTURES,
            },
            config::Problem::Malformed(problem) => malformed(problem),
        })?;
        let tokenizer = tokenizer::of(&metadata).map_err(malformed)?;
        let tokenizer_config = tokenizer::chat(&metadata).map_err(malformed)?;
        let [config, tokenizer, tokenizer_config] =
            [config, tokenizer, tokenizer_config].map(|json| json.to_string().into_bytes());
        Ok(Self { map, path: path.to_path_buf(), config, tokenizer, tokenizer_config, tensors })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A tensor, by its name in a Hugging Face folder.
    pub fn get(&self, name: &str) -> Option<&GgufTensor> {
        self.tensors.get(name)
    }

    /// All tensors, with their names in a Hugging Face folder.
    pub fn all(&self) -> impl Iterator<Item = (&str, &GgufTensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The contents of the file.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }
}

/// The problem of a file whose header candle does not read.
fn header_problem(error: &str) -> String {
    match error.strip_prefix("unknown dtype for tensor ") {
        Some(number) => format!(
            "has tensors of llama.cpp's type {number}, which is not supported; F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, \
             Q8_0, Q8_1 and Q2_K to Q8_K are"
        ),
        None => format!("is not a complete GGUF file: {error}"),
    }
}

/// An error of candle without its backtrace.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
