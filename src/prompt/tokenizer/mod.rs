//! `tokenizer.json` and what belongs to it: encoding that never turns text into a control token,
//! the removal of spelled control tokens, the template for a pair of texts, and the chat template.

mod chat;
mod clean;
mod cut;
mod encode;
mod file;
mod pair_template;

pub use chat::ChatFormat;
pub(super) use chat::chat_function;
pub(super) use clean::{is_space, remove_control_tokens, squeeze};
pub(super) use cut::chunk_end;
pub(super) use encode::CHUNK_BYTES;
#[cfg(test)]
pub(super) use encode::ENCODED_BYTES;
pub use encode::Tokenizer;
