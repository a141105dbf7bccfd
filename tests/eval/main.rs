//! `podium eval` as its users meet it: the program, on small sets that the tests write themselves.
//!
//! `make_golden.py` beside this makes the measures' golden values, which the measures' own tests read.

#![expect(clippy::unwrap_used, reason = "a test fails where something unexpected happens")]

mod bad_input;
mod gating;
mod reports;
mod support;
