//! What a process has used, as Linux tells it.

use std::fs;

use anyhow::{Context, Result};

/// What times in `/proc` are counted in: the same on every machine that Linux runs Rust on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Resident memory of a process in bytes.
pub(crate) fn resident_bytes(pid: u32) -> Result<u64> {
    status_bytes(&pid.to_string(), "VmRSS")
}

/// Resident memory of this process in bytes, from which its peak begins anew.
pub(crate) fn begin_peak() -> Result<u64> {
    fs::write("/proc/self/clear_refs", "5").context("begin a peak of memory anew")?;
    status_bytes("self", "VmRSS")
}

/// The most resident memory of this process since the peak was begun anew, in bytes.
pub(crate) fn peak_bytes() -> Result<u64> {
    status_bytes("self", "VmHWM")
}

fn status_bytes(process: &str, what: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))
        .context("read a process's memory; this needs Linux")?;
    let lines = status.lines().filter_map(|line| line.split_once(':'));
    let kib = lines.into_iter().find(|(name, _)| *name == what);
    let kib = kib.and_then(|(_, value)| value.trim().strip_suffix(" kB"));
    let kib: u64 = kib.with_context(|| format!("the status has no {what}"))?.trim().parse()?;
    Ok(kib * 1024)
}

/// Seconds of CPU that a process has used by now, in user code and in the system.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .context("read a process's CPU time; this needs Linux")?;
    parse_cpu(&stat).context("the process's CPU time is not where it should be")
}

/// Fields 14 and 15. The name before them may hold anything, blanks and brackets too.
fn parse_cpu(stat: &str) -> Option<f64> {
    let (_, behind) = stat.rsplit_once(')')?;
    let mut fields = behind.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 900 0 0 0 250 150 0 0 20 0 9 0 77 1 2 3";
        assert_eq!(parse_cpu(stat), Some(4.0));
        assert_eq!(parse_cpu("7 (a) S 1 2 3"), None);
    }

    #[test]
    fn this_process_has_used_something() {
        let pid = std::process::id();
        assert!(cpu_seconds(pid).unwrap() >= 0.0);
        assert!(resident_bytes(pid).unwrap() > 1 << 20);
        let before = begin_peak().unwrap();
        drop(std::hint::black_box(vec![1_u8; 64 << 20]));
        assert!(peak_bytes().unwrap() > before + (60 << 20));
    }
}
