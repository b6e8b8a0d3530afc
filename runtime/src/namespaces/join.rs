//! Entering existing namespaces.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};

use super::decide::{Join, Namespaces};
use crate::config::validate::ns_name;
use crate::error::{Doing, Error, IntoError, Result};

/// Opened namespace files: opening happens before any namespace changes, so that paths mean what the caller saw.
#[derive(Debug)]
pub struct Opened {
    list: Vec<(Join, File)>,
    pid: Option<File>,
}

/// Opens all that are to be joined.
///
/// # Errors
/// Names the path.
pub fn open(namespaces: &Namespaces) -> Result<Opened> {
    let mut list = Vec::with_capacity(namespaces.join.len());
    for join in &namespaces.join {
        let file = File::open(&join.path).doing(|| {
            format!(
                "linux.namespaces: open {} namespace {}",
                ns_name(join.typ),
                join.path.display()
            )
        })?;
        list.push((join.clone(), file));
    }
    let pid = match &namespaces.join_pid {
        Some(path) => Some(
            File::open(path).doing(|| format!("linux.namespaces: open pid namespace {}", path.display()))?,
        ),
        None => None,
    };
    Ok(Opened { list, pid })
}

impl Opened {
    /// Enters all but the pid namespace. Those that need the privileges of the user namespace are entered after
    /// it, the others before: which is which only the kernel knows.
    ///
    /// # Errors
    /// Names the path that the kernel refused.
    pub fn enter(&self) -> Result<()> {
        let user = u64::from(libc::CLONE_NEWUSER.cast_unsigned());
        let mut later = Vec::new();
        for (join, file) in self.list.iter().filter(|(j, _)| j.flag != user) {
            match setns(file, flags(join.flag)) {
                Ok(()) => {}
                Err(nix::errno::Errno::EPERM) => later.push((join, file)),
                Err(e) => return Err(named(join, e)),
            }
        }
        for (join, file) in self.list.iter().filter(|(j, _)| j.flag == user) {
            setns(file, flags(join.flag)).map_err(|e| named(join, e))?;
        }
        for (join, file) in later {
            setns(file, flags(join.flag)).map_err(|e| named(join, e))?;
        }
        Ok(())
    }

    /// The network namespace to join, if there is one.
    pub fn network(&self) -> Option<&File> {
        let network = u64::from(libc::CLONE_NEWNET.cast_unsigned());
        let (_, file) = self.list.iter().find(|(join, _)| join.flag == network)?;
        Some(file)
    }

    /// Makes children of this process start in the pid namespace to join, if there is one. Gives the way back.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn enter_pid(&self) -> Result<Option<File>> {
        let Some(target) = &self.pid else { return Ok(None) };
        let own = File::open("/proc/self/ns/pid").doing(|| "open the own pid namespace")?;
        setns(target, CloneFlags::CLONE_NEWPID).doing(|| "linux.namespaces: join the pid namespace")?;
        Ok(Some(own))
    }
}

/// Undoes [`Opened::enter_pid`].
///
/// # Errors
/// What the kernel refused.
pub fn leave_pid(own: &File) -> Result<()> {
    setns(own, CloneFlags::CLONE_NEWPID).doing(|| "return to the own pid namespace")
}

fn named(join: &Join, errno: nix::errno::Errno) -> Error {
    let doing = format!(
        "linux.namespaces: join {} namespace {}",
        ns_name(join.typ),
        join.path.display()
    );
    errno.into_error(doing.into())
}

fn flags(bits: u64) -> CloneFlags {
    CloneFlags::from_bits_retain(i32::from_ne_bytes(u32::try_from(bits).unwrap_or(0).to_ne_bytes()))
}

/// Enters the namespaces of `flags` that the process behind a pidfd has, in one call.
///
/// # Errors
/// What the kernel refused; `ESRCH` when the process has ended.
pub fn enter_of(pidfd: impl AsFd, wanted: u64) -> Result<()> {
    setns(pidfd.as_fd(), flags(wanted)).doing(|| "join the container's namespaces")
}

/// Makes a cgroup namespace rooted at this process's cgroup.
///
/// # Errors
/// What the kernel refused.
pub fn unshare_cgroup() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWCGROUP).doing(|| "make a cgroup namespace")
}

/// Whether two paths are the same namespace.
pub fn same(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (std::fs::metadata(a), std::fs::metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}
