//! The mounts of a container, in the order in which they are made: docker's defaults, then the user's by depth.

use std::path::Path;

use serde_json::{Value, json};

use super::{Inputs, Namespace};
use crate::containers::record::{MountKind, MountRecord};

/// Where the init of `--init` is bound to, as in docker.
pub(super) const INIT: &str = "/sbin/docker-init";

/// Everything to mount.
pub(super) fn all(inputs: &Inputs<'_>) -> Vec<Value> {
    let record = inputs.record;
    let privileged = record.host.privileged;
    let taken = |destination: &str| {
        let tmpfs = record
            .host
            .tmpfs
            .iter()
            .flatten()
            .any(|(path, _)| path.trim_end_matches('/') == destination);
        tmpfs
            || record
                .mounts
                .iter()
                .any(|m| m.destination == Path::new(destination))
    };
    let mut list: Vec<Value> = defaults(inputs, privileged)
        .into_iter()
        .filter(|m| m["destination"].as_str().is_none_or(|d| !taken(d)))
        .collect();
    let mut own: Vec<(usize, Value)> = Vec::new();
    for (source, destination) in &inputs.etc_files {
        if !taken(destination) {
            let options = json!(["rbind", "rprivate"]);
            let mount =
                json!({"destination": destination, "type": "bind", "source": source, "options": options});
            own.push((depth(Path::new(destination)), mount));
        }
    }
    for mount in &record.mounts {
        own.push((depth(&mount.destination), user_mount(mount)));
    }
    for (destination, options) in record.host.tmpfs.iter().flatten() {
        own.push((
            depth(Path::new(destination)),
            tmpfs(Path::new(destination), &split(options)),
        ));
    }
    if let Some(init) = &inputs.init {
        let options = json!(["bind", "rprivate", "ro"]);
        let mount = json!({"destination": INIT, "type": "bind", "source": init, "options": options});
        own.push((depth(Path::new(INIT)), mount));
    }
    // A mount below another one comes after it.
    own.sort_by_key(|(depth, _)| *depth);
    list.extend(own.into_iter().map(|(_, mount)| mount));
    list
}

fn depth(path: &Path) -> usize {
    path.components().count()
}

fn split(options: &str) -> Vec<String> {
    options
        .split(',')
        .filter(|o| !o.is_empty())
        .map(str::to_owned)
        .collect()
}

fn defaults(inputs: &Inputs<'_>, privileged: bool) -> Vec<Value> {
    let access = if privileged { "rw" } else { "ro" };
    let fs = |destination: &str, kind: &str, options: &[&str]| {
        let source = if kind == "tmpfs" && destination == "/dev/shm" {
            "shm"
        } else {
            kind
        };
        json!({"destination": destination, "type": kind, "source": source, "options": options})
    };
    let mut list = vec![
        fs("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        fs(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        fs(
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
    ];
    list.push(fs("/sys", "sysfs", &["nosuid", "noexec", "nodev", access]));
    list.push(fs(
        "/sys/fs/cgroup",
        "cgroup",
        &[access, "nosuid", "noexec", "nodev"],
    ));
    if inputs.ipc == Namespace::Host {
        for path in ["/dev/mqueue", "/dev/shm"] {
            let options = json!(["rbind", "nosuid", "noexec", "nodev"]);
            list.push(json!({"destination": path, "type": "bind", "source": path, "options": options}));
        }
    } else {
        list.push(fs("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]));
        if inputs.record.host.ipc_mode != "none" {
            let size = format!("size={}", inputs.shm_size);
            list.push(fs(
                "/dev/shm",
                "tmpfs",
                &["nosuid", "noexec", "nodev", "mode=1777", &size],
            ));
        }
    }
    list
}

fn user_mount(mount: &MountRecord) -> Value {
    if mount.kind == MountKind::Tmpfs {
        let mut options = mount.options.clone();
        if !mount.rw {
            options.push("ro".into());
        }
        return tmpfs(&mount.destination, &options);
    }
    let bind = if mount.non_recursive { "bind" } else { "rbind" };
    let propagation = if mount.propagation.is_empty() {
        "rprivate"
    } else {
        &mount.propagation
    };
    let mut options = vec![bind, propagation];
    // `rro` covers what is mounted below the source, too (mount_setattr, Linux 5.12).
    match (mount.rw, mount.non_recursive) {
        (true, _) => {}
        (false, true) => options.push("ro"),
        (false, false) => options.extend(["ro", "rro"]),
    }
    json!({"destination": mount.destination, "type": "bind", "source": mount.source, "options": options})
}

fn tmpfs(destination: &Path, wanted: &[String]) -> Value {
    // docker's defaults; a later opposite (`exec`) wins in mount option order.
    let mut options: Vec<&str> = vec!["noexec", "nosuid", "nodev", "rprivate"];
    for option in wanted {
        let opposite = option
            .strip_prefix("no")
            .map_or_else(|| format!("no{option}"), str::to_owned);
        options.retain(|o| *o != opposite && *o != option);
        options.push(option);
    }
    json!({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options})
}

/// A shared or slave bind mount needs a root that lets mounts through; `None` leaves the runtime's default (slave).
pub(super) fn rootfs_propagation(mounts: &[MountRecord]) -> Option<&'static str> {
    let has = |words: [&str; 2]| mounts.iter().any(|m| words.contains(&m.propagation.as_str()));
    if has(["shared", "rshared"]) {
        Some("shared")
    } else if has(["slave", "rslave"]) {
        Some("rslave")
    } else {
        None
    }
}
