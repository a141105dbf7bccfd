//! The families that can be served: compiled in, or from a folder.

use std::path::Path;

use super::declaration::Family;
use crate::prompt::PromptError;

/// The families that can be served.
#[derive(Debug, Clone)]
pub struct Families(Vec<Family>);

macro_rules! built_in {
    ($($name:literal: $($template:literal),*;)+) => {
        [$((
            concat!("prompts/", $name, ".toml"),
            include_str!(concat!("../../../prompts/", $name, ".toml")),
            &[$(($template, include_str!(concat!("../../../prompts/", $template)))),*] as &[(&str, &str)],
        )),+]
    };
}

impl Families {
    /// The families compiled in.
    ///
    /// # Errors
    /// [`PromptError::Declaration`], if one of them were broken.
    pub fn built_in() -> Result<Self, PromptError> {
        let sources = built_in! {
            "podium-mini":;
            "podium-nano": "podium-nano.jinja";
            "jina-v3": "jina-v3.jinja";
            "jina-v3.5": "jina-v3.5.jinja";
            "qwen3-reranker": "qwen3-reranker.jinja";
            "mxbai-v2": "mxbai-v2.jinja";
            "e2rank": "e2rank.jinja";
            "colbert": "colbert.jinja";
            "zerank": "zerank.jinja";
            "contextual": "contextual.jinja";
            "bge-gemma": "bge.jinja";
            "bge-layerwise": "bge.jinja";
            "first": "first.jinja", "yes-no.jinja";
            "yes-no": "yes-no.jinja";
            "nemotron": "nemotron.jinja";
            "logit-score":;
            "cross-encoder":;
        };
        sources
            .into_iter()
            .map(|(file, declaration, templates)| {
                Family::parse(file, declaration, |name| {
                    let found = templates.iter().find(|(template, _)| *template == name);
                    found.map(|(_, text)| (*text).to_owned()).ok_or_else(|| PromptError::Declaration {
                        file: file.to_owned(),
                        problem: format!("template `{name}` is not compiled in"),
                    })
                })
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Adds the families of a folder: every `*.toml` in it, with the templates that it names. A
    /// family replaces one of the same name.
    ///
    /// # Errors
    /// [`PromptError::File`] and [`PromptError::Declaration`], with the file.
    pub fn add_folder(&mut self, folder: &Path) -> Result<(), PromptError> {
        let unreadable = |path: &Path, source| PromptError::File { file: path.display().to_string(), source };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(|source| unreadable(folder, source))? {
            let path = entry.map_err(|source| unreadable(folder, source))?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                files.push(path);
            }
        }
        files.sort();
        for path in files {
            let read = |path: &Path| std::fs::read_to_string(path).map_err(|source| unreadable(path, source));
            let family = Family::parse(&path.display().to_string(), &read(&path)?, |name| read(&folder.join(name)))?;
            self.0.retain(|known| known.facts.name != family.facts.name);
            self.0.push(family);
        }
        Ok(())
    }

    /// The names, in order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.0.iter().map(|family| family.facts.name.clone()).collect()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Family> {
        self.0.iter()
    }

    /// The family of a name.
    ///
    /// # Errors
    /// [`PromptError::UnknownFamily`].
    pub fn named(&self, name: &str) -> Result<&Family, PromptError> {
        self.iter()
            .find(|family| family.facts.name == name)
            .ok_or_else(|| PromptError::UnknownFamily { name: name.to_owned(), available: self.names() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_families_are_compiled_in() {
        let families = Families::built_in().unwrap();
        assert_eq!(families.names()[..3], ["podium-mini", "podium-nano", "jina-v3"]);
        let together = families.iter().filter(|family| !family.facts.has_one_document_per_sequence()).map(Family::name);
        assert_eq!(together.collect::<Vec<_>>(), ["jina-v3", "jina-v3.5", "e2rank", "first"]);
        let error = families.named("bert").unwrap_err().to_string();
        assert!(error.starts_with("there is no family `bert`; there are: podium-mini, podium-nano"), "{error}");
    }

    #[test]
    fn a_folder_adds_families_and_replaces_those_of_the_same_name() {
        let folder = tempfile::tempdir().unwrap();
        let declaration = include_str!("../../../prompts/zerank.toml");
        std::fs::write(folder.path().join("a.toml"), declaration.replace("\"zerank\"", "\"mine\"")).unwrap();
        std::fs::write(folder.path().join("b.toml"), declaration.replace("16384", "99")).unwrap();
        std::fs::write(folder.path().join("zerank.jinja"), "{{ query }}{{ document }}").unwrap();
        let mut families = Families::built_in().unwrap();
        let before = families.names().len();
        families.add_folder(folder.path()).unwrap();
        assert_eq!(families.names().len(), before + 1);
        assert_eq!(families.named("zerank").unwrap().facts.limits.document, 99);
        assert_eq!(families.named("mine").unwrap().pointwise_template.as_deref(), Some("{{ query }}{{ document }}"));
    }
}
