//! Diagnosis of a model's name that is neither a path that exists nor a hub id.

use std::fs;
use std::path::Path;

use strsim::levenshtein;

use super::hub::is_hub_id;
use super::{EMBEDDED, EMBEDDED_MODEL};

/// Addresses of the hub, without their scheme.
const HUB_HOSTS: [&str; 3] = ["huggingface.co/", "www.huggingface.co/", "hf.co/"];

/// The kind of name that `source` is, and what to give instead.
pub(super) fn problem(source: &str) -> String {
    if source.trim().is_empty() {
        return format!("is empty; give a folder, a hub id (owner/name) or `{EMBEDDED_MODEL}`, the built-in model");
    }
    if let Some(problem) = of_address(source).or_else(|| of_revision(source)) {
        return problem;
    }
    if source.starts_with('~') {
        return "begins with ~, which only a shell replaces by the home folder; give the whole path".to_owned();
    }
    let path = Path::new(source);
    if path.is_absolute() || source.starts_with('.') || source.matches('/').count() > 1 {
        return format!("does not exist{}", nearest_path(path));
    }
    let built_in = EMBEDDED.iter().map(|embedded| embedded.name);
    if let Some(near) =
        built_in.clone().filter(|name| is_near(source, name)).min_by_key(|name| levenshtein(source, name))
    {
        return format!("is no model; did you mean `{near}`, which is built in?");
    }
    let built_in: Vec<&str> = built_in.collect();
    format!(
        "is neither a folder nor a hub id (owner/name, such as Qwen/Qwen3-Reranker-0.6B), nor a model that \
         is built in ({}){}",
        built_in.join(", "),
        nearest_path(path)
    )
}

/// Hint about a hub id that could not be fetched: it may have been meant as a folder.
pub(super) fn missing_folder(source: &str) -> String {
    format!("; there is no folder `{source}` either{}", nearest_path(Path::new(source)))
}

/// An address in place of a hub id.
fn of_address(source: &str) -> Option<String> {
    let (scheme, rest) = source.split_once("://").unwrap_or(("", source));
    let on_hub = HUB_HOSTS.into_iter().find_map(|host| rest.strip_prefix(host));
    let Some(id) = on_hub.or((scheme == "hf").then_some(rest)) else {
        let is_address = !scheme.is_empty();
        return is_address.then(|| "is an address; download the model's files, and give their folder".to_owned());
    };
    let parts: Vec<&str> = id.split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        [owner, name, rest @ ..] => {
            let revision = match rest {
                ["tree" | "blob" | "resolve", revision, ..] if *revision != "main" => {
                    format!(", and {revision} as model.revision")
                }
                _ => String::new(),
            };
            Some(format!("is an address of the hub; give the hub id {owner}/{name}{revision}"))
        }
        _ => Some("is an address of the hub without a model; give a hub id (owner/name)".to_owned()),
    }
}

/// `owner/name@revision` and `owner/name:revision`.
fn of_revision(source: &str) -> Option<String> {
    let (id, revision) = source.split_once(['@', ':'])?;
    is_hub_id(id).then(|| format!("has a revision in it; give {id} as the model, and {revision} as model.revision"))
}

/// The names near to a missing path, or the part of it that exists.
fn nearest_path(path: &Path) -> String {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let wanted = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Ok(entries) = fs::read_dir(parent) else {
        let existing = parent.ancestors().skip(1).find(|folder| folder.is_dir());
        let existing = existing.filter(|folder| folder.parent().is_some());
        return existing.map_or_else(String::new, |folder| {
            format!("; neither does {}, but {} does", parent.display(), folder.display())
        });
    };
    let folders = entries.filter_map(Result::ok).filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let near = names.iter().filter(|name| is_near(&wanted, name)).min_by_key(|name| levenshtein(&wanted, name));
    near.map_or_else(String::new, |name| format!("; did you mean {}?", parent.join(name).display()))
}

/// Whether two names differ in at most a third of their letters.
fn is_near(one: &str, other: &str) -> bool {
    let (one, other) = (one.to_lowercase(), other.to_lowercase());
    levenshtein(&one, &other) <= one.len().max(other.len()) / 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_leads_to_the_hub_id() {
        for (source, said) in [
            ("https://huggingface.co/Qwen/Qwen3-Reranker-0.6B", "give the hub id Qwen/Qwen3-Reranker-0.6B"),
            ("huggingface.co/Qwen/Qwen3-Reranker-0.6B/", "give the hub id Qwen/Qwen3-Reranker-0.6B"),
            ("hf://Qwen/Qwen3-Reranker-0.6B", "give the hub id Qwen/Qwen3-Reranker-0.6B"),
            ("https://hf.co/a/b/tree/v2/x", "give the hub id a/b, and v2 as model.revision"),
            ("https://hf.co/a", "without a model"),
            ("s3://bucket/model", "is an address; download"),
            ("Qwen/Qwen3-Reranker-0.6B@abc", "give Qwen/Qwen3-Reranker-0.6B as the model, and abc as model.revision"),
            ("podium-nanno", "did you mean `podium-nano`"),
            ("Qwen3-Reranker-0.6B", "nor a hub id (owner/name, such as"),
            ("~/models/x", "begins with ~"),
            (" ", "is empty"),
        ] {
            assert!(problem(source).contains(said), "{source}: {}", problem(source));
        }
    }

    #[test]
    fn a_missing_path_leads_to_a_folder_with_a_similar_name() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("qwen3-reranker")).unwrap();
        let problem = |name: &str| problem(&folder.path().join(name).display().to_string());
        let right = folder.path().join("qwen3-reranker").display().to_string();
        assert_eq!(problem("qwen-3-rerankr"), format!("does not exist; did you mean {right}?"));
        assert_eq!(problem("zebra"), "does not exist");
        let above = problem("x/y");
        assert!(above.ends_with(&format!("/x, but {} does", folder.path().display())), "{above}");
    }
}
