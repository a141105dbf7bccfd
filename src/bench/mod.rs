//! Speed (`podium bench`): sends requests of chosen sizes to a reranker and reports latency,
//! throughput and the time of each stage.
//!
//! | module | purpose |
//! |---|---|
//! | [`shape`], [`checkpoint`], [`tokenizer`] | a decoder's sizes; random checkpoints |
//! | [`text`], [`workload`] | generated texts of a given length; the grid of cases |
//! | [`operations`] | the number of floating-point operations of a pass |
//! | [`measure`] | runs the cases in rounds, with concurrent clients |
//! | [`open_loop`] | requests that arrive at a given rate; capacity |
//! | [`machine`], [`memory`] | the device's reference speed, and the process's peak memory |
//! | [`comparison`] | compares a run with an earlier report |
//! | [`latency`], [`report`], [`plot`] | computes the report, and draws it as SVG |
//!
//! `cli` has the flags and tables; `app` loads and serves models.

pub mod checkpoint;
pub mod comparison;
pub mod latency;
pub mod machine;
pub mod measure;
pub mod memory;
pub mod open_loop;
pub mod operations;
pub mod passes;
pub mod plot;
pub mod report;
pub mod shape;
pub mod text;
pub mod tokenizer;
pub mod workload;
