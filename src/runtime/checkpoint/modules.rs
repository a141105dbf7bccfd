//! The modules of a sentence-transformers checkpoint: `modules.json`, and the folders that it
//! names.

use std::fs;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::shards::SINGLE;
use crate::runtime::LoadError;

/// The list of a checkpoint's modules.
pub(super) const MODULES: &str = "modules.json";

/// A module behind the transformer, with a folder of its own.
#[derive(Debug, Clone)]
pub struct Module {
    /// Its folder in the checkpoint's: `2_Dense`.
    pub folder: String,
    /// Its class without the package: `Dense`.
    pub kind: String,
    /// Its `config.json`.
    pub config: Value,
    /// Its tensors, if it has any.
    pub(in crate::runtime) weights: Option<PathBuf>,
}

/// Class and folder of each module that `json`, a `modules.json`, lists, apart from those without a
/// folder.
pub(super) fn list(json: &[u8]) -> Result<Vec<(String, String)>, String> {
    let modules: Value = serde_json::from_slice(json).map_err(|error| format!("is not JSON: {error}"))?;
    let modules = modules.as_array().ok_or("is not a list of modules")?;
    let mut found = Vec::new();
    for module in modules {
        let text = |key: &str| module.get(key).and_then(Value::as_str);
        let (Some(class), Some(folder)) = (text("type"), text("path")) else {
            return Err(format!("has a module without type or path: {module}"));
        };
        if !Path::new(folder).components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(format!("has a module outside the checkpoint's folder: {folder}"));
        }
        let kind = class.rsplit('.').next().unwrap_or(class);
        if !folder.is_empty() {
            found.push((kind.to_owned(), folder.to_owned()));
        }
    }
    Ok(found)
}

/// The modules of the checkpoint in a folder; none if it has no `modules.json`.
///
/// # Errors
/// [`LoadError::Malformed`] for a malformed list or configuration.
pub(super) fn read(folder: &Path) -> Result<Vec<Module>, LoadError> {
    let path = folder.join(MODULES);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let unreadable = |path: &Path, source| LoadError::File { path: path.to_path_buf(), source };
    let malformed = |path: &Path, problem| LoadError::Malformed { path: path.to_path_buf(), problem };
    let json = fs::read(&path).map_err(|source| unreadable(&path, source))?;
    let listed = list(&json).map_err(|problem| malformed(&path, problem))?;
    let module = |(kind, name): (String, String)| {
        let config = folder.join(&name).join("config.json");
        let weights = Some(folder.join(&name).join(SINGLE)).filter(|path| path.exists());
        let config = match fs::read(&config) {
            Ok(json) => {
                serde_json::from_slice(&json).map_err(|error| malformed(&config, format!("is not JSON: {error}")))?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Value::Null,
            Err(source) => return Err(unreadable(&config, source)),
        };
        Ok(Module { folder: name, kind, config, weights })
    };
    listed.into_iter().map(module).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_listed_by_class_and_folder() {
        let json = br#"[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]"#;
        assert_eq!(list(json).unwrap(), [("Pooling".to_owned(), "1_Pooling".to_owned())]);
        for (json, problem) in [
            (r#"[{"type": "a.B", "path": "../x"}]"#, "outside the checkpoint's folder: ../x"),
            (r#"[{"type": "a.B", "path": "/x"}]"#, "outside the checkpoint's folder: /x"),
            (r#"[{"path": "x"}]"#, "without type or path"),
            ("{}", "is not a list"),
        ] {
            let error = list(json.as_bytes()).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }
}
