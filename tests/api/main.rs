//! The server as its clients meet it: real requests to a real port, over a fake runtime.
//!
//! Nothing here waits for time to pass: what has to be busy is held by the fake runtime's gate.

#![expect(clippy::unwrap_used, reason = "a test fails where something unexpected happens")]

mod admission;
mod auth;
mod bad_input;
mod body_memory;
mod busy;
mod cascaded;
mod cascades;
mod cascades_under_load;
mod combinations;
mod combinations_under_load;
mod command_line;
mod connections;
mod contract;
mod dialects;
mod early_exit;
mod keys_of_a_process;
mod last_paragraph;
mod long_texts;
mod min_score;
mod models;
mod more_dialects;
mod newcomers;
mod observing;
mod passages;
mod reload_of_a_process;
mod secrets;
mod shadows;
mod stability;
mod starting;
mod support;
mod traces;
mod user_reports;
