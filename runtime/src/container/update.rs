//! `update`: other limits for a container that is there.

use std::path::Path;

use oci_spec::runtime::LinuxResources;

use super::state::Status;
use super::store::Store;
use crate::error::{Doing, Error, Kind, Result};
use crate::log::Log;

/// Where the kernel's resource control is mounted.
const RESCTRL: &str = "/sys/fs/resctrl";

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
    rdt_in(Path::new(RESCTRL), store, id, l3, bandwidth)
}

fn rdt_in(root: &Path, store: &Store, id: &str, l3: Option<&str>, bandwidth: Option<&str>) -> Result<()> {
    let given = |s: Option<&str>| s.filter(|s| !s.is_empty()).map(str::to_owned);
    let (l3, bandwidth) = (given(l3), given(bandwidth));
    if l3.is_none() && bandwidth.is_none() {
        return Ok(());
    }
    for (schema, info, what) in [
        (&l3, "L3", "Intel RDT/CAT: l3 cache schema"),
        (&bandwidth, "MB", "Intel RDT/MBA: memory bandwidth schema"),
    ] {
        if schema.is_some() && !root.join("info").join(info).is_dir() {
            return Err(Error::new(Kind::Unsupported, format!("{what} is not enabled")));
        }
    }
    let record = store.open(id)?.read()?;
    let group = root.join(&record.id);
    if !group.is_dir() {
        return Err(Error::new(
            Kind::NotFound,
            "updating a non-existent Intel RDT configuration is not supported",
        ));
    }
    let schemata = lines(l3.as_deref(), bandwidth.as_deref());
    let path = group.join("schemata");
    std::fs::write(&path, &schemata).doing(|| format!("write {schemata:?} to {}", path.display()))
}

/// The lines of a schemata file. Bandwidth goes by `MB:` alone; an L3 schema may have code and data apart, and any
/// `MB:` line in it yields to the other flag.
fn lines(l3: Option<&str>, bandwidth: Option<&str>) -> String {
    let mut out = String::new();
    for line in l3.unwrap_or_default().lines() {
        if !(bandwidth.is_some() && line.trim_start().starts_with("MB:")) {
            out.push_str(line.trim());
            out.push('\n');
        }
    }
    if let Some(line) = bandwidth {
        out.push_str(line.trim());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemata_have_one_line_for_bandwidth() {
        assert_eq!(lines(Some("L3:0=f;1=f"), None), "L3:0=f;1=f\n");
        assert_eq!(lines(None, Some("MB:0=50")), "MB:0=50\n");
        assert_eq!(
            lines(Some("L3:0=f\nMB:0=10"), Some("MB:0=50")),
            "L3:0=f\nMB:0=50\n"
        );
    }

    #[test]
    fn without_resource_control_it_is_an_error_and_without_flags_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().to_owned());
        rdt_in(dir.path(), &store, "web", None, Some("")).unwrap();
        let error = rdt_in(dir.path(), &store, "web", Some("L3:0=f"), None).unwrap_err();
        assert_eq!(error.to_string(), "Intel RDT/CAT: l3 cache schema is not enabled");
    }
}
