//! Clock offsets of a new time namespace.
//!
//! The kernel takes them only until somebody is in the namespace, and clone3 with `CLONE_NEWTIME` makes its child be in
//! it at once. So with offsets the child makes the namespace itself, for children it will not have, writes the offsets,
//! and enters it: time_namespaces(7).

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;

use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};

use crate::config::model::TimeOffset;
use crate::error::{Doing, Error, Result};

const FLAG: CloneFlags = CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);

/// Half of what nanoseconds in 64 bits can say, as seconds: the kernel's limit.
const MAX_SECONDS: u64 = 4_611_686_018;

/// The lines for `timens_offsets`, the same for the same offsets; none without any.
///
/// # Errors
/// `Invalid` names a clock that has no offset, or one that the kernel would refuse.
pub fn decide(offsets: &HashMap<String, TimeOffset>) -> Result<Option<String>> {
    let at = "linux.timeOffsets";
    if let Some(other) = offsets.keys().find(|name| !CLOCKS.contains(&name.as_str())) {
        return Err(Error::field(
            format!("{at}.{other}"),
            "is none of monotonic, boottime",
        ));
    }
    let mut lines = String::new();
    for name in CLOCKS {
        let Some(offset) = offsets.get(name) else { continue };
        if offset.nanosecs >= 1_000_000_000 {
            let why = format!("{} is not below 1000000000", offset.nanosecs);
            return Err(Error::field(format!("{at}.{name}.nanosecs"), why));
        }
        if offset.secs.unsigned_abs() > MAX_SECONDS {
            let why = format!("{} is not between -{MAX_SECONDS} and {MAX_SECONDS}", offset.secs);
            return Err(Error::field(format!("{at}.{name}.secs"), why));
        }
        lines.push_str(&format!("{name} {} {}\n", offset.secs, offset.nanosecs));
    }
    Ok((!lines.is_empty()).then_some(lines))
}

const CLOCKS: [&str; 2] = ["monotonic", "boottime"];

/// The file that offsets are written to, opened while this process is still whoever the runtime is: afterwards, as root
/// of a user namespace, it no longer owns its own entry in the host's /proc.
#[derive(Debug)]
pub struct Offsets<'a> {
    file: File,
    lines: &'a str,
}

impl<'a> Offsets<'a> {
    /// Opens it.
    ///
    /// # Errors
    /// `NotFound` where the kernel has no time namespaces.
    pub fn open(lines: &'a str) -> Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .open("/proc/self/timens_offsets")
            .doing(|| "linux.timeOffsets: open /proc/self/timens_offsets")?;
        Ok(Self { file, lines })
    }

    /// Makes the namespace, sets its clocks, and enters it.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_TIME` in the user namespace, `ERANGE` when a clock would be negative.
    pub fn enter(mut self) -> Result<()> {
        unshare(FLAG).doing(|| "linux.namespaces: make a time namespace")?;
        self.file
            .write_all(self.lines.as_bytes())
            .doing(|| format!("linux.timeOffsets: set {:?}", self.lines))?;
        let made = File::open("/proc/self/ns/time_for_children")
            .doing(|| "linux.namespaces: open the new time namespace")?;
        setns(made, FLAG).doing(|| "linux.namespaces: enter the new time namespace")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> std::result::Result<Option<String>, String> {
        decide(&serde_json::from_str(text).unwrap()).map_err(|e| e.chain())
    }

    #[test]
    fn lines_are_the_kernels() {
        assert_eq!(of("{}"), Ok(None));
        let text = r#"{"boottime":{"secs":-1337,"nanosecs":3141519},"monotonic":{"secs":7881}}"#;
        assert_eq!(
            of(text),
            Ok(Some("monotonic 7881 0\nboottime -1337 3141519\n".to_owned()))
        );
    }

    #[test]
    fn what_the_kernel_would_refuse_is_named() {
        let bad = [
            (r#"{"realtime":{"secs":1}}"#, "linux.timeOffsets.realtime: "),
            (
                r#"{"monotonic":{"nanosecs":1000000000}}"#,
                "linux.timeOffsets.monotonic.nanosecs: 1000000000 ",
            ),
            (
                r#"{"boottime":{"secs":4611686019}}"#,
                "linux.timeOffsets.boottime.secs: 4611686019 ",
            ),
            (
                r#"{"boottime":{"secs":-9223372036854775808}}"#,
                "linux.timeOffsets.boottime.secs: ",
            ),
        ];
        for (text, why) in bad {
            let error = of(text).unwrap_err();
            assert!(error.starts_with(why), "{error}");
        }
    }
}
