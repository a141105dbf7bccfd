//! Forward passes: which documents share one, and its token sequences. One file for each way of
//! reading documents.

mod bi_encoder;
mod choose_exit;
mod pairs;
mod render;
mod rows;
mod slate_prompt;
mod slates;

pub use render::Rendering;
pub(super) use slates::SINGLE_DOCUMENT;
