//! What a case needs of the machine, and whether it is there.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::cgroup::{Hierarchy, Version, hierarchies};

/// A condition on the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// A v1 hierarchy with this controller.
    V1(&'static str),
    /// The v2 hierarchy with this controller; the empty name means the hierarchy alone.
    V2(&'static str),
    /// This controller in either version.
    Controller(&'static str),
    /// No v1 hierarchy at all.
    OnlyV2,
    /// User namespaces can be made.
    UserNamespace,
    /// Time namespaces exist.
    TimeNamespace,
    /// seccomp filters exist.
    Seccomp,
    /// The named file system type exists.
    FileSystem(&'static str),
    /// A file or directory exists.
    Path(&'static str),
    /// A capability, by its number, is in the caller's bounding set.
    Capability(u32, &'static str),
    /// systemd is pid 1.
    Systemd,
    /// At least this many processors.
    Processors(usize),
    /// A program on the path.
    Program(&'static str),
    /// Of an engine: a registry to push to and pull from. This and the next ones are known to [`crate::engine::Subject`].
    Registry,
    /// Of an engine: its containers' processes are seen in this machine's /proc.
    EngineProcesses,
    /// Of an engine: published ports are reached from here.
    PublishedPorts,
    /// Of an engine: at least this version of the API.
    Api(SpecVersion),
}

/// What was found on this machine.
#[derive(Debug, Clone)]
pub struct Host {
    /// All cgroup hierarchies that are seen.
    pub hierarchies: Vec<Hierarchy>,
    filesystems: String,
    bounding: u64,
}

impl Host {
    /// Looks.
    ///
    /// # Errors
    /// When /proc can't be read.
    pub fn detect() -> Result<Self> {
        let status = fs::read_to_string("/proc/self/status")?;
        let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
        Ok(Self {
            hierarchies: hierarchies()?,
            filesystems: fs::read_to_string("/proc/filesystems")?,
            bounding: u64::from_str_radix(bounding.unwrap_or("0").trim(), 16).unwrap_or(0),
        })
    }

    /// The v1 hierarchy that has a controller.
    #[must_use]
    pub fn v1(&self, controller: &str) -> Option<&Hierarchy> {
        let has = |h: &&Hierarchy| h.version == Version::V1 && h.controllers.iter().any(|c| c == controller);
        self.hierarchies.iter().find(has)
    }

    /// The v2 hierarchy, if it has a controller or none is asked for.
    #[must_use]
    pub fn v2(&self, controller: &str) -> Option<&Hierarchy> {
        let found = self.hierarchies.iter().find(|h| h.version == Version::V2)?;
        let all = fs::read_to_string(found.mount_point.join("cgroup.controllers")).unwrap_or_default();
        (controller.is_empty() || all.split_whitespace().any(|c| c == controller)).then_some(found)
    }

    /// `None` if it is there; else what is missing.
    #[must_use]
    pub fn lacks(&self, need: &Need) -> Option<String> {
        let unless = |there: bool, what: &str| (!there).then(|| what.to_owned());
        match need {
            Need::V1(name) => unless(
                self.v1(name).is_some(),
                &format!("no cgroup v1 controller {name}"),
            ),
            Need::V2("") => unless(self.v2("").is_some(), "no cgroup v2 hierarchy"),
            Need::V2(name) => unless(
                self.v2(name).is_some(),
                &format!("no cgroup v2 controller {name}"),
            ),
            Need::Controller(name) => {
                let there = self.v1(name).is_some() || self.v2(name).is_some();
                unless(there, &format!("no cgroup controller {name}"))
            }
            Need::OnlyV2 => {
                let v1 = self.hierarchies.iter().any(|h| h.version == Version::V1);
                unless(!v1, "cgroup v1 hierarchies are mounted")
            }
            Need::UserNamespace => unless(Path::new("/proc/self/ns/user").exists(), "no user namespaces"),
            Need::TimeNamespace => unless(Path::new("/proc/self/ns/time").exists(), "no time namespaces"),
            Need::Seccomp => unless(
                Path::new("/proc/sys/kernel/seccomp").exists(),
                "the kernel has no seccomp filters",
            ),
            Need::FileSystem(name) => {
                let there = self
                    .filesystems
                    .lines()
                    .any(|line| line.split_whitespace().last() == Some(name));
                unless(there, &format!("no file system {name}"))
            }
            Need::Path(path) => unless(Path::new(path).exists(), &format!("no {path}")),
            Need::Capability(number, name) => unless(
                self.bounding >> number & 1 == 1,
                &format!("{name} is not in the bounding set of this machine's root"),
            ),
            // An enclosure has a /run of its own.
            Need::Systemd => unless(
                Path::new("/proc/1/root/run/systemd/system").exists(),
                "systemd is not pid 1",
            ),
            Need::Processors(count) => {
                let here = std::thread::available_parallelism().map_or(1, usize::from);
                unless(here >= *count, &format!("fewer than {count} processors"))
            }
            Need::Program(name) => unless(find_program(name), &format!("no program {name}")),
            Need::Registry | Need::EngineProcesses | Need::PublishedPorts | Need::Api(_) => None,
        }
    }
}

fn find_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).exists())
}

/// A version of the specification: major and minor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SpecVersion(pub u32, pub u32);

impl std::fmt::Display for SpecVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl SpecVersion {
    /// Of `1.0.2-dev` and the like.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('.');
        let major = parts.next()?.parse().ok()?;
        let minor = parts
            .next()?
            .split(|c: char| !c.is_ascii_digit())
            .next()?
            .parse()
            .ok()?;
        Some(Self(major, minor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(SpecVersion::parse("1.0.2-dev"), Some(SpecVersion(1, 0)));
        assert!(SpecVersion::parse("1.10").unwrap() > SpecVersion::parse("1.3.0").unwrap());
        assert_eq!(SpecVersion::parse("latest"), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        let host = Host {
            hierarchies: Vec::new(),
            filesystems: "nodev\ttmpfs\n\text4\n".into(),
            bounding: 1 << 21,
        };
        assert_eq!(host.lacks(&Need::FileSystem("tmpfs")), None);
        assert_eq!(
            host.lacks(&Need::FileSystem("xfs")).unwrap(),
            "no file system xfs"
        );
        assert_eq!(host.lacks(&Need::Capability(21, "CAP_SYS_ADMIN")), None);
        assert!(host.lacks(&Need::Capability(24, "CAP_SYS_RESOURCE")).is_some());
        assert_eq!(host.lacks(&Need::V2("")).unwrap(), "no cgroup v2 hierarchy");
        assert_eq!(host.lacks(&Need::OnlyV2), None);
    }
}
