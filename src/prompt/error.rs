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
        /// What is wrong with it.
        problem: String,
    },
    /// A template does not render, or its prompt does not match the declaration.
    #[error("family `{family}`, template {template}: {problem}")]
    Template {
        /// The family.
        family: String,
        /// The template's file name.
        template: String,
        /// What is wrong.
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
    /// The checkpoint fits no family, or several.
    #[error("cannot tell which family `{checkpoint}` is of: {problem}; set one with --family: {}", available.join(", "))]
    NotRecognised {
        /// The checkpoint's name or folder.
        checkpoint: String,
        /// Why not.
        problem: String,
        /// The names of the families.
        available: Vec<String>,
    },
    /// `tokenizer.json` is malformed.
    #[error("{file}: {problem}")]
    Tokenizer {
        /// The file.
        file: String,
        /// What is wrong with it.
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
        /// What is wrong with it.
        problem: String,
    },
    /// The checkpoint's classifier is missing, or no reranker's.
    #[error("classifier: {0}")]
    Classifier(String),
    /// `lexical.safetensors` is missing or malformed.
    #[error("lexical evidence table: {0}")]
    Evidence(String),
}
