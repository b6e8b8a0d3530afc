//! `spec`: a config.json to start from.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use clap::Parser;
use kelson_cgroups::{Host, Layout};
use serde_json::{Value, json};

use super::{Outcome, print};
use crate::error::{Doing, Error, Kind, Result};

#[derive(Debug, Parser)]
#[command(name = "spec", about = "create a new specification file")]
pub(super) struct Args {
    /// Directory to write config.json to
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// File to write instead of config.json; - is standard output
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// For a container of an unprivileged user
    #[arg(long)]
    pub rootless: bool,
}

pub(super) fn run(args: &Args) -> Outcome {
    write(args).into()
}

fn write(args: &Args) -> Result<()> {
    let unified = Host::detect().is_ok_and(|host| host.layout() == Layout::Unified);
    let text = super::json(&document(args.rootless, unified), true)? + "\n";
    let path = match &args.file {
        Some(file) if file.as_os_str() == "-" => return print(&text),
        Some(file) => args.bundle.join(file),
        None => args.bundle.join("config.json"),
    };
    if path.symlink_metadata().is_ok() {
        return Err(Error::new(
            Kind::Conflict,
            format!("File {} exists. Remove it first", path.display()),
        ));
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .and_then(|mut f| f.write_all(text.as_bytes()))
        .doing(|| format!("write {}", path.display()))
}

/// The document that `runc spec` writes, with this runtime's name as host name.
pub(super) fn document(rootless: bool, unified: bool) -> Value {
    let caps = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mut spec = json!({
        "ociVersion": "1.2.0",
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "kelson",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    });
    // As runc: on v1 those who want one add it, and some add it without looking.
    if unified && let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
        namespaces.push(json!({"type": "cgroup"}));
    }
    if rootless {
        make_rootless(&mut spec);
    }
    spec
}

/// A user namespace instead of a network namespace, the host's /sys, no owner for terminals, no limits.
fn make_rootless(spec: &mut Value) {
    let uid = nix::unistd::Uid::effective().as_raw();
    let gid = nix::unistd::Gid::effective().as_raw();
    let linux = &mut spec["linux"];
    linux["uidMappings"] = json!([{"containerID": 0, "hostID": uid, "size": 1}]);
    linux["gidMappings"] = json!([{"containerID": 0, "hostID": gid, "size": 1}]);
    if let Some(resources) = linux.as_object_mut() {
        resources.remove("resources");
    }
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.retain(|n| n["type"] != "network");
        namespaces.push(json!({"type": "user"}));
    }
    if let Some(mounts) = spec["mounts"].as_array_mut() {
        for m in mounts {
            match m["destination"].as_str() {
                Some("/sys") => {
                    *m = json!({"destination": "/sys", "type": "none", "source": "/sys",
                        "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]});
                }
                Some("/dev/pts") => {
                    if let Some(options) = m["options"].as_array_mut() {
                        options.retain(|o| o != "gid=5");
                    }
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, validate};

    #[test]
    fn both_forms_pass_our_own_checks() {
        for (rootless, unified) in [(false, false), (false, true), (true, false), (true, true)] {
            let config: Config = serde_json::from_value(document(rootless, unified)).unwrap();
            validate::config(&config).unwrap();
        }
    }
}
