//! A request's texts: cleaned, tokenized and truncated; long documents split into passages.

mod passages;
mod prepared;
mod truncate;

pub use prepared::{DocumentText, Plan, PreparedTexts};
pub(super) use prepared::{PairFrame, ShortTexts, SlateRoom, WholeText};
pub use truncate::IsCancelled;
pub(super) use truncate::{
    DocumentOptions, passage_warnings, truncation_warnings, warn_of_max_tokens_per_doc, warn_of_removed,
};
