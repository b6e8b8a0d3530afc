//! Rules over `config.json` that need no look at the machine. Every error begins with the JSON path.

use oci_spec::runtime::{LinuxDeviceType, LinuxIdMapping, LinuxNamespaceType as Ns};

use super::model::{Config, Process};
use crate::error::{Error, Kind, Result};
use crate::rootfs::options;

/// Checks all of it.
///
/// # Errors
/// `Invalid` or `Unsupported` for the first rule that does not hold.
pub fn config(c: &Config) -> Result<()> {
    version(&c.oci_version)?;
    let root = c
        .root
        .as_ref()
        .ok_or_else(|| Error::field("root", "is required"))?;
    if root.path().as_os_str().is_empty() {
        return Err(Error::field("root.path", "is required"));
    }
    if let Some(p) = &c.process {
        process(p, "process")?;
    }
    namespaces(c)?;
    mappings(c)?;
    mounts(c)?;
    devices(c)?;
    sysctl(c)?;
    linux_rest(c)
}

/// Checks a process: `at` is `process`, or empty for a file of its own.
///
/// # Errors
/// `Invalid` for the first rule that does not hold.
pub fn process(p: &Process, at: &str) -> Result<()> {
    let field = |name: &str| {
        if at.is_empty() {
            name.to_owned()
        } else {
            format!("{at}.{name}")
        }
    };
    if p.args.is_empty() || p.args[0].is_empty() {
        return Err(Error::field(field("args"), "must name a program"));
    }
    if !p.cwd.starts_with('/') {
        let why = if p.cwd.is_empty() {
            "is required".to_owned()
        } else {
            format!("{:?} is not absolute", p.cwd)
        };
        return Err(Error::field(field("cwd"), why));
    }
    for (name, list) in [("args", &p.args), ("env", &p.env)] {
        if let Some(i) = list.iter().position(|s| s.contains('\0')) {
            return Err(Error::field(format!("{}[{i}]", field(name)), "holds a NUL byte"));
        }
    }
    if p.cwd.contains('\0') {
        return Err(Error::field(field("cwd"), "holds a NUL byte"));
    }
    for (i, limit) in p.rlimits.iter().enumerate() {
        if limit.soft() > limit.hard() {
            let why = format!("soft {} is above hard {}", limit.soft(), limit.hard());
            return Err(Error::field(format!("{}[{i}]", field("rlimits")), why));
        }
        if p.rlimits[..i].iter().any(|other| other.typ() == limit.typ()) {
            return Err(Error::field(
                format!("{}[{i}]", field("rlimits")),
                "the same type twice",
            ));
        }
    }
    if let Some(adj) = p.oom_score_adj
        && !(-1000..=1000).contains(&adj)
    {
        return Err(Error::field(
            field("oomScoreAdj"),
            format!("{adj} is not between -1000 and 1000"),
        ));
    }
    if p.scheduler.is_some() {
        return Err(unsupported(&field("scheduler")));
    }
    if p.io_priority.is_some() {
        return Err(unsupported(&field("ioPriority")));
    }
    Ok(())
}

fn unsupported(field: &str) -> Error {
    Error::new(
        Kind::Unsupported,
        format!("{field}: not supported by kelson-runtime yet"),
    )
}

/// A 1.x config is accepted, and any 0.x that runc took, as semver's major 1 promises.
fn version(v: &str) -> Result<()> {
    let mut parts = v.splitn(3, '.');
    let major = parts.next().and_then(|p| p.parse::<u32>().ok());
    let minor = parts.next().and_then(|p| p.parse::<u32>().ok());
    match (major, minor, parts.next()) {
        (Some(0 | 1), Some(_), Some(patch)) if patch.starts_with(|c: char| c.is_ascii_digit()) => Ok(()),
        (Some(major), Some(_), Some(_)) => Err(Error::new(
            Kind::Unsupported,
            format!("ociVersion: {v:?}: version {major} is unknown"),
        )),
        _ => Err(Error::field(
            "ociVersion",
            format!("{v:?} is not of the form X.Y.Z"),
        )),
    }
}

fn namespaces(c: &Config) -> Result<()> {
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
        if ns.typ() == Ns::Time {
            return Err(unsupported(&at));
        }
    }
    let has = |typ| list.iter().any(|ns| ns.typ() == typ);
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
    if !has(Ns::Mount) && !c.mounts.is_empty() {
        return Err(Error::field("mounts", "need a mount namespace"));
    }
    Ok(())
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

fn mappings(c: &Config) -> Result<()> {
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
fn mapping_list(at: &str, list: &[LinuxIdMapping]) -> Result<()> {
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

fn mounts(c: &Config) -> Result<()> {
    for (i, m) in c.mounts.iter().enumerate() {
        let at = format!("mounts[{i}]");
        if m.destination().as_os_str().is_empty() {
            return Err(Error::field(format!("{at}.destination"), "is required"));
        }
        let parsed = options::parse(m.options().as_deref().unwrap_or_default());
        if parsed.bind && m.source().as_ref().is_none_or(|s| s.as_os_str().is_empty()) {
            return Err(Error::field(format!("{at}.source"), "a bind mount needs one"));
        }
        let mapped = [m.uid_mappings(), m.gid_mappings()]
            .into_iter()
            .flatten()
            .any(|l| !l.is_empty());
        if parsed.idmap || mapped {
            return Err(unsupported(&format!("{at}.uidMappings")));
        }
    }
    Ok(())
}

fn devices(c: &Config) -> Result<()> {
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
fn sysctl(c: &Config) -> Result<()> {
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

fn linux_rest(c: &Config) -> Result<()> {
    let l = &c.linux;
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
    let refused = [
        ("timeOffsets", l.time_offsets.is_some()),
        ("intelRdt", l.intel_rdt.is_some()),
        ("memoryPolicy", l.memory_policy.is_some()),
        ("netDevices", !l.net_devices.is_empty()),
    ];
    match refused.iter().find(|(_, set)| *set) {
        Some((name, _)) => Err(unsupported(&format!("linux.{name}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> String {
        let parsed: Config = serde_json::from_str(text).unwrap();
        config(&parsed).map_or_else(|e| e.chain(), |()| "ok".to_owned())
    }

    fn with(linux: &str) -> String {
        check(&format!(
            r#"{{"ociVersion":"1.0.2","root":{{"path":"rootfs"}},"linux":{{{linux}}}}}"#
        ))
    }

    #[test]
    fn errors_begin_with_the_path() {
        assert!(check(r#"{"ociVersion":"1.0.2"}"#).starts_with("root: "));
        let process = r#"{"ociVersion":"1.0.2","root":{"path":"r"},"process":{"args":["a"],"cwd":"tmp"}}"#;
        assert!(check(process).starts_with("process.cwd: "));
        assert!(
            with(r#""namespaces":[{"type":"pid"},{"type":"uts"},{"type":"ipc","path":"x"}]"#)
                .starts_with("linux.namespaces[2].path: ")
        );
        assert!(with(r#""sysctl":{"kernel.panic":"1"}"#).starts_with("linux.sysctl[\"kernel.panic\"]: "));
        assert!(with(r#""namespaces":[{"type":"user"}]"#).starts_with("linux.uidMappings: "));
        assert!(
            with(r#""maskedPaths":["proc"],"namespaces":[{"type":"mount"}]"#)
                .starts_with("linux.maskedPaths[0]: ")
        );
    }

    #[test]
    fn versions() {
        assert!(version("1.0.2-dev").is_ok());
        assert!(version("1.3.0").is_ok());
        assert!(version("2.0.0").unwrap_err().kind() == Kind::Unsupported);
        assert!(version("").is_err());
        assert!(version("1.x.0").is_err());
    }

    #[test]
    fn huge_mappings_do_not_overflow() {
        let user = r#""namespaces":[{"type":"user"}],"uidMappings":[{"containerID":0,"hostID":0,"size":1}],"#;
        let gids = r#""gidMappings":[{"containerID":4294967295,"hostID":0,"size":4294967295}]"#;
        assert!(with(&format!("{user}{gids}")).starts_with("linux.gidMappings[0]: "));
        let gids = r#""gidMappings":[{"containerID":0,"hostID":0,"size":10},{"containerID":5,"hostID":100,"size":10}]"#;
        assert!(with(&format!("{user}{gids}")).contains("overlaps"));
    }

    #[test]
    fn slashes_and_dots_of_sysctl() {
        assert_eq!(
            dotted("net/ipv4/conf/eth0.100/forwarding"),
            "net.ipv4.conf.eth0/100.forwarding"
        );
        assert_eq!(dotted("net.ipv4.ip_forward"), "net.ipv4.ip_forward");
    }
}
