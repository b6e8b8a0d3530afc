//! `update`: other limits for a container that is there.

use oci_spec::runtime::LinuxResources;

use super::state::Status;
use super::store::Store;
use crate::error::{Doing, Error, Kind, Result};
use crate::intel_rdt;
use crate::log::Log;

/// Changes the limits that `resources` name. The list of devices stays as it is, as with runc.
///
/// # Errors
/// `Conflict` when it has stopped; otherwise the field that was refused. Nothing is changed then.
pub fn update(store: &Store, id: &str, resources: &LinuxResources, log: &Log) -> Result<()> {
    let mut entry = store.open(id)?;
    entry.lock()?;
    let record = entry.read()?;
    if matches!(entry.status(&record), Status::Stopped | Status::Creating) {
        return Err(Error::new(Kind::Conflict, "container not running"));
    }
    for why in record.cgroup.ignored(resources) {
        log.warn(&format!("ignored: {why}"));
    }
    Ok(record.cgroup.update(resources)?)
}

/// Changes the schemata of the container's resource control group.
///
/// # Errors
/// `Unsupported` where the kernel or processor has no resource control, `NotFound` when the container has no group.
pub fn rdt(store: &Store, id: &str, l3: Option<&str>, bandwidth: Option<&str>) -> Result<()> {
    let given = |s: Option<&str>| s.is_some_and(|s| !s.is_empty());
    if !given(l3) && !given(bandwidth) {
        return Ok(());
    }
    let root = intel_rdt::root().ok();
    for (asked, info, what) in [
        (given(l3), "L3", "Intel RDT/CAT: l3 cache schema"),
        (given(bandwidth), "MB", "Intel RDT/MBA: memory bandwidth schema"),
    ] {
        let there = root.as_ref().is_some_and(|r| r.join("info").join(info).is_dir());
        if asked && !there {
            return Err(Error::new(Kind::Unsupported, format!("{what} is not enabled")));
        }
    }
    let record = store.open(id)?.read()?;
    let group = record.intel_rdt.ok_or_else(|| {
        Error::new(
            Kind::NotFound,
            "updating a non-existent Intel RDT configuration is not supported",
        )
    })?;
    let path = group.path.join("schemata");
    for line in lines(l3.unwrap_or_default(), bandwidth.unwrap_or_default()) {
        std::fs::write(&path, format!("{line}\n"))
            .doing(|| format!("write {line:?} to {}", path.display()))?;
    }
    Ok(())
}

/// The lines of a schemata file, to be written one by one. An `MB:` line in the schema of the cache yields to the flag
/// for bandwidth.
fn lines<'a>(l3: &'a str, bandwidth: &'a str) -> Vec<&'a str> {
    let cache = l3
        .lines()
        .filter(|l| bandwidth.is_empty() || !l.trim_start().starts_with("MB:"));
    cache
        .chain(bandwidth.lines())
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemata_have_one_line_for_bandwidth() {
        assert_eq!(lines("L3:0=f;1=f\n", ""), ["L3:0=f;1=f"]);
        assert_eq!(lines("", "MB:0=50"), ["MB:0=50"]);
        assert_eq!(lines("L3:0=f\nMB:0=10", "MB:0=50"), ["L3:0=f", "MB:0=50"]);
    }

    #[test]
    fn without_flags_nothing_is_looked_for() {
        let store = Store::new("/nonexistent".into());
        rdt(&store, "web", None, Some("")).unwrap();
    }
}
