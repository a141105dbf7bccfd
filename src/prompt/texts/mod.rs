//! A request's texts: cleaned, tokenized and truncated; long documents split into passages.

mod documents;
mod passages;
mod prepared;
mod scripts;
mod short_texts;
mod truncate;

pub use prepared::{DocumentText, Plan, PreparedTexts};
pub(super) use prepared::{PairFrame, ShortTexts, SlateRoom, WholeText};
pub use truncate::IsCancelled;
pub(super) use truncate::{DocumentOptions, passage_warnings, truncation_warnings, warn_of_max_tokens_per_doc};
