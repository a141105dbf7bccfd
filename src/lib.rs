//! Podium: an HTTP server around a small reranker that reads a query, an instruction and up to 64
//! documents in one pass.
//!
//! One request, from top to bottom; each room answers one question, data flows down this list and
//! comes back up through return values:
//!
//! | room | question |
//! |---|---|
//! | [`http`] | how do clients talk? wire JSON to a [`rerank::RerankRequest`] and back |
//! | [`context`] | what does one request hold? id, client, times, span, timeline, permits |
//! | [`models`] | which models are there? by name; loaded and unloaded |
//! | [`pipeline`] | what happens to one request? validate, admit, plan, render, schedule, score, rank |
//! | [`rerank`] | what is a rerank? requests, rankings, slates, errors; pure |
//! | [`prompt`] | what does the model read? templates to token ids and marks |
//! | [`scoring`] | what do the numbers mean? outputs to relevance scores |
//! | [`evidence`] | what do the embedded model's token states show? |
//! | [`schedule`] | who runs when? admission, queue, batches |
//! | [`runtime`] | tokens to numbers, on mistral.rs's parts |
//! | [`eval`] | is it any good? labelled data to measures, against BM25, with their uncertainty |
//! | [`bench`](mod@bench) | how fast is it? requests of chosen sizes, and where their time goes |
//!
//! Around them: [`cli`] and [`config`] say what is wanted, [`app`] puts the rooms together,
//! [`telemetry`] says what happened, [`spelling`] which word was meant. `tests/layers.rs` checks who may import whom.

pub mod app;
pub mod bench;
pub mod cli;
pub mod config;
pub mod context;
pub mod eval;
pub mod evidence;
pub mod http;
pub mod models;
pub mod pipeline;
pub mod prompt;
pub mod rerank;
pub mod runtime;
pub mod schedule;
pub mod scoring;
pub mod spelling;
pub mod telemetry;
