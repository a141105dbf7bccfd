//! Texts to token ids: what the model reads for a request.
//!
//! | file | what it does |
//! |---|---|
//! | `family`, `families` | reads the families' declarations |
//! | `description`, `detect` | reads what a checkpoint says that it is; recognises its family |
//! | `prompter`, `bind`, `bi_encoder`, `row_reading`, `model_limits`, `check_templates` | binds a family to a tokenizer and a model |
//! | `pair_template`, `classifier` | the checkpoint's own pair of texts; what its classifier's number means |
//! | `chat`, `colbert` | the checkpoint's chat format, and how a `ColBERT` checkpoint makes its sequences |
//! | `template`, `frame` | splits a template into literals, control tokens and places for texts |
//! | `tokenizer`, `tokenizer_file`, `cut`, `clean` | encodes text so that it never becomes a control token |
//! | `tokenize` | the entry: a request to [`PreparedTexts`] (`prepared`) |
//! | `truncate`, `parallel` | cleans and truncates each text, on several threads |
//! | `passages` | splits long documents into passages |
//! | `slates`, `slate_prompt`, `pairs`, `apart`, `rows` | groups documents into slates, pointwise prompts or sequences of their own |
//! | `early_exit`, `choose_exit` | where documents leave the model before its last layer |
//! | `render` | renders chosen documents as the token sequences of one pass |
//! | `lexical` | scores documents by the query's words (BM25) |
//!
//! `scoring` turns what the model returns into scores. Everything here is synchronous; the pipeline
//! runs it on its CPU pool.

mod apart;
mod bi_encoder;
mod bind;
mod chat;
mod check_templates;
mod choose_exit;
mod classifier;
mod clean;
mod colbert;
mod cut;
mod description;
mod detect;
mod early_exit;
mod error;
mod families;
mod family;
mod frame;
mod lexical;
mod model_limits;
mod pair_template;
mod pairs;
mod parallel;
mod passages;
mod prepared;
mod prompter;
mod render;
mod row_reading;
mod rows;
mod settings;
mod slate_prompt;
mod slates;
mod template;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tokenize;
mod tokenizer;
mod tokenizer_file;
mod truncate;

pub use bind::{Identifier, PointwiseScore, Relevance, SlateScore};
pub use chat::ChatFormat;
pub use classifier::{ClassifierReadout, classifier_calibration};
pub use colbert::ColbertSettings;
pub use description::{Description, ModelKind, NamedOrigin};
pub use detect::{ANY_FAMILY, Calibration, CheckpointFacts, PodiumConfig, Recognised};
pub use early_exit::EarlyExitFacts;
pub use error::PromptError;
pub use families::Families;
pub use family::{BiEncoderReadout, Family, FamilyFacts};
pub use lexical::{LexicalTable, lexical_scores};
pub use model_limits::{Answers, ModelLimits};
pub use prepared::{DocumentText, Plan, PreparedTexts};
pub use prompter::Prompter;
pub use render::Rendering;
pub use settings::PromptSettings;
pub use tokenizer::Tokenizer;
pub use truncate::IsCancelled;
