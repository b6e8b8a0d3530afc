//! `docker diff`: what a container's upper directory has that its image has not.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::merge::{self, Merged};
use crate::Result;
use crate::error::Doing;

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// Its content, owner, mode or time; of a directory also what is in it.
    Modified,
    /// The image has not got it.
    Added,
    /// The image has it, the container has not.
    Deleted,
}

/// One line of `docker diff`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Absolute, in the container.
    pub path: PathBuf,
    /// What became of it.
    pub kind: ChangeKind,
}

/// Where runtimes and engines put mounts: empty ones are theirs, not the container's doing.
const MOUNT_POINTS: [&str; 9] = [
    "/dev",
    "/dev/console",
    "/dev/pts",
    "/dev/shm",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/proc",
    "/sys",
];

const DIR: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Compares an upper directory with a view of the layers below it. Sorted by path.
///
/// # Errors
/// `Internal` when a directory cannot be read.
pub(crate) fn changes(upper: &Path, below: BorrowedFd<'_>) -> Result<Vec<Change>> {
    let root = rustix::fs::open(upper, DIR, Mode::empty()).doing(|| format!("open {}", upper.display()))?;
    let mut found = Vec::new();
    walk(&root, below, Path::new("/"), &mut found)?;
    found.sort();
    Ok(found)
}

/// The entry of the layers below, reached by directories only: through a link it would be another path.
fn old(below: BorrowedFd<'_>, path: &Path) -> Option<Stat> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let fd = rustix::fs::openat2(below, path, flags, Mode::empty(), resolve).ok()?;
    rustix::fs::fstat(fd).ok()
}

fn walk(dir: &OwnedFd, below: BorrowedFd<'_>, at: &Path, found: &mut Vec<Change>) -> Result<()> {
    let doing = || format!("list {} of the container", at.display());
    for entry in Dir::read_from(dir).doing(doing)? {
        let entry = entry.doing(doing)?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let path = at.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
        let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            other => other.doing(doing)?,
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            found.push(Change {
                path,
                kind: ChangeKind::Deleted,
            });
            continue;
        }
        let before = found.len();
        if kind == FileType::Directory {
            match rustix::fs::openat(dir, name, DIR, Mode::empty()) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                inner => walk(&inner.doing(doing)?, below, &path, found)?,
            }
        }
        let inside = found.len() > before;
        let old = old(below, &path);
        let is_empty = kind == FileType::Directory || stat.st_size == 0;
        if old.is_none() && !inside && is_empty && MOUNT_POINTS.iter().any(|p| path == Path::new(p)) {
            continue;
        }
        let kind = match old {
            None => ChangeKind::Added,
            // Copied up on the way to something below it, and else as it was.
            Some(old) if !inside && kind == FileType::Directory && same_dir(&old, &stat) => continue,
            Some(_) => ChangeKind::Modified,
        };
        found.push(Change { path, kind });
    }
    Ok(())
}

/// Compares a whole tree with the layers it was made of. Sorted by path.
///
/// # Errors
/// `Internal` when a directory cannot be read.
pub(super) fn whole(below: &Merged, tree: BorrowedFd<'_>) -> Result<Vec<Change>> {
    let mut found = Vec::new();
    compare(below, tree, Path::new("/"), &mut found)?;
    found.sort();
    Ok(found)
}

fn compare(below: &Merged, tree: BorrowedFd<'_>, at: &Path, found: &mut Vec<Change>) -> Result<()> {
    let doing = || format!("list {} of the container", at.display());
    let mut old = below.members()?;
    let push = |found: &mut Vec<Change>, path: PathBuf, kind| found.push(Change { path, kind });
    for name in merge::names(tree).doing(doing)? {
        let path = at.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
        let stat = match rustix::fs::statat(tree, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            other => other.doing(doing)?,
        };
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let before = old.remove(&name);
        let inner = match is_dir {
            true => Some(rustix::fs::openat(tree, &name, DIR, Mode::empty()).doing(doing)?),
            false => None,
        };
        match (before, inner) {
            (Some(member), Some(inner)) if member.is_dir() => {
                let count = found.len();
                compare(&below.enter(&name, &member)?, inner.as_fd(), &path, found)?;
                if found.len() > count || !same_dir(&member.stat, &stat) {
                    push(found, path, ChangeKind::Modified);
                }
            }
            (Some(member), inner) => {
                if let Some(inner) = inner {
                    compare(&Merged::empty(), inner.as_fd(), &path, found)?;
                }
                if !same_file(&member.stat, &stat) {
                    push(found, path, ChangeKind::Modified);
                }
            }
            (None, inner) => {
                let count = found.len();
                if let Some(inner) = &inner {
                    compare(&Merged::empty(), inner.as_fd(), &path, found)?;
                }
                let is_empty = found.len() == count && (is_dir || stat.st_size == 0);
                if !(is_empty && MOUNT_POINTS.iter().any(|p| path == Path::new(p))) {
                    push(found, path, ChangeKind::Added);
                }
            }
        }
    }
    for name in old.into_keys() {
        let path = at.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
        push(found, path, ChangeKind::Deleted);
    }
    Ok(())
}

fn same_file(a: &Stat, b: &Stat) -> bool {
    let key = |s: &Stat| (s.st_size, s.st_rdev);
    key(a) == key(b) && same_dir(a, b)
}

fn same_dir(a: &Stat, b: &Stat) -> bool {
    let key = |s: &Stat| (s.st_mode, s.st_uid, s.st_gid, s.st_mtime, s.st_mtime_nsec);
    key(a) == key(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::CWD;
    use std::fs;
    use std::os::fd::AsFd;

    #[test]
    fn a_line_for_each_path() {
        let temp = tempfile::tempdir().unwrap();
        let (upper, lower) = (temp.path().join("upper"), temp.path().join("lower"));
        for dir in ["etc", "usr/lib", "var"] {
            fs::create_dir_all(lower.join(dir)).unwrap();
        }
        fs::write(lower.join("etc/passwd"), "root").unwrap();
        fs::write(lower.join("var/old"), "x").unwrap();
        std::os::unix::fs::symlink("/var", lower.join("link")).unwrap();
        for dir in ["etc", "var", "new", "proc", "dev/shm", "link"] {
            fs::create_dir_all(upper.join(dir)).unwrap();
        }
        fs::write(upper.join("etc/passwd"), "root2").unwrap();
        fs::write(upper.join("etc/hosts"), "").unwrap();
        fs::write(upper.join("new/file"), "x").unwrap();
        fs::write(upper.join("link/old"), "x").unwrap();
        let gone = upper.join("var/old");
        rustix::fs::mknodat(CWD, &gone, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        let below = rustix::fs::open(&lower, DIR, Mode::empty()).unwrap();
        let lines: Vec<String> = changes(&upper, below.as_fd())
            .unwrap()
            .iter()
            .map(|c| format!("{:?} {}", c.kind, c.path.display()))
            .collect();
        let want = [
            "Modified /etc",
            "Modified /etc/passwd",
            "Modified /link",
            "Added /link/old",
            "Added /new",
            "Added /new/file",
            "Modified /var",
            "Deleted /var/old",
        ];
        assert_eq!(lines, want);
    }
}
