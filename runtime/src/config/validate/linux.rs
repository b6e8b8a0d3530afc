//! `linux.devices`, `linux.sysctl`, and the paths and names of `linux`.

use oci_spec::runtime::{LinuxDeviceType, LinuxNamespaceType as Ns};

use super::super::model::Config;
use super::ns_name;
use crate::error::{Error, Result};
use crate::intel_rdt;
use crate::process::{memory_policy, personality};
use crate::rootfs::options;

pub(super) fn devices(c: &Config) -> Result<()> {
    for (i, d) in c.linux.devices.iter().enumerate() {
        let at = format!("linux.devices[{i}]");
        if !d.path().is_absolute() {
            return Err(Error::field(
                format!("{at}.path"),
                format!("{} is not absolute", d.path().display()),
            ));
        }
        if d.typ() == LinuxDeviceType::A {
            return Err(Error::field(format!("{at}.type"), "must be one of b, c, u, p"));
        }
        for (name, n) in [("major", d.major()), ("minor", d.minor())] {
            if d.typ() != LinuxDeviceType::P && u32::try_from(n).is_err() {
                return Err(Error::field(
                    format!("{at}.{name}"),
                    format!("{n} is not a device number"),
                ));
            }
        }
    }
    Ok(())
}

/// Only parameters that belong to a namespace the container has of its own: others would change the host.
pub(super) fn sysctl(c: &Config) -> Result<()> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let has = |typ| c.linux.namespaces.iter().any(|ns| ns.typ() == typ);
    for name in c.linux.sysctl.keys() {
        let at = format!("linux.sysctl[{name:?}]");
        let dotted = dotted(name);
        if dotted.split('.').any(|part| part.is_empty() || part == "..") {
            return Err(Error::field(at, "is not the name of a kernel parameter"));
        }
        let needs = if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
            Ns::Ipc
        } else if dotted.starts_with("net.") {
            Ns::Network
        } else if dotted == "kernel.domainname" {
            Ns::Uts
        } else if dotted == "kernel.hostname" {
            return Err(Error::field(at, "set hostname instead"));
        } else if dotted.starts_with("user.") {
            Ns::User
        } else {
            return Err(Error::field(at, "is not in a separate kernel namespace"));
        };
        if !has(needs) {
            return Err(Error::field(at, format!("needs a {} namespace", ns_name(needs))));
        }
    }
    Ok(())
}

/// A parameter's name with dots between its parts. As for sysctl(8): the first separator seen decides, so that
/// `net/ipv4/conf/eth0.100/forwarding` keeps the dot in its interface's name (shown as a slash).
pub fn dotted(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(i) if name.as_bytes()[i] == b'/' => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

pub(super) fn rest(c: &Config) -> Result<()> {
    let l = &c.linux;
    if l.cgroups_path.as_deref().is_some_and(|p| p.contains('\0')) {
        return Err(Error::field("linux.cgroupsPath", "holds a NUL byte"));
    }
    if let Some(p) = l.rootfs_propagation.as_deref().filter(|p| !p.is_empty())
        && options::propagation(p).is_none()
    {
        return Err(Error::field(
            "linux.rootfsPropagation",
            format!("{p:?} is not a propagation"),
        ));
    }
    for (name, list) in [
        ("maskedPaths", &l.masked_paths),
        ("readonlyPaths", &l.readonly_paths),
    ] {
        if let Some(i) = list.iter().position(|p| !p.starts_with('/')) {
            return Err(Error::field(
                format!("linux.{name}[{i}]"),
                format!("{:?} is not absolute", list[i]),
            ));
        }
    }
    if let Some(p) = &l.personality {
        personality::decide(p)?;
    }
    if let Some(m) = &l.memory_policy {
        memory_policy::decide(m)?;
    }
    if let Some(rdt) = &l.intel_rdt {
        intel_rdt::decide(rdt, "id")?;
    }
    Ok(())
}
