//! Errors of a family, its templates, a tokenizer or a table of lexical evidence. All of them occur
//! while loading; a request has only `RerankError`.

/// A family, tokenizer or table that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// A file of a family cannot be read.
    #[error("cannot read {file}: {source}")]
    File {
        /// The file.
        file: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// A family's declaration is malformed.
    #[error("{file}: {problem}")]
    Declaration {
        /// The file.
        file: String,
        /// The problem.
        problem: String,
    },
    /// A template does not render, or its prompt does not match the declaration.
    #[error("family `{family}`, template {template}: {problem}")]
    Template {
        /// The family.
        family: String,
        /// The template's file name.
        template: String,
        /// The problem.
        problem: String,
    },
    /// No family has this name.
    #[error("there is no family `{name}`; there are: {}", available.join(", "))]
    UnknownFamily {
        /// The requested name.
        name: String,
        /// The names of the families.
        available: Vec<String>,
    },
    /// Nothing in the checkpoint says which family it is of.
    #[error("cannot tell which family `{checkpoint}` is of: {problem}; {}", advice(fitting))]
    NotRecognised {
        /// The checkpoint's name or folder.
        checkpoint: String,
        /// Why not.
        problem: String,
        /// The families that could read it.
        fitting: Vec<String>,
    },
    /// The checkpoint is no reranker, or not of the kind that the family reads.
    #[error(
        "`{checkpoint}` is {kind} ({file}{}{modules}); {}; give a reranker instead",
        if modules.is_empty() { "" } else { ": " },
        family.as_ref().map_or_else(|| "no family reads it".to_owned(), |family| format!("family `{family}` does not read it"))
    )]
    WrongKind {
        /// The checkpoint's name or folder.
        checkpoint: String,
        /// The kind of checkpoint that it is.
        kind: &'static str,
        /// The file that says so.
        file: &'static str,
        /// Its modules, separated by commas.
        modules: String,
        /// The family that was asked for or that its name means.
        family: Option<String>,
    },
    /// `tokenizer.json` is malformed.
    #[error("{file}: {problem}")]
    Tokenizer {
        /// The file.
        file: String,
        /// The problem.
        problem: String,
    },
    /// A token that the family declares is missing or unusable.
    #[error("family `{family}` needs the token `{token}`, but in {file} {problem}")]
    Token {
        /// The family.
        family: String,
        /// The token's text.
        token: String,
        /// The tokenizer's file.
        file: String,
        /// The problem.
        problem: String,
    },
    /// The checkpoint's classifier is missing, or no reranker's.
    #[error("classifier: {0}")]
    Classifier(String),
    /// `lexical.safetensors` is missing or malformed.
    #[error("lexical evidence table: {0}")]
    Evidence(String),
}

fn advice(fitting: &[String]) -> String {
    if fitting.is_empty() {
        return "no family fits it: each needs another head or other control tokens".to_owned();
    }
    format!(
        "these families fit it: {}; give the right one with --family, because a wrong one ranks wrongly without an \
         error",
        fitting.join(", ")
    )
}
