//! The program: limits the allocator's arenas, then runs the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    malloc::limit_arenas();
    podium::cli::main()
}

/// Settings of glibc's allocator.
mod malloc {
    /// Limits glibc to two arenas for each core, at least eight, unless the environment sets their
    /// number. To be called before any thread starts.
    ///
    /// By default each thread gets an arena of its own, up to eight per core, and freed memory of
    /// an arena is rarely returned. The buffers of a batch have tens of megabytes and come from
    /// whichever thread runs it, so a crowd of clients leaves hundreds of megabytes behind. With
    /// too few arenas, threads that tokenize wait for each other and share an arena with those
    /// buffers: two arenas made tokenizing a third slower.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    pub fn limit_arenas() {
        const MIN_ARENAS: usize = 8;
        const ARENAS_PER_CORE: usize = 2;
        let tunables = std::env::var("GLIBC_TUNABLES").unwrap_or_default();
        if std::env::var_os("MALLOC_ARENA_MAX").is_some() || tunables.contains("arena_max") {
            return;
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let arenas = libc::c_int::try_from(MIN_ARENAS.max(ARENAS_PER_CORE * cores)).unwrap_or(libc::c_int::MAX);
        // SAFETY: mallopt is not thread-safe; this is the only thread. The parameter and its value
        // are valid, and a failure leaves the default in force.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, arenas) };
    }

    /// Does nothing: only glibc has arenas to limit.
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    pub const fn limit_arenas() {}
}
