//! A checkpoint's files, wherever they come from: the binary itself, a folder, a GGUF file, or the
//! hub.

mod diagnosis;
mod hub;
mod modules;
mod shards;
mod source;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::modules::Module;
use self::shards::{INDEX, SINGLE, shard_names};
use super::gguf::GgufFile;
use super::{LoadError, ModelSettings};

/// The name of the default model, which is compiled in.
pub const EMBEDDED_MODEL: &str = "podium-mini";

/// A model that is compiled in.
struct Embedded {
    name: &'static str,
    config: &'static [u8],
    tokenizer: &'static [u8],
    lexical: &'static [u8],
    instructions: Option<&'static [u8]>,
    weights: &'static [u8],
}

/// The models that are compiled in, the default one first.
static EMBEDDED: [Embedded; 2] = [
    Embedded {
        name: EMBEDDED_MODEL,
        config: include_bytes!("../../../models/podium-mini/config.json"),
        tokenizer: include_bytes!("../../../models/podium-mini/tokenizer.json"),
        lexical: include_bytes!("../../../models/podium-mini/lexical.safetensors"),
        instructions: Some(include_bytes!("../../../models/podium-mini/instructions.safetensors")),
        weights: include_bytes!("../../../models/podium-mini/model.safetensors"),
    },
    Embedded {
        name: "podium-nano",
        config: include_bytes!("../../../models/podium-nano/config.json"),
        tokenizer: include_bytes!("../../../models/podium-nano/tokenizer.json"),
        lexical: include_bytes!("../../../models/podium-nano/lexical.safetensors"),
        instructions: None,
        weights: include_bytes!("../../../models/podium-nano/model.safetensors"),
    },
];

/// The files of a model, before anything is computed.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The model's name: as it was asked for, without the path.
    pub name: String,
    /// Its id on the hub, where it came from there or lies in the hub's cache.
    pub hub_id: Option<String>,
    /// Where the files are, for messages.
    pub location: PathBuf,
    /// `config.json`.
    pub config: Vec<u8>,
    /// `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// `lexical.safetensors`, where the family uses lexical evidence.
    pub lexical: Option<Vec<u8>>,
    /// `instructions.safetensors`, where the family reads its tokens' states.
    pub instructions: Option<Vec<u8>>,
    /// The modules behind the transformer (sentence-transformers' `modules.json`).
    pub modules: Vec<Module>,
    pub(in crate::runtime) weights: Weights,
}

/// Where the tensors are.
#[derive(Debug, Clone)]
pub(in crate::runtime) enum Weights {
    Files(Vec<PathBuf>),
    Gguf(Arc<GgufFile>),
    Embedded(&'static [u8]),
}

impl Checkpoint {
    /// Finds the files of the model that the settings name, fetching them from the hub if need be.
    ///
    /// # Errors
    /// [`LoadError`] names the missing or malformed file, or what the hub said.
    pub fn open(settings: &ModelSettings) -> Result<Self, LoadError> {
        if let Some(embedded) = Self::embedded(&settings.source) {
            return Ok(embedded);
        }
        let folder = Path::new(&settings.source);
        if folder.is_dir() {
            return Self::folder(folder);
        }
        if folder.is_file() {
            return Self::file(folder);
        }
        if !hub::is_hub_id(&settings.source) {
            let problem = source::problem(&settings.source);
            return Err(LoadError::Malformed { path: folder.to_path_buf(), problem });
        }
        let fetched =
            hub::fetch(settings).map_err(|error| error.with_hint(&source::missing_folder(&settings.source)))?;
        Ok(Self::folder(&fetched)?.with_hub_id(settings.source.clone()))
    }

    /// The name that the model of this source has, found without reading its files or asking the
    /// hub.
    #[must_use]
    pub fn name_of(source: &str) -> String {
        let path = Path::new(source);
        if EMBEDDED.iter().any(|embedded| embedded.name == source) {
            source.to_owned()
        } else if path.is_dir() {
            let canonical = canonical(path);
            hub::id_of_snapshot(&canonical).map_or_else(|| folder_name(&canonical), |id| hub_name(&id).to_owned())
        } else if path.is_file() {
            file_name(path)
        } else {
            hub_name(source).to_owned()
        }
    }

    /// The model of this name that is compiled into the binary, if there is one.
    #[must_use]
    pub fn embedded(name: &str) -> Option<Self> {
        EMBEDDED.iter().find(|embedded| embedded.name == name).map(Self::from_binary)
    }

    /// podium-mini, the default model.
    #[must_use]
    pub fn podium_mini() -> Self {
        Self::from_binary(&EMBEDDED[0])
    }

    /// podium-nano, the small fast model.
    #[must_use]
    pub fn podium_nano() -> Self {
        Self::from_binary(&EMBEDDED[1])
    }

    fn from_binary(embedded: &Embedded) -> Self {
        Self {
            name: embedded.name.to_owned(),
            hub_id: None,
            location: PathBuf::from(format!("(embedded)/{}", embedded.name)),
            config: embedded.config.to_vec(),
            tokenizer: embedded.tokenizer.to_vec(),
            lexical: Some(embedded.lexical.to_vec()),
            instructions: embedded.instructions.map(<[u8]>::to_vec),
            modules: Vec::new(),
            weights: Weights::Embedded(embedded.weights),
        }
    }

    /// A GGUF file.
    ///
    /// # Errors
    /// [`LoadError::Malformed`] for any other file, and for a GGUF file that cannot be read.
    pub fn file(path: &Path) -> Result<Self, LoadError> {
        let malformed = |problem: String| LoadError::Malformed { path: path.to_path_buf(), problem };
        if !diagnosis::is_gguf(path) {
            return Err(malformed(diagnosis::of_file(path)));
        }
        let length = fs::metadata(path).map_or(u64::MAX, |metadata| metadata.len());
        if let Some(problem) = lfs_pointer(path, length) {
            return Err(malformed(problem));
        }
        let file = GgufFile::open(path)?;
        Ok(Self {
            name: file_name(path),
            hub_id: None,
            location: path.to_path_buf(),
            config: file.config.clone(),
            tokenizer: file.tokenizer.clone(),
            lexical: None,
            instructions: None,
            modules: Vec::new(),
            weights: Weights::Gguf(Arc::new(file)),
        })
    }

    /// A folder as Hugging Face lays it out: `config.json`, `tokenizer.json`, and
    /// `model.safetensors` or the shards that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// [`LoadError::File`] for a missing file, [`LoadError::Malformed`] for an unreadable index.
    pub fn folder(folder: &Path) -> Result<Self, LoadError> {
        let malformed = |path: PathBuf, problem: String| LoadError::Malformed { path, problem };
        let read = |name: &str| {
            let path = folder.join(name);
            match fs::read(&path) {
                Ok(bytes) => match diagnosis::of_contents(&bytes) {
                    Some(problem) => Err(malformed(path, problem)),
                    None => Ok(bytes),
                },
                Err(error) if error.kind() != ErrorKind::NotFound => Err(LoadError::File { path, source: error }),
                Err(_missing) => Err(match diagnosis::of_link(&path) {
                    Some(problem) => malformed(path, problem),
                    None => malformed(folder.to_path_buf(), diagnosis::of_folder(folder)),
                }),
            }
        };
        if let Some(problem) = diagnosis::of_unread_parts(folder).filter(|_| folder.join("config.json").exists()) {
            return Err(malformed(folder.to_path_buf(), problem));
        }
        let read_if_there = |name: &str| folder.join(name).exists().then(|| read(name)).transpose();
        let canonical = canonical(folder);
        let checkpoint = Self {
            name: folder_name(&canonical),
            hub_id: None,
            location: folder.to_path_buf(),
            config: read("config.json")?,
            tokenizer: read("tokenizer.json")?,
            lexical: read_if_there("lexical.safetensors")?,
            instructions: read_if_there("instructions.safetensors")?,
            modules: modules::read(folder)?,
            weights: Weights::Files(weight_files(folder)?),
        };
        Ok(match hub::id_of_snapshot(&canonical) {
            Some(id) => checkpoint.with_hub_id(id),
            None => checkpoint,
        })
    }

    /// The checkpoint under its name on the hub.
    fn with_hub_id(mut self, id: String) -> Self {
        hub_name(&id).clone_into(&mut self.name);
        self.hub_id = Some(id);
        self
    }

    /// The contents of another file of the checkpoint; `name` may have a folder, as in
    /// `1_Pooling/config.json`. `None` if there is none. A GGUF file has `tokenizer_config.json`
    /// only, and the embedded models have nothing.
    #[must_use]
    pub fn read_other_file(&self, name: &str) -> Option<Vec<u8>> {
        match &self.weights {
            Weights::Embedded(_) => None,
            Weights::Gguf(file) => (name == "tokenizer_config.json").then(|| file.tokenizer_config.clone()),
            Weights::Files(_) => fs::read(self.location.join(name)).ok(),
        }
    }
}

fn canonical(folder: &Path) -> PathBuf {
    fs::canonicalize(folder).unwrap_or_else(|_| folder.to_path_buf())
}

/// The name of a checkpoint in a folder, whose path is canonical.
fn folder_name(canonical: &Path) -> String {
    canonical.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}

/// The name of a checkpoint in one file.
fn file_name(path: &Path) -> String {
    path.file_stem().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}

/// The name of a checkpoint of the hub: its id without the owner.
fn hub_name(id: &str) -> &str {
    id.rsplit('/').next().unwrap_or(id)
}

fn weight_files(folder: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let index = folder.join(INDEX);
    if !index.exists() {
        let single = folder.join(SINGLE);
        if single.exists() {
            return Ok(vec![single]);
        }
        return Err(match diagnosis::of_link(&single) {
            Some(problem) => LoadError::Malformed { path: single, problem },
            None => LoadError::Malformed { path: folder.to_path_buf(), problem: diagnosis::of_folder(folder) },
        });
    }
    let json = fs::read(&index).map_err(|source| LoadError::File { path: index.clone(), source })?;
    let malformed = |problem: String| LoadError::Malformed { path: index.clone(), problem };
    let names = shard_names(&json).map_err(malformed)?;
    let missing: Vec<&str> = names.iter().map(String::as_str).filter(|name| !folder.join(name).exists()).collect();
    if missing.is_empty() {
        return Ok(names.iter().map(|name| folder.join(name)).collect());
    }
    let (count, all, list) = (missing.len(), names.len(), missing.join(", "));
    Err(malformed(format!("names {all} files, and {count} of them are missing ({list}); the download is not complete")))
}

/// The problem with a weight file of this length that is a Git LFS pointer; nothing for other
/// files.
pub(super) fn lfs_pointer(path: &Path, length: u64) -> Option<String> {
    /// Pointers are about 130 bytes.
    const MAX_POINTER: u64 = 1024;
    let bytes = if length <= MAX_POINTER { fs::read(path).ok()? } else { return None };
    diagnosis::of_contents(&bytes)
}
