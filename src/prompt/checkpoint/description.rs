//! A checkpoint's description of itself, in its files: sentence-transformers' description, and the
//! checkpoints that it names as itself or as its origin. The name of its folder says nothing.

use serde::Deserialize;
use serde_json::Value;

use crate::prompt::PromptError;

/// The kind of a checkpoint, by sentence-transformers' description.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelKind {
    /// It scores pairs of a query and a document.
    CrossEncoder,
    /// One vector for each text.
    Embedding,
    /// One vector for each token (`ColBERT`).
    LateInteraction,
    /// One weight for each word of the vocabulary (`SPLADE`).
    Sparse,
}

impl ModelKind {
    /// The kind in a message: `an embedding model`.
    #[must_use]
    pub const fn with_article(self) -> &'static str {
        match self {
            Self::CrossEncoder => "a cross-encoder",
            Self::Embedding => "an embedding model, which makes one vector of a text",
            Self::LateInteraction => "a late-interaction model, which makes one vector of each token",
            Self::Sparse => "a sparse embedding model",
        }
    }
}

/// A checkpoint that a file names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedOrigin {
    /// Where the name is: `the hub id`, `the model card's base_model`, ...
    pub place: &'static str,
    /// The name: a hub id or a path.
    pub name: String,
}

/// The description of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description {
    /// Its kind, by sentence-transformers' description.
    pub kind: Option<ModelKind>,
    /// The file that says so.
    pub kind_file: &'static str,
    /// The modules of `modules.json`, without their paths: `Transformer`, `Pooling`, ...
    pub modules: Vec<String>,
    /// The tokens of a `LogitScore` module: those of a relevant document and of an irrelevant one.
    pub answers: Option<(u32, Option<u32>)>,
    /// Names of the checkpoint or of its origin, the most certain first.
    pub names: Vec<NamedOrigin>,
}

#[derive(Deserialize)]
struct Module {
    #[serde(rename = "type")]
    class: String,
    #[serde(default)]
    path: String,
}

#[derive(Deserialize)]
struct LogitScore {
    true_token_id: u32,
    false_token_id: Option<u32>,
}

const MODULES: &str = "modules.json";
const SENTENCE_TRANSFORMERS: &str = "config_sentence_transformers.json";
/// The settings of Stanford's `ColBERT`.
const STANFORD: &str = "artifact.metadata";
const POOLING: &str = "1_Pooling/config.json";

impl Description {
    /// Reads a checkpoint's description. `hub_id` is its id on the hub, where that is known;
    /// `config` its `config.json`; `file` returns the contents of another of its files, if it
    /// exists.
    ///
    /// # Errors
    /// [`PromptError::Declaration`], with the file, for a file that is malformed.
    pub fn read(
        hub_id: Option<&str>,
        config: &Value,
        file: &dyn Fn(&str) -> Option<Vec<u8>>,
    ) -> Result<Self, PromptError> {
        let mut description = Self { names: names(hub_id, config, file("README.md").as_deref()), ..Self::default() };
        let settings: Value = parse(SENTENCE_TRANSFORMERS, file)?.unwrap_or_default();
        let modules: Vec<Module> = parse(MODULES, file)?.unwrap_or_default();
        let mut has_scores = false;
        for Module { class, path } in &modules {
            let name = class.rsplit('.').next().unwrap_or_default();
            let own = format!("{path}/config.json");
            if name == "LogitScore" {
                let tokens: Option<LogitScore> = parse(&own, file)?;
                description.answers = tokens.map(|tokens| (tokens.true_token_id, tokens.false_token_id));
            } else if name != "Transformer" {
                let facts: Value = parse(&own, file)?.unwrap_or_default();
                has_scores = facts["module_output_name"] == "scores";
            }
            description.modules.push(name.to_owned());
        }
        let has = |module: &str| description.modules.iter().any(|known| known == module);
        let is_late = modules.iter().any(|module| module.class.starts_with("pylate."))
            || settings["similarity_fn_name"] == "MaxSim"
            || settings["model_type"] == "ColBERT"
            || file(STANFORD).is_some();
        description.kind_file = match (modules.is_empty(), file(STANFORD)) {
            (false, _) => MODULES,
            (true, Some(_)) => STANFORD,
            (true, None) => SENTENCE_TRANSFORMERS,
        };
        description.kind = if is_late {
            Some(ModelKind::LateInteraction)
        } else if settings["model_type"] == "CrossEncoder" || has("LogitScore") || has_scores {
            Some(ModelKind::CrossEncoder)
        } else if settings["model_type"] == "SparseEncoder" || has("SpladePooling") {
            Some(ModelKind::Sparse)
        } else if settings["model_type"] == "SentenceTransformer" || has("Pooling") {
            Some(ModelKind::Embedding)
        } else if modules.is_empty() && file(POOLING).is_some() {
            description.kind_file = POOLING;
            Some(ModelKind::Embedding)
        } else {
            None
        };
        Ok(description)
    }

    /// The names in one line, for a message.
    pub(in crate::prompt) fn names_listed(&self) -> String {
        let listed: Vec<String> =
            self.names.iter().map(|NamedOrigin { place, name }| format!("{place} is `{name}`")).collect();
        listed.join(", ")
    }
}

/// A JSON file, if it is there.
fn parse<T: for<'de> Deserialize<'de>>(
    name: &str,
    file: &dyn Fn(&str) -> Option<Vec<u8>>,
) -> Result<Option<T>, PromptError> {
    let Some(bytes) = file(name) else { return Ok(None) };
    let malformed = |problem: String| PromptError::Declaration { file: name.to_owned(), problem };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| malformed(error.to_string()))
}

fn names(hub_id: Option<&str>, config: &Value, card: Option<&[u8]>) -> Vec<NamedOrigin> {
    let mut names = Vec::new();
    let mut add = |place, name: &str| {
        let name = name.trim();
        if !name.is_empty() {
            names.push(NamedOrigin { place, name: name.to_owned() });
        }
    };
    if let Some(id) = hub_id {
        add("the hub id", id);
    }
    if let Some(name) = config["_name_or_path"].as_str() {
        add("config.json's _name_or_path", name);
    }
    let card = String::from_utf8_lossy(card.unwrap_or_default());
    let (front_matter, text) = split_card(&card);
    for name in base_models(front_matter) {
        add("the model card's base_model", name);
    }
    if let Some(title) = text.lines().find_map(|line| line.strip_prefix("# ")) {
        add("the model card's title", title);
    }
    names
}

/// The front matter of a model card, between two lines `---`, and the text after it.
fn split_card(card: &str) -> (&str, &str) {
    let card = card.trim_start_matches('\u{feff}').trim_start();
    let parts = card.strip_prefix("---").and_then(|rest| rest.split_once("\n---"));
    parts.unwrap_or(("", card))
}

/// The value of `base_model` in YAML front matter: a name, a list in brackets, or a list of lines
/// with dashes.
fn base_models(front_matter: &str) -> Vec<&str> {
    let mut lines = front_matter.lines().skip_while(|line| !line.starts_with("base_model:"));
    let Some(value) = lines.next().and_then(|line| line.strip_prefix("base_model:")) else { return Vec::new() };
    let value = value.trim();
    if let Some(list) = value.strip_prefix('[').and_then(|list| list.strip_suffix(']')) {
        return list.split(',').map(name_in_yaml).collect();
    }
    if !value.is_empty() {
        return vec![name_in_yaml(value)];
    }
    lines.map_while(|line| line.trim_start().strip_prefix('-')).map(name_in_yaml).collect()
}

/// A YAML scalar without its quotes and its comment.
fn name_in_yaml(text: &str) -> &str {
    let text = text.split(" #").next().unwrap_or_default();
    text.trim().trim_matches(['"', '\''])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(files: &[(&str, &str)]) -> Description {
        let file = |name: &str| {
            let found = files.iter().find(|(known, _)| *known == name);
            found.map(|(_, text)| text.as_bytes().to_vec())
        };
        Description::read(None, &json!({}), &file).unwrap()
    }

    #[test]
    fn sentence_transformers_files_say_what_a_checkpoint_is() {
        let embedding = r#"[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]"#;
        let found = read(&[(MODULES, embedding)]);
        assert_eq!((found.kind, found.kind_file), (Some(ModelKind::Embedding), MODULES));
        assert_eq!(found.modules, ["Transformer", "Pooling"]);
        let late = r#"[{"path": "", "type": "sentence_transformers.models.Transformer"},
            {"path": "1_Dense", "type": "pylate.models.Dense.Dense"}]"#;
        assert_eq!(read(&[(MODULES, late)]).kind, Some(ModelKind::LateInteraction));
        let head = late.replace("pylate.models.Dense.Dense", "sentence_transformers.models.Dense");
        let dense = r#"{"in_features": 8, "out_features": 1, "module_output_name": "scores"}"#;
        assert_eq!(read(&[(MODULES, &head), ("1_Dense/config.json", dense)]).kind, Some(ModelKind::CrossEncoder));
        assert_eq!(read(&[(MODULES, &head)]).kind, None);
        assert_eq!(
            read(&[(SENTENCE_TRANSFORMERS, r#"{"model_type": "SparseEncoder"}"#)]).kind,
            Some(ModelKind::Sparse)
        );
        assert_eq!(read(&[(POOLING, "{}")]).kind, Some(ModelKind::Embedding));
        assert_eq!(read(&[]), Description { kind_file: SENTENCE_TRANSFORMERS, ..Description::default() });
    }

    #[test]
    fn the_tokens_of_a_logit_score_are_read() {
        let modules = r#"[{"path": "", "type": "x.Transformer"}, {"path": "1_LogitScore", "type": "x.LogitScore"}]"#;
        let tokens = r#"{"true_token_id": 9693, "false_token_id": 2152, "module_input_name": "causal_logits"}"#;
        let found = read(&[(MODULES, modules), ("1_LogitScore/config.json", tokens)]);
        assert_eq!((found.kind, found.answers), (Some(ModelKind::CrossEncoder), Some((9693, Some(2152)))));
    }

    #[test]
    fn names_come_from_the_hub_the_configuration_and_the_card() {
        let card =
            "---\nlicense: mit\nbase_model:\n- \"Qwen/Qwen3-Reranker-0.6B\"  # it\n- a/b\ntags:\n- c\n---\n\n# Mine\n";
        let file = |name: &str| (name == "README.md").then(|| card.as_bytes().to_vec());
        let found = Description::read(Some("me/mine"), &json!({"_name_or_path": "/train/out"}), &file).unwrap();
        assert_eq!(
            found.names_listed(),
            "the hub id is `me/mine`, config.json's _name_or_path is `/train/out`, the model card's base_model is \
             `Qwen/Qwen3-Reranker-0.6B`, the model card's base_model is `a/b`, the model card's title is `Mine`"
        );
        assert_eq!(base_models("x: y\nbase_model: Qwen/Qwen3-4B\n"), ["Qwen/Qwen3-4B"]);
        assert_eq!(base_models("base_model: ['a/b', \"c/d\"]"), ["a/b", "c/d"]);
        assert_eq!(base_models("base_model_relation: merge\n"), Vec::<&str>::new());
        assert_eq!(split_card("# Title only"), ("", "# Title only"));
    }

    #[test]
    fn a_malformed_file_is_named() {
        let file = |name: &str| (name == MODULES).then(|| b"{".to_vec());
        let error = Description::read(None, &json!({}), &file).unwrap_err().to_string();
        assert!(error.starts_with("modules.json: "), "{error}");
    }
}
