//! Resident memory of this process, from Linux's `/proc`.

use std::fs;

/// Peak resident memory since the start or the last [`reset_peak`], in bytes.
///
/// Includes memory that the allocator keeps after it was freed. `None` if `/proc` is not available.
#[must_use]
pub fn peak_bytes() -> Option<u64> {
    parse_field(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Resident memory now, in bytes. `None` if `/proc` is not available.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    parse_field(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// Resets the peak to the memory that is resident now. Returns whether the system permitted it.
#[must_use]
pub fn reset_peak() -> bool {
    fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Parses a line such as `VmHWM:     1234 kB` of a status file, in bytes.
fn parse_field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_read_in_bytes() {
        let status = "Name:\tpodium\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!((parse_field(status, "VmHWM:"), parse_field(status, "VmRSS:")), (Some(2 << 20), Some(1 << 20)));
        assert_eq!(parse_field(status, "VmSwap:"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_peak_is_at_least_what_is_resident_now() {
        let (resident, peak) = (resident_bytes().unwrap(), peak_bytes().unwrap());
        assert!(resident > 1 << 20 && peak >= resident / 2, "{resident} and {peak}");
    }
}
