//! Memory, CPU time, threads and open files of this process.
//!
//! `metrics-process` reads them. They are written here and not by its collector, which counts whole
//! seconds of CPU time only.

use metrics_process::collector::collect;

use super::exposition::Exposition;

/// Writes the process metrics under the names that Prometheus gives them; those that the system
/// does not tell are left out.
pub(super) fn write(text: &mut Exposition) {
    let process = collect();
    if let Some(seconds) = process.cpu_seconds_total {
        text.counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", seconds);
    }
    let gauges = [
        ("process_resident_memory_bytes", "Resident memory size in bytes.", process.resident_memory_bytes),
        ("process_virtual_memory_bytes", "Virtual memory size in bytes.", process.virtual_memory_bytes),
        ("process_threads", "Number of OS threads in the process.", process.threads),
        ("process_open_fds", "Number of open file descriptors.", process.open_fds),
        ("process_max_fds", "Maximum number of open file descriptors.", process.max_fds),
        (
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            process.start_time_seconds,
        ),
    ];
    for (name, help, value) in gauges {
        if let Some(value) = value {
            text.gauge(name, help, value as f64);
        }
    }
}
