//! Podium: an HTTP server that reranks documents by a query and an instruction in plain language.
//!
//! `ARCHITECTURE.md` follows one request through the modules. A module imports only modules below
//! it in this table; `tests/layers` checks that. Data flows down and comes back through return
//! values.
//!
//! | module | responsibility |
//! |---|---|
//! | [`cli`] | the commands: `serve`, `rerank`, `check`, `eval`, `bench`, `passes` |
//! | [`app`] | settings to a running server: start, reload, shutdown |
//! | [`config`] | settings from defaults, file, environment and flags |
//! | [`bench`](mod@bench) | `podium bench`: latency and throughput |
//! | [`eval`] | `podium eval`: ranking quality on labelled data |
//! | [`http`] | routes, vendors' formats, authentication, errors: JSON to a [`rerank::RerankRequest`] and back |
//! | [`telemetry`] | logs, metrics, traces |
//! | [`models`] | the loaded models by name; loading and unloading |
//! | [`pipeline`] | one request: validate, admit, tokenize, run, score, order |
//! | [`context`] | the owner of everything that one request holds, and its timeline |
//! | [`scoring`] | model outputs to relevance scores |
//! | [`prompt`] | texts to token ids: families, templates, tokenizer, truncation |
//! | [`evidence`] | podium-mini's scores, from the states of all tokens |
//! | [`schedule`] | admission control, fair queue, batches |
//! | [`runtime`] | token ids to numbers, on mistral.rs and candle |
//! | [`rerank`] | the domain types: request, ranking, errors; pure functions |
//! | [`spelling`] | did-you-mean |

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
