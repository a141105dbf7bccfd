//! The program: limits the allocator's arenas, then runs the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    malloc::limit_arenas();
    podium::cli::main()
}

/// Settings of glibc's allocator.
mod malloc {
    /// Limits glibc to two arenas, unless the environment sets their number. To be called before
    /// any thread starts.
    ///
    /// By default each thread gets an arena of its own, up to eight per core, and freed memory of
    /// an arena is rarely returned. The buffers of a batch have tens of megabytes and come from
    /// whichever thread runs it, so a crowd of clients leaves hundreds of megabytes behind.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    pub fn limit_arenas() {
        const MAX_ARENAS: libc::c_int = 2;
        let tunables = std::env::var("GLIBC_TUNABLES").unwrap_or_default();
        if std::env::var_os("MALLOC_ARENA_MAX").is_some() || tunables.contains("arena_max") {
            return;
        }
        // SAFETY: mallopt is not thread-safe; this is the only thread. The parameter and its value
        // are valid, and a failure leaves the default in force.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, MAX_ARENAS) };
    }

    /// Does nothing: only glibc has arenas to limit.
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    pub const fn limit_arenas() {}
}
