//! What the process uses, from `/proc`: memory, processor time, open files. Elsewhere than on Linux there is none of it.

use std::fs;

use super::exposition::Exposition;

/// Clock ticks a second in `/proc/self/stat`: fixed for what user space sees, on every architecture that Podium runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Adds the process's metrics, under the names that Prometheus's own clients give them.
pub(super) fn write(text: &mut Exposition) {
    if let Some(bytes) = fs::read_to_string("/proc/self/status").ok().and_then(|status| resident_bytes(&status)) {
        text.gauge("process_resident_memory_bytes", "Resident memory of this process.", bytes);
    }
    if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().and_then(|stat| Stat::parse(&stat)) {
        text.counter("process_cpu_seconds_total", "Processor time of this process, user and system.", stat.cpu_seconds);
        text.gauge("process_threads", "Threads of this process.", stat.threads);
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        text.gauge("process_open_fds", "Open files and connections of this process.", files.count() as f64);
    }
}

/// `VmRSS` of `/proc/self/status`, which is in KiB.
fn resident_bytes(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0)
}

struct Stat {
    cpu_seconds: f64,
    threads: f64,
}

impl Stat {
    /// The fields of `/proc/self/stat`; the second, the program's name in brackets, may hold anything.
    fn parse(stat: &str) -> Option<Self> {
        let (_, rest) = stat.rsplit_once(')')?;
        // From here on the first is field 3, the state. 14 and 15 are user and system time, 20 the threads.
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
        Some(Self { cpu_seconds: (number(14)? + number(15)?) / TICKS_PER_SECOND, threads: number(20)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_shifts_nothing() {
        let stat = "7 (a) R 1 (b) S 1 7 7 0 -1 4194560 1 2 3 4 250 150 9 9 20 0 12 0 5 6 7";
        let stat = Stat::parse(stat).unwrap();
        assert!((stat.cpu_seconds - 4.0).abs() < 1e-9 && (stat.threads - 12.0).abs() < 1e-9);
        assert!(Stat::parse("7 (a) R 1").is_none());
    }

    #[test]
    fn resident_memory_is_read_in_bytes() {
        assert_eq!(resident_bytes("VmPeak:\t  9 kB\nVmRSS:\t    2048 kB\n"), Some(2_097_152.0));
        assert_eq!(resident_bytes("VmPeak:\t  9 kB\n"), None);
    }
}
