//! Is it fast? Requests of chosen sizes through one reranker, and where their time goes.
//!
//! | module | question |
//! |---|---|
//! | [`shape`], [`checkpoint`], [`tokenizer`] | a decoder's sizes, and a random checkpoint of them |
//! | [`text`], [`workload`] | what is asked: texts of so many tokens, grids of cases |
//! | [`work`] | how many floating-point operations a pass takes |
//! | [`measure`] | case by case, round by round, client by client |
//! | [`machine`], [`memory`] | what the device can do at best, and the process's peak of memory |
//! | [`report`], [`plot`] | samples to figures, figures to one picture |
//!
//! Flags and tables live in `cli`; loading and serving in `app`.

pub mod checkpoint;
pub mod machine;
pub mod measure;
pub mod memory;
pub mod plot;
pub mod report;
pub mod shape;
pub mod text;
pub mod tokenizer;
pub mod work;
pub mod workload;
