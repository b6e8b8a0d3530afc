//! `linux.namespaces`, what needs one of them, and id mappings.

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType as Ns};

use super::super::model::Config;
use crate::error::{Error, Result};
use crate::namespaces::{net_devices, time};

pub(super) fn namespaces(c: &Config) -> Result<()> {
    let list = &c.linux.namespaces;
    for (i, ns) in list.iter().enumerate() {
        let at = format!("linux.namespaces[{i}]");
        if list[..i].iter().any(|other| other.typ() == ns.typ()) {
            return Err(Error::field(at, format!("type {} twice", ns_name(ns.typ()))));
        }
        if let Some(path) = ns.path()
            && !path.as_os_str().is_empty()
            && !path.is_absolute()
        {
            return Err(Error::field(
                format!("{at}.path"),
                format!("{} is not absolute", path.display()),
            ));
        }
    }
    let has = |typ| list.iter().any(|ns| ns.typ() == typ);
    time_offsets(c)?;
    if !net_devices::decide(&c.linux.net_devices)?.is_empty() && !has(Ns::Network) {
        return Err(Error::field("linux.netDevices", "needs a network namespace"));
    }
    if c.hostname.as_deref().is_some_and(|h| !h.is_empty()) && !has(Ns::Uts) {
        return Err(Error::field("hostname", "needs a uts namespace"));
    }
    if c.domainname.as_deref().is_some_and(|d| !d.is_empty()) && !has(Ns::Uts) {
        return Err(Error::field("domainname", "needs a uts namespace"));
    }
    let private = !c.linux.masked_paths.is_empty() || !c.linux.readonly_paths.is_empty();
    if !has(Ns::Mount) && private {
        return Err(Error::field(
            "linux.maskedPaths",
            "masked and read-only paths need a mount namespace",
        ));
    }
    if !has(Ns::Mount) && c.linux.rootfs_propagation.is_some() {
        return Err(Error::field("linux.rootfsPropagation", "needs a mount namespace"));
    }
    Ok(())
}

fn time_offsets(c: &Config) -> Result<()> {
    if time::decide(&c.linux.time_offsets)?.is_none() {
        return Ok(());
    }
    let at = "linux.timeOffsets";
    match c.linux.namespaces.iter().find(|ns| ns.typ() == Ns::Time) {
        None => Err(Error::field(at, "needs a time namespace")),
        Some(ns) if ns.path().as_ref().is_some_and(|p| !p.as_os_str().is_empty()) => Err(Error::field(
            at,
            "needs a new time namespace, and linux.namespaces names one to join",
        )),
        Some(_) => Ok(()),
    }
}

/// A namespace's name as config.json has it.
pub fn ns_name(typ: Ns) -> &'static str {
    match typ {
        Ns::Mount => "mount",
        Ns::Cgroup => "cgroup",
        Ns::Uts => "uts",
        Ns::Ipc => "ipc",
        Ns::User => "user",
        Ns::Pid => "pid",
        Ns::Network => "network",
        Ns::Time => "time",
    }
}

pub(super) fn mappings(c: &Config) -> Result<()> {
    let user = c.linux.namespaces.iter().find(|ns| ns.typ() == Ns::User);
    let new = user.is_some_and(|ns| ns.path().as_ref().is_none_or(|p| p.as_os_str().is_empty()));
    for (name, list) in [
        ("uidMappings", &c.linux.uid_mappings),
        ("gidMappings", &c.linux.gid_mappings),
    ] {
        let at = format!("linux.{name}");
        if new && list.is_empty() {
            return Err(Error::field(
                at,
                "a new user namespace needs at least one mapping",
            ));
        }
        if user.is_none() && !list.is_empty() {
            return Err(Error::field(at, "needs a user namespace"));
        }
        mapping_list(&at, list)?;
    }
    Ok(())
}

/// The kernel's own rules, so that the error can name the entry (and no sum overflows: CVE-2021-43784).
pub(super) fn mapping_list(at: &str, list: &[LinuxIdMapping]) -> Result<()> {
    /// `UID_GID_MAP_MAX_EXTENTS`
    const MAX: usize = 340;
    if list.len() > MAX {
        return Err(Error::field(
            at,
            format!("has {} entries, the kernel takes {MAX}", list.len()),
        ));
    }
    for (i, m) in list.iter().enumerate() {
        let at = format!("{at}[{i}]");
        if m.size() == 0 {
            return Err(Error::field(format!("{at}.size"), "is 0"));
        }
        if m.container_id().checked_add(m.size()).is_none() || m.host_id().checked_add(m.size()).is_none() {
            return Err(Error::field(at, "reaches beyond the largest id"));
        }
        for other in &list[..i] {
            let apart = |a: u32, b: u32| a >= b + other.size() || b >= a + m.size();
            if !apart(m.container_id(), other.container_id()) || !apart(m.host_id(), other.host_id()) {
                return Err(Error::field(at, "overlaps an earlier entry"));
            }
        }
    }
    Ok(())
}
