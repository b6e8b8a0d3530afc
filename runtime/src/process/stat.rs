//! `/proc/PID/stat`, as far as telling one process from a later one with the same number needs it.

use std::fs;

/// State letter and start time of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, `D`, `Z`, `X`, ...
    pub state: char,
    /// In clock ticks since boot: with the pid it names one process for ever.
    pub start_time: u64,
}

/// Reads it; `None` when there is no such process.
pub fn read(pid: i32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The command name may hold spaces and parentheses: fields are counted from its last `)`.
fn parse(text: &str) -> Option<Stat> {
    let rest = text.get(text.rfind(')')? + 2..)?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    // starttime is field 22, state is field 3.
    let start_time = fields.nth(18)?.parse().ok()?;
    Some(Stat { state, start_time })
}

/// Whether the process with that number and start time is there and has not ended.
pub fn is_alive(pid: i32, start_time: u64) -> bool {
    pid > 0 && read(pid).is_some_and(|s| s.start_time == start_time && !matches!(s.state, 'Z' | 'X'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses() {
        let text = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1 2";
        assert_eq!(
            parse(text),
            Some(Stat {
                state: 'S',
                start_time: 4242
            })
        );
        assert_eq!(parse("7 (a"), None);
    }

    #[test]
    fn we_are_alive() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let stat = read(pid).unwrap();
        assert!(is_alive(pid, stat.start_time));
        assert!(!is_alive(pid, stat.start_time + 1));
    }
}
