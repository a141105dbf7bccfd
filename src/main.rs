//! Parse, run, print the error chain once, exit.

use std::process::ExitCode;

/// The system's keeps what threads have freed for each of them: after a crowd of requests, and for good.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    podium::cli::main()
}
