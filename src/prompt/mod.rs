//! Texts to token ids: what the model reads for a request.
//!
//! A module imports only modules above it in this table.
//!
//! | module | what it does |
//! |---|---|
//! | `parallel` | works on the texts of a request with several threads |
//! | `lexical` | scores documents by the query's words (BM25) |
//! | `tokenizer` | encodes text so that it never becomes a control token; the tokenizer's pair and chat templates |
//! | `template` | splits a template into literals, control tokens and places for texts, and puts texts in |
//! | `checkpoint` | reads what a checkpoint's files say about it |
//! | `family` | the families' declarations; recognises a checkpoint's family |
//! | `binding` | binds a family to a checkpoint: the [`Prompter`] |
//! | `texts` | cleans, tokenizes and truncates texts, and splits long documents into passages |
//! | `passes` | groups documents into passes and renders their token sequences |
//! | `tokenize` | the entry: a request to [`PreparedTexts`] |
//!
//! `scoring` turns what the model returns into scores. Everything here is synchronous; the pipeline
//! runs it on its CPU pool.

mod binding;
mod checkpoint;
mod error;
mod family;
mod lexical;
mod parallel;
mod passes;
mod settings;
mod template;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod texts;
mod tokenize;
mod tokenizer;

pub use binding::{Identifier, PointwiseScore, Prompter, Relevance, SlateScore};
pub use checkpoint::{
    Answers, Calibration, ClassifierReadout, ColbertSettings, Description, ModelKind, ModelLimits, NamedOrigin,
    PodiumConfig, classifier_calibration,
};
pub use error::PromptError;
pub use family::{
    ANY_FAMILY, BiEncoderReadout, CheckpointFacts, EarlyExitFacts, Families, Family, FamilyFacts, Recognised,
};
pub use lexical::{LexicalTable, lexical_scores};
pub use passes::Rendering;
pub use settings::PromptSettings;
pub use texts::{DocumentText, IsCancelled, Plan, PreparedTexts};
pub use tokenizer::{ChatFormat, Tokenizer};
