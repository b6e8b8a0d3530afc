//! A bundle whose whole userland is the probe.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

pub use crate::bundle::CAPABILITIES;

/// A directory with `config.json` and a root file system. The configuration is raw JSON, so that a case can make it
/// wrong; it is written out when the bundle is used.
#[derive(Debug)]
pub struct Bundle {
    /// The bundle's directory.
    pub directory: PathBuf,
    /// What will be written as `config.json`.
    pub config: Value,
}

impl Bundle {
    pub(super) fn make(directory: PathBuf, probe: &Path, cgroup: &str) -> Result<Self> {
        let rootfs = directory.join("rootfs");
        for name in ["proc", "sys", "dev", "tmp", "etc", "run", "mnt", "data"] {
            fs::create_dir_all(rootfs.join(name)).context("make a root file system")?;
        }
        for open in [&directory, &rootfs] {
            fs::set_permissions(open, fs::Permissions::from_mode(0o755))?;
        }
        fs::set_permissions(rootfs.join("tmp"), fs::Permissions::from_mode(0o1777))?;
        fs::write(
            rootfs.join("etc/passwd"),
            "root:x:0:0::/root:/probe\nprobe:x:1000:1000::/tmp:/probe\n",
        )?;
        fs::write(rootfs.join("etc/group"), "root:x:0:\nprobe:x:1000:\n")?;
        // A link, not a copy: the probe is larger than all the rest of a case.
        fs::hard_link(probe, rootfs.join("probe")).context("link the probe")?;
        Ok(Self {
            directory,
            config: default_config(cgroup),
        })
    }

    /// The root file system, from outside.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.directory.join("rootfs")
    }

    /// A file in the root file system, from outside.
    #[must_use]
    pub fn inside(&self, path: &str) -> PathBuf {
        self.rootfs().join(path.trim_start_matches('/'))
    }

    /// What the probe does: acts, separated by commas in its arguments.
    pub fn acts(&mut self, acts: &[&str]) {
        self.config["process"]["args"] = json!(arguments("/probe", acts));
    }

    /// Adds a mount at the end.
    pub fn mount(&mut self, mount: Value) {
        if let Some(mounts) = self.config["mounts"].as_array_mut() {
            mounts.push(mount);
        }
    }

    /// Takes out the mount on a destination.
    pub fn without_mount(&mut self, destination: &str) {
        if let Some(mounts) = self.config["mounts"].as_array_mut() {
            mounts.retain(|mount| mount["destination"] != destination);
        }
    }

    /// Replaces the namespaces, by type; `mount` and what is named.
    pub fn namespaces(&mut self, types: &[&str]) {
        let all: Vec<Value> = types.iter().map(|kind| json!({ "type": kind })).collect();
        self.config["linux"]["namespaces"] = Value::Array(all);
    }

    /// Takes out one namespace type.
    pub fn without_namespace(&mut self, kind: &str) {
        if let Some(all) = self.config["linux"]["namespaces"].as_array_mut() {
            all.retain(|entry| entry["type"] != kind);
        }
    }

    /// Adds a namespace, or gives one a path.
    pub fn namespace_at(&mut self, kind: &str, path: &str) {
        self.without_namespace(kind);
        if let Some(all) = self.config["linux"]["namespaces"].as_array_mut() {
            all.push(json!({"type": kind, "path": path}));
        }
    }

    /// A user namespace of 65,536 ids that begins at `base` on the host, and a root file system that it owns.
    ///
    /// # Errors
    /// When the files can't be given to it.
    pub fn user_namespace(&mut self, base: u32) -> Result<()> {
        if let Some(all) = self.config["linux"]["namespaces"].as_array_mut() {
            all.push(json!({"type": "user"}));
        }
        let map = json!([{"containerID": 0, "hostID": base, "size": 65536}]);
        self.config["linux"]["uidMappings"] = map.clone();
        self.config["linux"]["gidMappings"] = map;
        let mut all = vec![self.rootfs()];
        while let Some(path) = all.pop() {
            if path.is_dir() {
                all.extend(fs::read_dir(&path)?.flatten().map(|entry| entry.path()));
            }
            if path.file_name().is_some_and(|name| name != "probe") {
                std::os::unix::fs::lchown(&path, Some(base), Some(base))?;
            }
        }
        Ok(())
    }

    /// The cgroup path that was asked for.
    #[must_use]
    pub fn cgroup(&self) -> &str {
        self.config["linux"]["cgroupsPath"].as_str().unwrap_or_default()
    }

    /// Writes `config.json`.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(&self) -> Result<()> {
        fs::write(
            self.directory.join("config.json"),
            serde_json::to_vec_pretty(&self.config)?,
        )
        .context("write config.json")
    }
}

/// The probe's command line for some acts, each a text with its words separated by spaces.
#[must_use]
pub fn arguments(program: &str, acts: &[&str]) -> Vec<String> {
    let mut args = vec![program.to_owned()];
    for (n, act) in acts.iter().enumerate() {
        if n > 0 {
            args.push(",".into());
        }
        args.extend(act.split(' ').map(str::to_owned));
    }
    args
}

/// What engines ask for: all namespaces but user and time, the usual mounts, masked paths, fourteen capabilities.
fn default_config(cgroup: &str) -> Value {
    let quiet = ["nosuid", "noexec", "nodev"];
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["/probe", "observe"],
            "env": ["PATH=/usr/bin:/bin:/", "SPEC=tests"],
            "cwd": "/",
            "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES},
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "probe",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": quiet},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": quiet},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                {"type": "cgroup"}
            ],
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acts_become_arguments_with_commas_between() {
        let args = arguments("/probe", &["open /x r", "observe"]);
        assert_eq!(args, ["/probe", "open", "/x", "r", ",", "observe"]);
    }
}
