//! What a path that is no readable checkpoint holds instead, and what to do about it.

use std::fs;
use std::path::{Path, PathBuf};

use super::shards::{INDEX, SINGLE};

/// First bytes of a Git LFS pointer.
const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// Whether a file is named as a GGUF file.
pub(super) fn is_gguf(path: &Path) -> bool {
    has_extension(path, "gguf")
}

/// What is wrong with a file that is given as the model and is no GGUF file.
pub(super) fn of_file(path: &Path) -> String {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    format!("is a file; give its folder, {}", folder.display())
}

/// What is wrong with the contents of a file of a checkpoint.
pub(super) fn of_contents(bytes: &[u8]) -> Option<String> {
    let problem = "is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder";
    bytes.starts_with(LFS_POINTER).then(|| problem.to_owned())
}

/// What a folder holds that lacks `config.json`, `tokenizer.json` or weights; nothing if that says no more than the name of
/// the missing file.
pub(super) fn of_folder(folder: &Path) -> Option<String> {
    let files = entries(folder);
    let with = |extension: &str| files.iter().find(|path| has_extension(path, extension));
    let has = |name: &str| folder.join(name).exists();
    if has("config.json") {
        let pickled = with("bin").or_else(|| with("pt")).filter(|_| !has(SINGLE) && !has(INDEX));
        return pickled.map(|file| {
            format!(
                "has {}, but no *.safetensors; convert it: load it with transformers and call \
                 `save_pretrained(folder, safe_serialization=True)`",
                name(file)
            )
        });
    }
    if let Ok(adapter) = fs::read(folder.join("adapter_config.json")) {
        let json: serde_json::Value = serde_json::from_slice(&adapter).unwrap_or_default();
        let base = json["base_model_name_or_path"].as_str().unwrap_or("another model");
        return Some(format!(
            "is an adapter of {base} (adapter_config.json); merge it into that model, for example with peft's \
             `merge_and_unload()`, and give the folder of the result"
        ));
    }
    if let Some(file) = with("gguf") {
        return Some(format!("has no config.json, but a GGUF file; give that file, {}", file.display()));
    }
    if let Some(snapshot) = entries(&folder.join("snapshots")).into_iter().find(|path| path.is_dir()) {
        return Some(format!("is a model of the hub's cache; give its snapshot, {}", snapshot.display()));
    }
    let cached = files.iter().map(|path| name(path)).find(|name| name.starts_with("models--"))?;
    let id = cached.trim_start_matches("models--").replacen("--", "/", 1);
    Some(format!("is the hub's cache; give a hub id such as {id} as model.source, and this folder as model.cache"))
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
