//! Which cgroup hierarchies this machine has, and how to use one: v1, v2, or v1 with v2 beside it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

/// The two interfaces of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy per controller or group of controllers.
    V1,
    /// The one hierarchy with all controllers that v1 does not hold.
    V2,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Whose files it has.
    pub version: Version,
    /// v1: its controllers, or `name=...`. Empty on v2.
    pub controllers: Vec<String>,
}

impl fmt::Display for Hierarchy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.mount_point.display())
    }
}

/// Every hierarchy that this thread's mount table shows.
///
/// # Errors
/// When the mount table can't be read.
pub fn hierarchies() -> Result<Vec<Hierarchy>> {
    let text = fs::read_to_string("/proc/thread-self/mountinfo").context("read the mount table")?;
    Ok(parse_mountinfo(&text))
}

/// proc_pid_mountinfo(5): `id parent dev root mount-point options [tags] - type source super-options`.
fn parse_mountinfo(text: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in text.lines() {
        let Some((front, back)) = line.split_once(" - ") else {
            continue;
        };
        let front: Vec<&str> = front.split(' ').collect();
        let back: Vec<&str> = back.split(' ').collect();
        let (Some(point), Some(kind), Some(options)) = (front.get(4), back.first(), back.get(2)) else {
            continue;
        };
        let version = match *kind {
            "cgroup" => Version::V1,
            "cgroup2" => Version::V2,
            _ => continue,
        };
        let controllers: Vec<String> = match version {
            Version::V1 => options
                .split(',')
                .filter(|o| is_controller(o))
                .map(str::to_owned)
                .collect(),
            Version::V2 => Vec::new(),
        };
        let seen = found
            .iter()
            .any(|other| other.version == version && other.controllers == controllers);
        if !seen {
            found.push(Hierarchy {
                mount_point: PathBuf::from(point),
                version,
                controllers,
            });
        }
    }
    found
}

fn is_controller(option: &str) -> bool {
    !matches!(option, "rw" | "ro" | "xattr" | "clone_children" | "noprefix")
        && !option.starts_with("release_agent=")
}

impl Hierarchy {
    /// Where the calling thread is in this hierarchy, relative to the mount point.
    ///
    /// # Errors
    /// When the kernel does not list this hierarchy.
    pub fn own_path(&self) -> Result<PathBuf> {
        let text = fs::read_to_string("/proc/thread-self/cgroup").context("read own cgroups")?;
        let path = text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (names, path) = (fields.next()?, fields.next()?);
            let same = match self.version {
                Version::V2 => names.is_empty(),
                Version::V1 => names.split(',').eq(self.controllers.iter().map(String::as_str)),
            };
            same.then(|| PathBuf::from(path.trim_start_matches('/')))
        });
        path.with_context(|| format!("{self} is not in /proc/thread-self/cgroup"))
    }

    /// Fills what a new v1 cpuset lacks; a new v2 directory hands on its parent's controllers.
    ///
    /// # Errors
    /// When the files can't be written.
    pub fn make_usable(&self, directory: &Path) -> Result<()> {
        if self.controllers.iter().any(|name| name == "cpuset") {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                fs::write(directory.join(file), fs::read(self.mount_point.join(file))?)?;
            }
            fs::write(directory.join("cgroup.clone_children"), "1")?;
        }
        Ok(())
    }

    /// Mounts this hierarchy once more, as the caller's cgroup namespace shows it.
    ///
    /// # Errors
    /// When the mount is refused.
    pub fn mount_at(&self, target: &Path) -> Result<()> {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        fs::create_dir_all(target)?;
        let options = self.controllers.join(",");
        let done = match self.version {
            Version::V1 => mount(
                Some("cgroup"),
                target,
                Some("cgroup"),
                flags,
                Some(options.as_str()),
            ),
            Version::V2 => mount(Some("cgroup2"), target, Some("cgroup2"), flags, None::<&str>),
        };
        done.with_context(|| format!("mount {options} on {}", target.display()))
    }

    /// CPU time of a cgroup of this hierarchy and all below it; `None` if this hierarchy does not count it.
    ///
    /// # Errors
    /// When the account can't be read.
    pub fn cpu_time(&self, directory: &Path) -> Result<Option<Duration>> {
        if self.controllers.iter().any(|name| name == "cpuacct") {
            let text = fs::read_to_string(directory.join("cpuacct.usage"))?;
            return Ok(Some(Duration::from_nanos(text.trim().parse()?)));
        }
        if self.version == Version::V2 {
            let text = fs::read_to_string(directory.join("cpu.stat")).unwrap_or_default();
            let used = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
            return Ok(used.map(str::parse).transpose()?.map(Duration::from_micros));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_hybrid_mount_table() {
        let text = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                    32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
                    40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                    41 31 0:38 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n";
        let found = parse_mountinfo(text);
        let names: Vec<_> = found
            .iter()
            .map(|h| (h.version, h.controllers.join("+")))
            .collect();
        let expected = [
            (Version::V1, "cpu+cpuacct"),
            (Version::V1, "name=systemd"),
            (Version::V2, ""),
        ];
        assert_eq!(names, expected.map(|(version, name)| (version, name.to_owned())));
    }

    #[test]
    fn counts_a_hierarchy_mounted_twice_once() {
        let line = "41 31 0:38 / /a rw - cgroup2 cgroup2 rw\n41 31 0:38 / /b rw - cgroup2 cgroup2 rw\n";
        assert_eq!(parse_mountinfo(line).len(), 1);
    }
}
