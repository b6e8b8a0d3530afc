//! `/proc/PID/stat`, as far as telling one process from a later one with the same number needs it.

use std::fs::File;
use std::io::Read;

/// Four of its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, `D`, `T`, `Z`, `X` and others.
    pub state: u8,
    /// `PF_*` of the kernel's `include/linux/sched.h`.
    pub flags: u32,
    /// In clock ticks since boot.
    pub start_time: u64,
    /// Size of its memory, in bytes; 0 for one that has given it back.
    pub memory: u64,
}

/// Reads it; `None` when there is no such process.
pub fn read(pid: i32) -> Option<Stat> {
    // The kernel makes the text in one go; it is shorter than this.
    let mut buffer = [0u8; 1024];
    let n = File::open(format!("/proc/{pid}/stat"))
        .ok()?
        .read(&mut buffer)
        .ok()?;
    parse(&buffer[..n])
}

/// The name, in parentheses, may hold anything, also parentheses and blanks: the fields are counted from the last one.
fn parse(text: &[u8]) -> Option<Stat> {
    /// proc_pid_stat(5) counts from 1, and the first field behind the name is the third.
    const FLAGS: usize = 9;
    const START_TIME: usize = 22;
    let end = text.iter().rposition(|b| *b == b')')?;
    let mut fields = text[end + 1..].split(|b| *b == b' ').filter(|f| !f.is_empty());
    let state = *fields.next()?.first()?;
    let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse::<u64>().ok();
    let flags = number(fields.nth(FLAGS - 4)?)?;
    let start_time = number(fields.nth(START_TIME - FLAGS - 1)?)?;
    Some(Stat {
        state,
        flags: u32::try_from(flags).ok()?,
        start_time,
        memory: number(fields.next()?)?,
    })
}

/// Whether the process with that number and start time is there and has not ended.
pub fn is_alive(pid: i32, start_time: u64) -> bool {
    pid > 0 && read(pid).is_some_and(|s| s.start_time == start_time && !matches!(s.state, b'Z' | b'X'))
}

/// Whether that process has ended but for its last step: its memory is gone, and it waits for others. The first process
/// of a pid namespace does so until all that was in it is reaped, which may be up to somebody outside who never does.
pub fn has_let_go(pid: i32, start_time: u64) -> bool {
    const PF_EXITING: u32 = 0x4;
    pid > 0
        && read(pid).is_some_and(|s| s.start_time == start_time && s.flags & PF_EXITING != 0 && s.memory == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_are_alive() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let stat = read(pid).unwrap();
        assert!(is_alive(pid, stat.start_time));
        assert!(!is_alive(pid, stat.start_time + 1));
        assert!(stat.memory > 0 && !has_let_go(pid, stat.start_time));
    }

    #[test]
    fn names_hold_anything() {
        let rest = " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21";
        let expected = Some(Stat {
            state: b'S',
            flags: 6,
            start_time: 4242,
            memory: 20,
        });
        for name in ["sh", "a) R 9 9", "(", ")", "\u{ff} Z"] {
            assert_eq!(
                parse(format!("17 ({name}){rest}").as_bytes()),
                expected,
                "{name:?}"
            );
        }
        assert_eq!(parse(b"17 (sh) S 1 2"), None);
        assert_eq!(parse(b""), None);
    }
}
