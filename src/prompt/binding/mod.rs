//! Binds a family to a checkpoint: the declared tokens become ids, the templates are compiled and tried. The result
//! is the [`Prompter`] of a model, with one file for each way of reading documents.

mod bi_encoder;
mod check_templates;
mod prompter;
mod rows;
mod token_lookup;

pub(super) use bi_encoder::{BiEncoder, Colbert};
pub use prompter::Prompter;
pub(super) use rows::RowReading;
pub use token_lookup::{Identifier, PointwiseScore, Relevance, SlateScore};
pub(super) use token_lookup::{Listwise, Pointwise};
