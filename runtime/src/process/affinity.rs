//! CPUs: whatever the caller was confined to, a container's processes may use all that their cgroup allows, unless
//! `process.execCPUAffinity` names others.

use kelson_sys::sched;

use super::ranges;
use crate::config::model::ExecCpuAffinity;
use crate::error::{Doing, Error, Result};

/// Masks for `exec`; none means that nothing was named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Affinity {
    /// Until the process is in the container's cgroup.
    pub initial: Option<Vec<u64>>,
    /// From then on.
    pub last: Option<Vec<u64>>,
}

/// Reads both lists; `at` is the JSON path.
///
/// # Errors
/// `Invalid` names the list.
pub fn decide(lists: Option<&ExecCpuAffinity>, at: &str) -> Result<Affinity> {
    let Some(lists) = lists else {
        return Ok(Affinity::default());
    };
    let mask = |list: &str, name: &str| match list {
        "" => Ok(None),
        list => ranges::parse(list)
            .map(Some)
            .map_err(|why| Error::field(format!("{at}.{name}"), why)),
    };
    Ok(Affinity {
        initial: mask(&lists.initial, "initial")?,
        last: mask(&lists.last, "final")?,
    })
}

impl Affinity {
    /// Before the process is made: it inherits the runtime's CPUs.
    ///
    /// # Errors
    /// The errno of sched_setaffinity.
    pub fn apply_initial(&self) -> Result<()> {
        match &self.initial {
            Some(mask) => sched::set_affinity(mask).doing(|| "process.execCPUAffinity.initial: set"),
            None => Ok(()),
        }
    }

    /// When the calling process is in the container's cgroup. With `initial` alone the kernel decides, as the
    /// specification has it; with neither, see [`reset`].
    ///
    /// # Errors
    /// The errno of sched_setaffinity.
    pub fn apply_last(&self) -> Result<()> {
        match (&self.initial, &self.last) {
            (_, Some(mask)) => sched::set_affinity(mask).doing(|| "process.execCPUAffinity.final: set"),
            (Some(_), None) => Ok(()),
            (None, None) => {
                reset();
                Ok(())
            }
        }
    }
}

/// Lets the calling process run on every CPU that its cgroup allows, now and when that changes, whatever whoever called
/// the runtime was confined to. If the kernel refuses, the process keeps the caller's CPUs: that is no reason to fail.
pub fn reset() {
    /// More CPUs than Linux can be built for; the kernel ignores what it has not.
    const ALL: [u64; 128] = [u64::MAX; 128];
    let _ = sched::set_affinity(&ALL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_their_names() {
        let of = |initial: &str, last: &str| {
            let lists = ExecCpuAffinity {
                initial: initial.to_owned(),
                last: last.to_owned(),
            };
            decide(Some(&lists), "process.execCPUAffinity").map_err(|e| e.chain())
        };
        assert_eq!(of("", ""), Ok(Affinity::default()));
        assert_eq!(of("0-1", "3").unwrap().initial, Some(vec![3]));
        assert!(
            of("", "x")
                .unwrap_err()
                .starts_with("process.execCPUAffinity.final: \"x\"")
        );
        assert!(
            of("2-1", "")
                .unwrap_err()
                .starts_with("process.execCPUAffinity.initial: ")
        );
    }
}
