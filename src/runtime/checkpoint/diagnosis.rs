//! Diagnosis of a path that is no readable checkpoint: what it holds instead, and what to do.

use std::fs;
use std::path::{Path, PathBuf};

use super::shards::{INDEX, SINGLE};

/// The formats that Podium reads, for messages.
const READABLE: &str = "Podium reads folders with config.json, tokenizer.json and *.safetensors, and GGUF files";

/// First bytes of a Git LFS pointer.
const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// Whether a file is named as a GGUF file.
pub(super) fn is_gguf(path: &Path) -> bool {
    has_extension(path, "gguf")
}

/// The problem of a file that is given as the model and is no GGUF file.
pub(super) fn of_file(path: &Path) -> String {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    format!("is a file; give its folder, {}", folder.display())
}

/// The problem of the contents of a file of a checkpoint.
pub(super) fn of_contents(bytes: &[u8]) -> Option<String> {
    let problem = "is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder";
    bytes.starts_with(LFS_POINTER).then(|| problem.to_owned())
}

/// The problem of a path of a checkpoint that cannot be read: a link without a target.
pub(super) fn of_link(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok().filter(|_| !path.exists())?;
    Some(format!(
        "is a link to {}, which does not exist; copy the folder with the files that its links point to (`cp -rL`), or \
         download the model again",
        target.display()
    ))
}

/// Parts of a folder with `config.json` and weights that Podium would ignore: an adapter, or
/// weights in another program's integers.
pub(super) fn of_unread_parts(folder: &Path) -> Option<String> {
    if folder.join("adapter_config.json").exists() {
        let base = adapter_base(folder);
        return Some(format!(
            "has an adapter of {base} beside the model (adapter_config.json), which would not be applied; merge it into \
             the model, for example with peft's `merge_and_unload()`, or remove adapter_config.json"
        ));
    }
    let quantised = [("quantize_config.json", "GPTQ"), ("quant_config.json", "AWQ")];
    let (file, method) = quantised.into_iter().find(|(file, _)| folder.join(file).exists())?;
    Some(format!(
        "holds weights that {method} quantised ({file}), which are not supported; use the checkpoint that they were \
         made from, and model.quantize"
    ))
}

/// Contents of a folder that lacks `config.json`, `tokenizer.json` or weights, and what to do.
pub(super) fn of_folder(folder: &Path) -> String {
    let names = listing(folder);
    if names.is_empty() {
        return format!("is empty; {READABLE}");
    }
    if let Some(name) = names.iter().find(|name| name.ends_with(".incomplete")) {
        return format!("holds an unfinished download ({name}); run the download again");
    }
    let has = |name: &str| names.iter().any(|known| known == name);
    if has("adapter_config.json") && !(has("config.json") && has(SINGLE)) {
        return format!(
            "is an adapter of {} (adapter_config.json); merge it into that model, for example with peft's \
             `merge_and_unload()`, and give the folder of the result",
            adapter_base(folder)
        );
    }
    if !has("config.json")
        && let Some(problem) = of_cache(folder, &names).or_else(|| of_parent(folder, &names))
    {
        return problem;
    }
    of_names(&names).unwrap_or_else(|| format!("is not complete; {READABLE}"))
}

/// Parts that a folder, or a repository on the hub, with files of these names lacks, and what it
/// has instead.
pub(super) fn of_names(names: &[String]) -> Option<String> {
    let has = |name: &str| names.iter().any(|known| known == name);
    let with = |extension: &str| names.iter().find(|name| has_extension(Path::new(name), extension));
    if !has("config.json") {
        let instead = with("gguf").map(|file| format!("has no config.json, but a GGUF file; give that file, {file}"));
        return Some(instead.unwrap_or_else(|| match with("safetensors").or_else(|| with("pth")) {
            Some(file) => format!("has {file}, but no config.json; {READABLE}: download all files of the model"),
            None => format!("has no config.json, so it is no checkpoint; {READABLE}"),
        }));
    }
    if !has(SINGLE) && !has(INDEX) {
        return Some(no_weights(names));
    }
    if has("tokenizer.json") {
        return None;
    }
    let other = ["vocab.txt", "tokenizer.model", "sentencepiece.bpe.model", "spiece.model", "vocab.json"];
    Some(match other.into_iter().find(|name| has(name)) {
        Some(file) => format!(
            "has {file}, but no tokenizer.json; make it with transformers: \
             `AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`"
        ),
        None => "has no tokenizer.json; download it from the page of the same model".to_owned(),
    })
}

/// The files in place of `model.safetensors`.
fn no_weights(names: &[String]) -> String {
    let with = |extension: &str| names.iter().find(|name| has_extension(Path::new(name), extension));
    let pickled = ["bin", "pt", "pth", "ckpt", "h5", "msgpack"].into_iter().find_map(with);
    let part = |name: &&String| name.starts_with("model-00") && has_extension(Path::new(name), "safetensors");
    if let Some(file) = names.iter().find(part) {
        return format!("has {file}, but no {INDEX}, which names the parts; download it, or the whole model again");
    }
    if let Some(file) = with("safetensors").filter(|name| !name.contains('/')) {
        return format!("has {file}, but no {SINGLE}; rename it if it holds the whole model");
    }
    if let Some(file) = pickled {
        return format!(
            "has {file}, but no *.safetensors; convert it: load it with transformers and call \
             `save_pretrained(folder, safe_serialization=True)`"
        );
    }
    if let Some(file) = with("gguf") {
        return format!("has no *.safetensors, but a GGUF file; give that file, {file}");
    }
    match with("onnx").or_else(|| with("xml")) {
        Some(file) => format!("has {file}, but no *.safetensors; {READABLE}: download the weights in that form"),
        None => "has no weights; download *.safetensors from the model's page".to_owned(),
    }
}

/// The hub's cache, or a model in it.
fn of_cache(folder: &Path, names: &[String]) -> Option<String> {
    let mut snapshots = names.iter().filter_map(|name| name.strip_prefix("snapshots/"));
    if let Some(commit) = snapshots.find_map(|name| name.split('/').next()) {
        let snapshot = folder.join("snapshots").join(commit);
        return Some(format!("is a model of the hub's cache; give its snapshot, {}", snapshot.display()));
    }
    let cached = names.iter().find_map(|name| name.strip_prefix("models--"))?;
    let id = cached.split('/').next().unwrap_or_default().replacen("--", "/", 1);
    Some(format!("is the hub's cache; give a hub id such as {id} as model.source, and this folder as model.cache"))
}

/// A folder whose folders hold models.
fn of_parent(folder: &Path, names: &[String]) -> Option<String> {
    let models: Vec<&str> = names.iter().filter_map(|name| name.strip_suffix("/config.json")).collect();
    let models: Vec<&str> = models.into_iter().filter(|name| has_weights(&folder.join(name))).collect();
    match models.as_slice() {
        [] => None,
        [model] => Some(format!(
            "has no config.json; the model is in its folder {model}: give {}",
            folder.join(model).display()
        )),
        several => {
            Some(format!("has no config.json, but folders with models: {}; give one of them", several.join(", ")))
        }
    }
}

fn has_weights(folder: &Path) -> bool {
    [SINGLE, INDEX, "pytorch_model.bin"].into_iter().any(|name| folder.join(name).exists())
}

/// The model that an adapter was trained for.
fn adapter_base(folder: &Path) -> String {
    let adapter = fs::read(folder.join("adapter_config.json")).unwrap_or_default();
    let json: serde_json::Value = serde_json::from_slice(&adapter).unwrap_or_default();
    json["base_model_name_or_path"].as_str().unwrap_or("another model").to_owned()
}

/// The files of a folder and of the folders in it, as paths from it. Links count as files.
fn listing(folder: &Path) -> Vec<String> {
    fn add(root: &Path, folder: &Path, depth: usize, names: &mut Vec<String>) {
        for path in entries(folder) {
            let relative = path.strip_prefix(root).unwrap_or(&path);
            if path.is_dir() && depth > 0 {
                // The hub's tools keep unfinished downloads four folders down.
                let hidden = relative.starts_with(".cache");
                add(root, &path, if hidden { 3 } else { depth - 1 }, names);
            } else {
                names.push(relative.to_string_lossy().into_owned());
            }
        }
    }
    let mut names = Vec::new();
    add(folder, folder, 1, &mut names);
    names.sort();
    names
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
