//! A request's texts: cleaned, tokenized and truncated; long documents split into passages.

mod documents;
mod passages;
mod prepared;
mod scripts;
mod short_texts;
mod truncate;

pub(super) use prepared::{DocumentFeatures, PairFrame, ShortTexts, SlateSizes};
pub use prepared::{DocumentText, Plan, PreparedTexts};
pub use truncate::IsCancelled;
pub(super) use truncate::{TextOptions, passage_warnings, truncation_warnings, warn_of_max_tokens_per_doc};
