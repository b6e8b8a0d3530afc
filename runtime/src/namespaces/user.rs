//! Id mappings of a new user namespace.

use std::fs;
use std::io;
use std::process::Command;

use oci_spec::runtime::LinuxIdMapping;

use crate::error::{Doing, Error, Kind, Result};

/// Whether the caller is not the host's root.
pub fn is_rootless() -> bool {
    !nix::unistd::Uid::effective().is_root() || is_nested()
}

/// Whether this is another user namespace than the host's: there all ids are mapped, to themselves.
pub fn is_nested() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !is_whole(&map))
}

fn is_whole(map: &str) -> bool {
    map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

/// Writes both maps of a process that waits in a new user namespace.
///
/// # Errors
/// Names the field.
pub fn write_maps(pid: i32, uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<()> {
    if !nix::unistd::Uid::effective().is_root() {
        // An unprivileged caller may map groups only after giving up setgroups, but for newgidmap.
        if let [one] = gids
            && one.size() == 1
        {
            fs::write(format!("/proc/{pid}/setgroups"), "deny")
                .doing(|| "linux.gidMappings: deny setgroups")?;
        }
    }
    write_map(pid, "uid_map", "newuidmap", uids).doing(|| "linux.uidMappings")?;
    write_map(pid, "gid_map", "newgidmap", gids).doing(|| "linux.gidMappings")
}

fn write_map(pid: i32, file: &str, helper: &str, list: &[LinuxIdMapping]) -> Result<()> {
    let path = format!("/proc/{pid}/{file}");
    match fs::write(&path, lines(list)) {
        // Only newuidmap and newgidmap, which are root's, may give others than the caller's own id.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied && !nix::unistd::Uid::effective().is_root() => {
        }
        other => return other.doing(|| format!("write {path}")),
    }
    let mut command = Command::new(helper);
    command.arg(pid.to_string());
    for m in list {
        command.args([m.container_id(), m.host_id(), m.size()].map(|n| n.to_string()));
    }
    let out = command.output().doing(|| {
        format!(
            "run {helper} (hint: install uidmap, and give the user a range in /etc/sub{})",
            &helper[3..6]
        )
    })?;
    if out.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&out.stderr);
    Err(Error::new(Kind::Denied, format!("{helper}: {}", text.trim())))
}

/// The kernel's form: container id, host id, count.
fn lines(list: &[LinuxIdMapping]) -> String {
    list.iter()
        .map(|m| format!("{} {} {}\n", m.container_id(), m.host_id(), m.size()))
        .collect()
}

/// The host's id of a container's id, if it is mapped.
pub fn to_host(list: &[LinuxIdMapping], id: u32) -> Option<u32> {
    list.iter().find_map(|m| {
        let offset = id.checked_sub(m.container_id())?;
        if offset < m.size() {
            m.host_id().checked_add(offset)
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(container: u32, host: u32, size: u32) -> LinuxIdMapping {
        oci_spec::runtime::LinuxIdMappingBuilder::default()
            .container_id(container)
            .host_id(host)
            .size(size)
            .build()
            .unwrap()
    }

    #[test]
    fn the_hosts_map_is_whole() {
        assert!(is_whole("         0          0 4294967295\n") && !is_whole("0 1000 1\n"));
    }

    #[test]
    fn lines_and_lookups() {
        let list = [map(0, 1000, 1), map(1, 100_000, 65_535)];
        assert_eq!(lines(&list), "0 1000 1\n1 100000 65535\n");
        assert_eq!(to_host(&list, 0), Some(1000));
        assert_eq!(to_host(&list, 33), Some(100_032));
        assert_eq!(to_host(&list, 65_536), None);
    }
}
