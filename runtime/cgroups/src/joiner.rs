//! How a process gets into a container's cgroup: by clone3, by a write of its own, or with systemd's help.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::unistd::AccessFlags;

use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::files;
use crate::host::Version;
use crate::systemd::Unit;

/// The open ends by which a process enters a cgroup; see [`Cgroup::joiner`].
#[derive(Debug)]
pub struct Joiner {
    tasks: Vec<File>,
    unified: Option<File>,
    unified_path: Option<PathBuf>,
    helper: Option<Helper>,
}

/// A user's systemd, which moves a process that the kernel does not let its own user move: whoever comes from a login
/// session's scope would need the right to write to the slice above both (cgroups(7), "Delegation containment").
#[derive(Debug, Clone)]
pub struct Helper {
    unit: Unit,
    /// Below the unit's own cgroup; begins with a slash, or is empty.
    below: String,
}

impl Helper {
    /// Has a process of the calling user's, in whatever namespaces, moved into the cgroup.
    ///
    /// # Errors
    /// What systemd reported.
    pub fn move_in(&self, pid: i32) -> Result<()> {
        self.unit.attach(&self.below, pid)
    }
}

impl Joiner {
    /// Gives the v2 directory away, for clone3's `CLONE_INTO_CGROUP`.
    pub fn take_unified(&mut self) -> Option<OwnedFd> {
        self.unified.take().map(OwnedFd::from)
    }

    /// Where neither clone3 nor a write may place a process: who does it, while the process waits.
    pub fn helper(&self) -> Option<&Helper> {
        self.helper.as_ref()
    }

    /// Moves a process into the v2 directory, for where clone3 could not place it. No-op without one.
    ///
    /// # Errors
    /// What the kernel or systemd reported.
    pub fn place_unified(&self, pid: i32) -> Result<()> {
        match (&self.helper, &self.unified_path) {
            (Some(helper), _) => helper.move_in(pid),
            (None, Some(path)) => files::write(path, "cgroup.procs", &pid.to_string()),
            (None, None) => Ok(()),
        }
    }

    /// Moves the calling, single-threaded process into the v1 hierarchies.
    ///
    /// It writes `0` to `tasks`: that moves one thread without the lock over all processes that
    /// `cgroup.procs` takes (5 to 9 ms of waiting).
    ///
    /// # Errors
    /// What the kernel reported, e.g. no room under `pids.max`.
    pub fn join(&self) -> Result<()> {
        for mut file in &self.tasks {
            file.write_all(b"0")
                .map_err(|e| Error::io(e, "join cgroup: write \"0\" to tasks"))?;
        }
        Ok(())
    }
}

impl Cgroup {
    /// Opens what a process needs to enter, so that it can do so from inside other namespaces.
    ///
    /// # Errors
    /// What opening reported.
    pub fn joiner(&self) -> Result<Joiner> {
        let mut joiner = Joiner {
            tasks: Vec::with_capacity(self.dirs.len()),
            unified: None,
            unified_path: None,
            helper: self.helper()?,
        };
        for dir in &self.dirs {
            match dir.version {
                Version::V1 => {
                    let path = dir.path.join("tasks");
                    let file = OpenOptions::new().write(true).open(&path);
                    joiner
                        .tasks
                        .push(file.map_err(|e| Error::io(e, format!("open {}", path.display())))?);
                }
                Version::V2 => {
                    joiner.unified_path = Some(dir.path.clone());
                    if joiner.helper.is_none() {
                        let file = File::open(&dir.path);
                        joiner.unified =
                            Some(file.map_err(|e| Error::io(e, format!("open {}", dir.path.display())))?);
                    }
                }
            }
        }
        Ok(joiner)
    }

    /// Only for a unit of a user's own systemd, and only where its user is no owner of what lies above both this cgroup
    /// and the caller's.
    fn helper(&self) -> Result<Option<Helper>> {
        let (Some(unit), Some(dir)) = (self.unit().filter(|u| u.is_users()), self.v2()) else {
            return Ok(None);
        };
        let own = files::read(Path::new("/proc/self"), "cgroup")?;
        let own = own
            .lines()
            .find_map(|l| l.strip_prefix("0::/"))
            .unwrap_or_default();
        let common = common_ancestor(&dir.mount.join(own), &dir.path);
        if nix::unistd::access(&common.join("cgroup.procs"), AccessFlags::W_OK).is_ok() {
            return Ok(None);
        }
        Ok(Some(Helper {
            unit: unit.clone(),
            below: below_unit(&dir.path, unit.name()),
        }))
    }
}

fn common_ancestor(a: &Path, b: &Path) -> PathBuf {
    let both = a.components().zip(b.components());
    both.take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
}

/// What of a cgroup's path is below the unit's own; as systemd takes it.
fn below_unit(path: &Path, unit: &str) -> String {
    let below = path.iter().skip_while(|part| *part != unit).skip(1);
    below.map(|part| format!("/{}", part.to_string_lossy())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_above_both() {
        let common = |a: &str, b: &str| common_ancestor(Path::new(a), Path::new(b));
        let session = "/sys/fs/cgroup/user.slice/user-5.slice/session-1.scope";
        let unit = "/sys/fs/cgroup/user.slice/user-5.slice/user@5.service/user.slice/kelson-a.scope";
        assert_eq!(
            common(session, unit),
            Path::new("/sys/fs/cgroup/user.slice/user-5.slice")
        );
        assert_eq!(common(unit, unit), Path::new(unit));
        assert_eq!(common("/sys/fs/cgroup/", unit), Path::new("/sys/fs/cgroup"));
    }

    #[test]
    fn below_a_unit() {
        let below = |path: &str| below_unit(Path::new(path), "k-a.scope");
        assert_eq!(below("/m/user.slice/k-a.scope"), "");
        assert_eq!(below("/m/user.slice/k-a.scope/init/x"), "/init/x");
    }
}
