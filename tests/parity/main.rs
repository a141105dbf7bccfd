//! Parity: the same numbers as transformers and torch, on tiny random checkpoints of every shape and
//! family, and the published values on the real ones.
//!
//! `make_golden.py` writes the fixtures: checkpoints in the Hugging Face layout beside what
//! transformers computes with them in f32. They are committed, so these tests need no Python.
//! `cargo test --release --test parity -- --nocapture` also prints how far off each of them is.

mod batching;
mod canary;
mod colbert;
mod deviation;
mod early_exit;
mod encoders;
mod families;
mod fixtures;
mod gguf;
mod layer_wise;
mod load_errors;
mod mini;
mod nano;
mod numbers;
mod prefix_cache;
mod published;
mod published_encoders;
mod requests;
mod runtime;
mod sequences;
mod wrong_checkpoints;
