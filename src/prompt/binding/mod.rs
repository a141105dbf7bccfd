//! Binds a family to a checkpoint: the declared tokens become ids, the templates are compiled and
//! tried. The result is the [`Prompter`] of a model, with one file for each way of reading
//! documents.

mod bi_encoder;
mod check_templates;
mod listwise;
mod pointwise;
mod prompter;
mod rows;
mod token_lookup;

pub(super) use bi_encoder::{BiEncoder, Colbert};
pub(super) use listwise::Listwise;
pub use listwise::{Identifier, Relevance, SlateScore};
pub(super) use pointwise::Pointwise;
pub use pointwise::PointwiseScore;
pub use prompter::Prompter;
pub(super) use rows::EvidenceRows;
