//! What the model reads: families' templates rendered to token ids and marks.
//!
//! | file | question |
//! |---|---|
//! | `family`, `detect` | which families are there, what do they declare, which is a checkpoint's? |
//! | `tokenizer`, `clean` | text to ids, and why a text never becomes a control token |
//! | `template`, `frame` | a template to literals, control tokens and places for texts |
//! | `read` | a request to texts within their limits, and a plan of slates |
//! | `render` | some of its documents to the token sequences of one pass |
//! | `threads` | on which threads texts are read |
//! | `lexical` | how much of the query's words a document has |
//!
//! What is done with the numbers that come back lives in `scoring`. Everything here is synchronous
//! and runs on a blocking thread.

mod clean;
mod detect;
mod error;
mod family;
mod frame;
mod lexical;
mod pairs;
mod plan;
mod prompter;
mod read;
mod render;
mod settings;
mod template;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod threads;
mod tokenizer;

pub use detect::{ANY_FAMILY, Calibration, CheckpointFacts, PodiumConfig};
pub use error::PromptError;
pub use family::{Families, Family, FamilyFacts};
pub use lexical::{LexicalTable, lexical_scores};
pub use plan::Plan;
pub use prompter::{Answers, Identifier, ModelLimits, Prompter, Relevance, SlateScore};
pub use read::{DocumentText, Reading};
pub use render::Rendering;
pub use settings::PromptSettings;
pub use tokenizer::Tokenizer;
