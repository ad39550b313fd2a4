//! The process metrics of `spec/metrics.md` §3, read from `/proc` (proc(5)). Where there is no `/proc`, there
//! are none.

use std::fmt::Write;
use std::fs;

/// Unit of the times in `/proc/…/stat`: Linux shows them in 1/100 s on every architecture that Rust's `std`
/// supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// Limits that are "unlimited", as the Prometheus clients write them: the largest 64-bit number.
const UNLIMITED: f64 = 18_446_744_073_709_551_615.0;

/// The metrics in the text exposition format; those that cannot be read are left out.
pub(crate) fn metrics() -> String {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let system = fs::read_to_string("/proc/stat").unwrap_or_default();
    // The listing itself holds one descriptor.
    let open_fds = fs::read_dir("/proc/self/fd").ok().map(|dir| dir.count().saturating_sub(1));
    let ticks = |index| stat_field(&stat, index).map(|ticks| ticks / TICKS_PER_SECOND);
    let cpu = ticks(14).zip(ticks(15)).map(|(user, system)| user + system);
    let start = ticks(22).zip(boot_time(&system)).map(|(start, boot)| boot + start);
    let rows = [
        ("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.", cpu),
        #[expect(clippy::cast_precision_loss, reason = "nobody opens 2^52 files")]
        ("process_open_fds", "gauge", "Number of open file descriptors.", open_fds.map(|count| count as f64)),
        (
            "process_max_fds",
            "gauge",
            "Maximum number of open file descriptors.",
            limit(&limits, "Max open files"),
        ),
        (
            "process_virtual_memory_bytes",
            "gauge",
            "Virtual memory size in bytes.",
            status_kib(&status, "VmSize:").map(|kib| kib * 1024.0),
        ),
        (
            "process_virtual_memory_max_bytes",
            "gauge",
            "Maximum amount of virtual memory available in bytes.",
            limit(&limits, "Max address space"),
        ),
        (
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory size in bytes.",
            status_kib(&status, "VmRSS:").map(|kib| kib * 1024.0),
        ),
        (
            "process_start_time_seconds",
            "gauge",
            "Start time of the process since unix epoch in seconds.",
            start,
        ),
        ("process_threads", "gauge", "Number of operating system threads.", status_kib(&status, "Threads:")),
    ];
    let mut text = String::new();
    for (name, kind, help, value) in rows {
        if let Some(value) = value {
            let _infallible = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        }
    }
    text
}

/// Field `index`, counted from 1 as in proc(5). The program's name, field 2, may hold blanks and brackets.
fn stat_field(stat: &str, index: usize) -> Option<f64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    behind_name.split_whitespace().nth(index.checked_sub(3)?)?.parse().ok()
}

fn status_kib(status: &str, key: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The soft limit.
fn limit(limits: &str, key: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(key))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(UNLIMITED),
        number => number.parse().ok(),
    }
}

fn boot_time(system: &str) -> Option<f64> {
    system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_brackets_does_not_shift_the_fields() {
        let stat = "12 (a) b (c)) S 1 12 12 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 4 0 999 1 2";
        assert_eq!(stat_field(stat, 14), Some(250.0));
        assert_eq!(stat_field(stat, 15), Some(50.0));
        assert_eq!(stat_field(stat, 22), Some(999.0));
        assert_eq!(stat_field("garbage", 14), None);
    }

    #[test]
    fn limits_and_sizes() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max address space         unlimited            unlimited            bytes\n\
                      Max open files            1024                 524288               files\n";
        assert_eq!(limit(limits, "Max open files"), Some(1024.0));
        assert_eq!(limit(limits, "Max address space"), Some(UNLIMITED));
        assert_eq!(status_kib("Name:\tx\nVmRSS:\t  2048 kB\n", "VmRSS:"), Some(2048.0));
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_000.0));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_all_of_them() {
        let text = metrics();
        for name in [
            "process_cpu_seconds_total",
            "process_open_fds",
            "process_max_fds",
            "process_virtual_memory_bytes",
            "process_virtual_memory_max_bytes",
            "process_resident_memory_bytes",
            "process_start_time_seconds",
            "process_threads",
        ] {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            let value: f64 = value.unwrap_or_else(|| panic!("{name} in {text}")).parse().unwrap();
            assert!(value >= 0.0, "{name} {value}");
        }
    }
}
