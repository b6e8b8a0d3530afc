//! procfs for writing: nothing that is mounted over it, or over a part of it, can send a write elsewhere
//! (CVE-2019-16884, CVE-2025-52881).
//!
//! The host's /proc is taken where it is what it seems, at the cost of one fstatfs; a procfs of our own, which no mount
//! table shows, where it is not: a mount namespace that is joined may hold whatever its owner wanted.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, fstat, fstatfs, openat, openat2};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use crate::error::{Doing, Result};

/// `PROC_ROOT_INO`: only the root of a procfs has this inode number.
const ROOT_INODE: u64 = 1;

/// Opens a file of procfs.
///
/// # Errors
/// The errno of openat2, or of making a procfs where the one at /proc cannot be trusted.
pub fn open(path: &Path, flags: OFlags) -> Result<File> {
    let doing = || format!("open /proc/{}", path.display());
    if let Some(proc) = at_proc() {
        match below(&proc, path, flags) {
            // Something is mounted on the way.
            Err(Errno::XDEV | Errno::LOOP) => {}
            other => return other.map(File::from).doing(doing),
        }
    }
    let own = fresh().doing(|| "make a procfs, as /proc is covered by something else")?;
    below(&own, path, flags).map(File::from).doing(doing)
}

/// /proc, if it is the root of a procfs.
fn at_proc() -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(CWD, "/proc", flags, Mode::empty()).ok()?;
    let is_proc = fstatfs(&fd).is_ok_and(|s| s.f_type == PROC_SUPER_MAGIC);
    (is_proc && fstat(&fd).is_ok_and(|s| s.st_ino == ROOT_INODE)).then_some(fd)
}

/// A procfs of the own pid namespace, mounted nowhere.
fn fresh() -> std::result::Result<OwnedFd, Errno> {
    let fs = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(fs.as_fd())?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

fn below(proc: &OwnedFd, path: &Path, flags: OFlags) -> std::result::Result<OwnedFd, Errno> {
    // thread-self is an ordinary symlink; the magic ones lead out.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    openat2(
        proc,
        path,
        flags | OFlags::CLOEXEC | OFlags::NOCTTY,
        Mode::empty(),
        resolve,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn files_of_procfs_and_nothing_else() {
        let mut text = String::new();
        open(Path::new("thread-self/comm"), OFlags::RDONLY)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert!(!text.is_empty());
        assert!(open(Path::new("self/root/etc/passwd"), OFlags::RDONLY).is_err());
        assert!(open(Path::new("../etc/passwd"), OFlags::RDONLY).is_err());
        let error = open(Path::new("sys/no/such"), OFlags::WRONLY).unwrap_err();
        assert_eq!(error.errno(), Some(2), "{error:?}");
    }
}
