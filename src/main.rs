//! Parse, run, print the error chain once, exit.

use std::process::ExitCode;

fn main() -> ExitCode {
    podium::cli::main()
}
