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

/// What a container's root has that its layers have not.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    /// Sorted by path.
    pub changes: Vec<Change>,
    /// Directories that the layers have too, and of whose content nothing shows: sorted.
    pub opaque: Vec<PathBuf>,
}

/// Where runtimes and engines put mounts: empty ones are theirs, not the container's doing.
const MOUNT_POINTS: [&str; 10] = [
    "/dev",
    "/dev/console",
    "/dev/pts",
    "/dev/shm",
    "/etc",
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

/// Compares an upper directory with a view of the layers below it. `None` when it tells of renamed directories by links to the
/// layers (a kernel with `redirect_dir=on`): only the whole tree tells the difference then.
///
/// # Errors
/// `Internal` when a directory cannot be read.
pub(crate) fn changes(upper: &Path, below: BorrowedFd<'_>) -> Result<Option<Difference>> {
    let root = rustix::fs::open(upper, DIR, Mode::empty()).doing(|| format!("open {}", upper.display()))?;
    let mut walk = Walk::default();
    walk.directory(&root, Some(below), Path::new("/"))?;
    if walk.redirected {
        return Ok(None);
    }
    walk.found.changes.sort();
    walk.found.opaque.sort();
    Ok(Some(walk.found))
}

/// One walk through an upper directory.
#[derive(Default)]
struct Walk {
    found: Difference,
    redirected: bool,
}

/// The entry of the layers below, reached by directories only: through a link it would be another path.
fn old(below: BorrowedFd<'_>, path: &Path) -> Option<Stat> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let fd = rustix::fs::openat2(below, path, flags, Mode::empty(), resolve).ok()?;
    rustix::fs::fstat(fd).ok()
}

impl Walk {
    /// `below` is none where nothing of the layers shows.
    fn directory(&mut self, dir: &OwnedFd, below: Option<BorrowedFd<'_>>, at: &Path) -> Result<()> {
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
                self.push(path, ChangeKind::Deleted);
                continue;
            }
            let old = below.and_then(|below| old(below, &path));
            let before = self.found.changes.len();
            let mut hides = false;
            if kind == FileType::Directory {
                let inner = match rustix::fs::openat(dir, name, DIR, Mode::empty()) {
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                    inner => inner.doing(doing)?,
                };
                self.redirected |= merge::is_redirected(inner.as_fd());
                let was_dir = old.is_some_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory);
                hides = was_dir && merge::is_opaque(inner.as_fd());
                if hides && let Some(below) = below {
                    self.hidden(inner.as_fd(), below, &path)?;
                }
                self.directory(&inner, below.filter(|_| !hides), &path)?;
            }
            let inside = hides || self.found.changes.len() > before;
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
            self.push(path, kind);
        }
        Ok(())
    }

    fn push(&mut self, path: PathBuf, kind: ChangeKind) {
        self.found.changes.push(Change { path, kind });
    }

    /// A directory was removed and made anew: what the old one had and the new one has not, is gone.
    fn hidden(&mut self, dir: BorrowedFd<'_>, below: BorrowedFd<'_>, at: &Path) -> Result<()> {
        let doing = || format!("list {} of the image", at.display());
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        let old = rustix::fs::openat2(below, at, DIR, Mode::empty(), resolve).doing(doing)?;
        let new = merge::names(dir).doing(doing)?;
        for name in merge::names(old.as_fd()).doing(doing)? {
            if !new.contains(&name) {
                let path = at.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
                self.push(path, ChangeKind::Deleted);
            }
        }
        self.found.opaque.push(at.to_owned());
        Ok(())
    }
}

/// Compares a whole tree with the layers it was made of.
///
/// # Errors
/// `Internal` when a directory cannot be read.
pub(super) fn whole(below: &Merged, tree: BorrowedFd<'_>) -> Result<Difference> {
    let mut changes = Vec::new();
    compare(below, tree, Path::new("/"), &mut changes)?;
    changes.sort();
    Ok(Difference {
        changes,
        opaque: Vec::new(),
    })
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
        for file in ["anew/sub/deep", "anew/both", "anew/old"] {
            fs::create_dir_all(lower.join(file).parent().unwrap()).unwrap();
            fs::write(lower.join(file), "x").unwrap();
        }
        fs::create_dir_all(upper.join("anew/sub")).unwrap();
        fs::write(upper.join("anew/both"), "y").unwrap();
        let opaque = rustix::fs::open(upper.join("anew"), DIR, Mode::empty()).unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::fsetxattr(&opaque, "trusted.overlay.opaque", b"y", flags).unwrap();
        let gone = upper.join("var/old");
        rustix::fs::mknodat(CWD, &gone, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        let below = rustix::fs::open(&lower, DIR, Mode::empty()).unwrap();
        let found = changes(&upper, below.as_fd()).unwrap().unwrap();
        assert_eq!(found.opaque, [Path::new("/anew")]);
        let lines: Vec<String> = found
            .changes
            .iter()
            .map(|c| format!("{:?} {}", c.kind, c.path.display()))
            .collect();
        let want = [
            "Modified /anew",
            "Added /anew/both",
            "Deleted /anew/old",
            "Added /anew/sub",
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
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::fsetxattr(&opaque, "trusted.overlay.redirect", b"elsewhere", flags).unwrap();
        assert!(changes(&upper, below.as_fd()).unwrap().is_none());
    }
}
