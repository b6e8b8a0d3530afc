//! Capability names: docker's default set, and what `--cap-add` and `--cap-drop` make of it.

use std::collections::BTreeSet;

use crate::error::{Error, Result};

/// All names, by their number (linux/capability.h).
pub(crate) const ALL: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What docker gives a container that asks for nothing.
const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// The names of a kernel bit mask, such as `CapBnd` in /proc/self/status.
pub(crate) fn from_mask(mask: u64) -> BTreeSet<String> {
    ALL.iter()
        .enumerate()
        .filter(|(bit, _)| mask & (1 << bit) != 0)
        .map(|(_, name)| (*name).to_owned())
        .collect()
}

/// What this process may hand on: its bounding set.
pub(crate) fn held() -> BTreeSet<String> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|l| l.strip_prefix("CapBnd:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    // A kernel without that line: let the runtime find out.
    from_mask(mask.unwrap_or(u64::MAX))
}

/// The container's set, as docker computes it. Each list is additions to, and removals from, the default; `ALL` in one
/// makes the other the exception.
///
/// # Errors
/// `Invalid` for a name that is no capability, or one this host cannot give.
pub(crate) fn tweak(
    add: &[String],
    drop: &[String],
    privileged: bool,
    held: &BTreeSet<String>,
) -> Result<BTreeSet<String>> {
    let (add, drop) = (normalize(add, held)?, normalize(drop, held)?);
    if privileged {
        return Ok(held.clone());
    }
    let base: BTreeSet<String> = if add.all {
        held.clone()
    } else if drop.all {
        BTreeSet::new()
    } else {
        DEFAULT
            .iter()
            .map(|n| (*n).to_owned())
            .filter(|n| held.contains(n))
            .collect()
    };
    // `--cap-add ALL --cap-drop X` and `--cap-drop ALL --cap-add X` both keep what is named.
    let mut set: BTreeSet<String> = base.difference(&drop.names).cloned().collect();
    set.extend(add.names);
    Ok(set)
}

struct Names {
    all: bool,
    names: BTreeSet<String>,
}

fn normalize(list: &[String], held: &BTreeSet<String>) -> Result<Names> {
    let mut out = Names {
        all: false,
        names: BTreeSet::new(),
    };
    for word in list {
        let upper = word.to_ascii_uppercase();
        if upper == "ALL" {
            out.all = true;
            continue;
        }
        let name = if upper.starts_with("CAP_") {
            upper
        } else {
            format!("CAP_{upper}")
        };
        if !ALL.contains(&name.as_str()) {
            return Err(Error::invalid(format!(
                "invalid capability: unknown capability: \"{name}\""
            )));
        }
        if !held.contains(&name) {
            return Err(Error::invalid(format!(
                "invalid capability: capability not supported by your kernel or not available in the current environment: \"{name}\""
            )));
        }
        out.names.insert(name);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    fn all() -> BTreeSet<String> {
        from_mask(u64::MAX)
    }

    #[test]
    fn masks_name_capabilities() {
        assert_eq!(
            from_mask(0b101),
            ["CAP_CHOWN", "CAP_DAC_READ_SEARCH"].map(String::from).into()
        );
        assert_eq!(all().len(), 41);
        assert!(!held().is_empty());
    }

    #[test]
    fn additions_and_removals() {
        let of = |add: &[&str], drop: &[&str]| tweak(&list(add), &list(drop), false, &all()).unwrap();
        assert_eq!(of(&[], &[]).len(), 14);
        assert!(of(&["sys_admin"], &[]).contains("CAP_SYS_ADMIN"));
        assert!(!of(&[], &["CAP_KILL"]).contains("CAP_KILL"));
        assert_eq!(of(&["CHOWN"], &["ALL"]), ["CAP_CHOWN".to_owned()].into());
        assert_eq!(of(&["ALL"], &["chown"]).len(), 40);
    }

    #[test]
    fn what_cannot_be_given_is_refused_or_left_out() {
        let mut few = all();
        few.remove("CAP_SYS_RESOURCE");
        assert!(tweak(&list(&["SYS_RESOURCE"]), &[], false, &few).is_err());
        assert!(
            tweak(&list(&["NO_SUCH"]), &[], false, &few)
                .unwrap_err()
                .to_string()
                .contains("\"CAP_NO_SUCH\"")
        );
        assert_eq!(tweak(&[], &[], true, &few).unwrap(), few);
        assert!(
            !tweak(&list(&["ALL"]), &[], false, &few)
                .unwrap()
                .contains("CAP_SYS_RESOURCE")
        );
    }
}
