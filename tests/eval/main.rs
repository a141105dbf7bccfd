//! Tests of `podium eval`: run the program on small sets that the tests write.
//!
//! `make_golden.py` writes the golden values for the unit tests of the measures.

#![expect(clippy::unwrap_used, reason = "a test fails where something unexpected happens")]

mod bad_input;
mod gating;
mod reports;
mod runs;
mod support;
