//! `/proc/PID/stat`, as far as telling one process from a later one with the same number needs it.

use procfs::process::Stat;
use procfs::{FromRead, ProcResult};

/// Reads it; `None` when there is no such process.
pub fn read(pid: i32) -> Option<Stat> {
    let stat: ProcResult<Stat> = Stat::from_file(format!("/proc/{pid}/stat"));
    stat.ok()
}

/// Whether the process with that number and start time is there and has not ended.
pub fn is_alive(pid: i32, start_time: u64) -> bool {
    pid > 0 && read(pid).is_some_and(|s| s.starttime == start_time && !matches!(s.state, 'Z' | 'X'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_are_alive() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let stat = read(pid).unwrap();
        assert!(is_alive(pid, stat.starttime));
        assert!(!is_alive(pid, stat.starttime + 1));
    }
}
