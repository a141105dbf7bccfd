//! Checkpoints from the Hugging Face hub, kept in its usual cache.
//!
//! The environment is the hub's own: `HF_HOME` (cache), `HF_ENDPOINT`, `HF_TOKEN` or
//! `HUGGING_FACE_HUB_TOKEN` or the token that `huggingface-cli login` left, `HF_HUB_OFFLINE`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use super::diagnosis;
use super::modules::{self, MODULES};
use super::shards::{INDEX, SINGLE, shard_names};
use crate::runtime::{LoadError, ModelSettings};

/// Files that only some checkpoints have: the table of families with lexical evidence, and those
/// that say what a checkpoint is.
const OPTIONAL: [&str; 9] = [
    "lexical.safetensors",
    "instructions.safetensors",
    "README.md",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "artifact.metadata",
    "chat_template.jinja",
    "tokenizer_config.json",
];

/// Whether `source` has the form of a hub id: `owner/name`.
pub(super) fn is_hub_id(source: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|character| character.is_ascii_alphanumeric() || "-_.".contains(character))
    };
    matches!(source.split_once('/'), Some((owner, name)) if plain(owner) && plain(name))
}

/// The hub id of a folder in the hub's cache: `models--owner--name/snapshots/commit`.
pub(super) fn id_of_snapshot(folder: &Path) -> Option<String> {
    let snapshots = folder.parent().filter(|parent| parent.file_name().is_some_and(|name| name == "snapshots"))?;
    let name = snapshots.parent()?.file_name()?.to_str()?.strip_prefix("models--")?;
    Some(name.replacen("--", "/", 1))
}

/// The files of the modules that `modules.json` lists, apart from the model itself.
fn module_files(json: &[u8]) -> Result<Vec<String>, String> {
    let folders = modules::list(json)?.into_iter().map(|(_, folder)| folder);
    Ok(folders.flat_map(|folder| ["config.json", SINGLE].map(|file| format!("{folder}/{file}"))).collect())
}

/// Downloads the model's files unless they are in the cache, and returns their folder.
pub(super) fn fetch(settings: &ModelSettings) -> Result<PathBuf, LoadError> {
    let repository = Repo::with_revision(settings.source.clone(), RepoType::Model, settings.revision.clone());
    let cache =
        if settings.cache.as_os_str().is_empty() { Cache::from_env() } else { Cache::new(settings.cache.clone()) };
    let failed = |problem: String| LoadError::Hub {
        model: settings.source.clone(),
        revision: settings.revision.clone(),
        problem,
    };
    let offline = settings.offline || env::var("HF_HUB_OFFLINE").is_ok_and(|value| !matches!(value.as_str(), "" | "0"));
    let mut files: Box<dyn Files> = if offline {
        Box::new(Offline { cache: cache.repo(repository), location: cache.path().clone() })
    } else {
        let token = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]
            .into_iter()
            .find_map(|name| env::var(name).ok().filter(|token| !token.trim().is_empty()));
        let mut builder =
            ApiBuilder::from_cache(cache.clone()).with_progress(true).with_token(token.or_else(|| cache.token()));
        if let Ok(endpoint) = env::var("HF_ENDPOINT") {
            builder = builder.with_endpoint(endpoint);
        }
        let api = builder.build().map_err(|error| failed(error.to_string()))?;
        Box::new(Online { repository: api.repo(repository), names: None })
    };

    let mut needed = |name: &str| files.get(name).map_err(|problem| failed(files.missing(name).unwrap_or(problem)));
    let config = needed("config.json")?;
    needed("tokenizer.json")?;
    if !files.has(INDEX).map_err(failed)?
        && let Some(problem) = files.missing(SINGLE)
    {
        return Err(failed(problem));
    }
    let shards = if files.has(INDEX).map_err(failed)? {
        let index = files.get(INDEX).map_err(failed)?;
        let json = fs::read(&index).map_err(|source| LoadError::File { path: index.clone(), source })?;
        shard_names(&json).map_err(|problem| LoadError::Malformed { path: index, problem })?
    } else {
        [SINGLE.to_owned()].into()
    };
    for shard in &shards {
        files.get(shard).map_err(failed)?;
    }
    let mut others: Vec<String> = OPTIONAL.map(str::to_owned).to_vec();
    if files.has(MODULES).map_err(failed)? {
        let path = files.get(MODULES).map_err(failed)?;
        let json = fs::read(&path).map_err(|source| LoadError::File { path: path.clone(), source })?;
        others.extend(module_files(&json).map_err(|problem| LoadError::Malformed { path, problem })?);
    }
    for name in others {
        if files.has(&name).map_err(failed)? {
            files.get(&name).map_err(failed)?;
        }
    }
    config.parent().map(PathBuf::from).ok_or_else(|| failed("the cache returned a file without a folder".to_owned()))
}

/// Files of one model, fetched or cached.
trait Files {
    fn has(&mut self, name: &str) -> Result<bool, String>;
    /// Contents of the repository, if it is known to lack a file that a checkpoint needs.
    fn missing(&mut self, name: &str) -> Option<String>;
    fn get(&mut self, name: &str) -> Result<PathBuf, String>;
}

struct Offline {
    cache: hf_hub::CacheRepo,
    location: PathBuf,
}

impl Files for Offline {
    fn has(&mut self, name: &str) -> Result<bool, String> {
        Ok(self.cache.get(name).is_some())
    }

    fn missing(&mut self, _: &str) -> Option<String> {
        None
    }

    fn get(&mut self, name: &str) -> Result<PathBuf, String> {
        self.cache.get(name).ok_or_else(|| {
            format!("`{name}` is not in the cache at {} and fetching is off (offline)", self.location.display())
        })
    }
}

struct Online {
    repository: ApiRepo,
    /// The repository's file names, once they were listed.
    names: Option<Vec<String>>,
}

impl Files for Online {
    fn has(&mut self, name: &str) -> Result<bool, String> {
        if self.names.is_none() {
            let info = self.repository.info().map_err(|error| explain(&error))?;
            self.names = Some(info.siblings.into_iter().map(|sibling| sibling.rfilename).collect());
        }
        Ok(self.names.as_ref().is_some_and(|names| names.iter().any(|known| known == name)))
    }

    fn missing(&mut self, name: &str) -> Option<String> {
        let lacks = matches!(self.has(name), Ok(false));
        let names = self.names.as_ref().filter(|_| lacks)?;
        diagnosis::of_names(names).map(|problem| format!("the repository {problem}"))
    }

    fn get(&mut self, name: &str) -> Result<PathBuf, String> {
        self.repository.get(name).map_err(|error| format!("`{name}`: {}", explain(&error)))
    }
}

/// An error of the hub with what to do about it.
fn explain(error: &ApiError) -> String {
    let text = error.to_string();
    if text.contains("401") || text.contains("403") {
        format!(
            "{text}; the model may not exist, or be gated or private: accept its licence on the hub and set HF_TOKEN"
        )
    } else if text.contains("404") {
        format!("{text}; no such model, revision or file")
    } else {
        format!("{text}; if this machine has no way to the hub, download the files elsewhere and give the folder")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_ids_are_owner_and_name() {
        for id in ["Qwen/Qwen3-Reranker-0.6B", "jinaai/jina-reranker-v3"] {
            assert!(is_hub_id(id), "{id}");
        }
        for other in ["podium-nano", "./folder/name", "a/b/c", "/absolute", "../up", "owner/", "a b/c", ""] {
            assert!(!is_hub_id(other), "{other}");
        }
    }

    #[test]
    fn a_snapshot_folder_of_the_cache_has_a_hub_id() {
        let id = |path: &str| id_of_snapshot(Path::new(path));
        let folder = "/cache/hub/models--Qwen--Qwen3-Reranker-0.6B/snapshots/0123abc";
        assert_eq!(id(folder).as_deref(), Some("Qwen/Qwen3-Reranker-0.6B"));
        assert_eq!(id("/models/Qwen3-Reranker-0.6B"), None);
        assert_eq!(id("/snapshots/abc"), None);
    }

    #[test]
    fn the_files_of_modules_lie_in_their_folders() {
        let json = br#"[{"path": "", "type": "x.Transformer"}, {"path": "2_Dense", "type": "x.Dense"}]"#;
        assert_eq!(module_files(json).unwrap(), ["2_Dense/config.json", "2_Dense/model.safetensors"]);
        assert!(module_files(br#"[{"path": "../x", "type": "x.Dense"}]"#).unwrap_err().contains("../x"));
    }

    #[test]
    fn offline_names_the_missing_file_and_the_cache() {
        let folder = tempfile::tempdir().unwrap();
        let settings = ModelSettings {
            served_names: String::new(),
            source: "owner/model".into(),
            revision: "main".into(),
            family: "auto".into(),
            device: "cpu".into(),
            dtype: "auto".to_owned(),
            quantize: "none".to_owned(),
            early_exit: false,
            cutoff_layer: 0,
            prefix_cache_bytes: 0,
            cache: folder.path().into(),
            offline: true,
        };
        let error = fetch(&settings).unwrap_err().to_string();
        assert!(error.contains("owner/model") && error.contains("config.json") && error.contains("offline"), "{error}");
    }

    #[test]
    fn a_cached_snapshot_is_found_without_the_hub() {
        let cache = tempfile::tempdir().unwrap();
        let model = cache.path().join("models--owner--model");
        let snapshot = model.join("snapshots/abc");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(model.join("refs")).unwrap();
        fs::write(model.join("refs/main"), "abc").unwrap();
        for file in ["config.json", "tokenizer.json", SINGLE] {
            fs::write(snapshot.join(file), "{}").unwrap();
        }
        let settings = ModelSettings {
            served_names: String::new(),
            source: "owner/model".into(),
            revision: "main".into(),
            family: "auto".into(),
            device: "cpu".into(),
            dtype: "auto".to_owned(),
            quantize: "none".to_owned(),
            early_exit: false,
            cutoff_layer: 0,
            prefix_cache_bytes: 0,
            cache: cache.path().into(),
            offline: true,
        };
        assert_eq!(fetch(&settings).unwrap(), snapshot);
    }
}
