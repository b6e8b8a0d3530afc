//! Paths below the container's root, resolved by descriptor: whatever the image or a concurrent process makes
//! of its symlinks, the result lies inside (`openat2` with `RESOLVE_IN_ROOT`).

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, readlinkat};
use rustix::io::Errno;

/// The kernel gives up with EAGAIN when anything on the machine is renamed or mounted during a walk with `..`;
/// so many repeats in a row are an attack.
const ATTEMPTS: usize = 128;

/// As many symlinks as the kernel follows in a path.
const MAX_LINKS: usize = 40;

/// A container's root directory.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Root {
    /// Takes the root directory's descriptor.
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Opens what is at `path`, following symlinks inside the root.
    ///
    /// # Errors
    /// The errno of openat2.
    pub fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        open_below(self.as_fd(), path, flags, ResolveFlags::IN_ROOT)
    }

    /// A handle (`O_PATH`) on what is at `path`.
    ///
    /// # Errors
    /// The errno of openat2.
    pub fn handle(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.open(path, OFlags::PATH | OFlags::CLOEXEC)
    }

    /// A handle on what is at `path` where no part of the path may be a symlink.
    ///
    /// # Errors
    /// `ELOOP` for a symlink, else the errno of openat2.
    pub fn handle_plain(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        open_below(self.as_fd(), path, OFlags::PATH | OFlags::CLOEXEC, resolve)
    }

    /// A handle on the directory `path`, made with all its parents where they are missing. A symlink to what is not
    /// there is followed: its target is made.
    ///
    /// # Errors
    /// `ENOTDIR` when it or a parent is something else, `ELOOP` for too many symlinks.
    pub fn make_dirs(&self, path: &Path) -> Result<OwnedFd, Errno> {
        match self.directory(path) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        self.make(path, make_all)
    }

    /// A handle on the file at `path`, made empty where it is missing, with its parents; symlinks as in
    /// [`Root::make_dirs`].
    ///
    /// # Errors
    /// The errno of the call that did not work.
    pub fn make_file(&self, path: &Path) -> Result<OwnedFd, Errno> {
        match self.handle(path) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        self.make(path, |here, names| {
            let (name, parents) = names.split_last().ok_or(Errno::ISDIR)?;
            let made = match parents {
                [] => None,
                parents => Some(make_all(here, parents)?),
            };
            let dir = made.as_ref().unwrap_or(here);
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
            match openat(dir, name, flags, Mode::from_raw_mode(0o755)) {
                Ok(_) => {}
                Err(Errno::EXIST) if readlinkat(dir, name, Vec::new()).is_ok() => return Err(Errno::NOTDIR),
                Err(Errno::EXIST) => {}
                Err(e) => return Err(e),
            }
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(dir, name, flags, Mode::empty())
        })
    }

    /// Has `make` make what is missing of `path`, given the deepest directory that is there and the names below it. If it
    /// meets a symlink (`ENOTDIR`) that is one that leads to nothing yet: then the same with where it leads.
    fn make(
        &self,
        path: &Path,
        make: impl Fn(&OwnedFd, &[OsString]) -> Result<OwnedFd, Errno>,
    ) -> Result<OwnedFd, Errno> {
        let mut path = clean(path);
        for _ in 0..MAX_LINKS {
            let (here, above, names) = self.missing(&path)?;
            // What is not there cannot be left again.
            if names.iter().any(|n| n == "..") {
                return Err(Errno::NOENT);
            }
            match make(&here, &names) {
                Err(Errno::NOTDIR) => {}
                other => return other,
            }
            let (first, rest) = names.split_first().ok_or(Errno::NOTDIR)?;
            let link = match readlinkat(&here, first, Vec::new()) {
                Err(Errno::INVAL) => return Err(Errno::NOTDIR),
                other => other?,
            };
            // An absolute link starts over at the root: joining drops what is before it.
            let mut next = above.join(OsStr::from_bytes(link.as_bytes()));
            next.extend(rest);
            path = next.iter().filter(|n| *n != "/").collect();
        }
        Err(Errno::LOOP)
    }

    fn directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC)
    }

    /// The deepest directory above `path` that is there, its path, and the names below it.
    fn missing(&self, path: &Path) -> Result<(OwnedFd, PathBuf, Vec<OsString>), Errno> {
        let mut names = Vec::new();
        let mut above = path;
        while let (Some(parent), Some(name)) = (above.parent(), above.iter().next_back()) {
            names.push(name.to_owned());
            above = parent;
            match self.directory(above) {
                Err(Errno::NOENT) => {}
                other => {
                    names.reverse();
                    return Ok((other?, above.to_owned(), names));
                }
            }
        }
        Ok((self.directory(Path::new("."))?, PathBuf::new(), names))
    }

    /// The directory of `path` (made where missing), and the path's last name.
    ///
    /// # Errors
    /// `EINVAL` for a path without a name, else as [`Root::make_dirs`].
    pub fn parent(&self, path: &Path) -> Result<(OwnedFd, PathBuf), Errno> {
        let cleaned = clean(path);
        let name = cleaned.file_name().ok_or(Errno::INVAL)?;
        let dir = self.make_dirs(cleaned.parent().unwrap_or(Path::new("")))?;
        Ok((dir, PathBuf::from(name)))
    }
}

/// Makes directories one in another.
fn make_all(here: &OwnedFd, names: &[OsString]) -> Result<OwnedFd, Errno> {
    let mut made: Option<OwnedFd> = None;
    for name in names {
        let here = made.as_ref().unwrap_or(here);
        match mkdirat(here, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
        // A name that someone turned into a symlink meanwhile is refused, not followed.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        made = Some(openat(here, name, flags, Mode::empty())?);
    }
    made.ok_or(Errno::NOENT)
}

/// The path without `.` and `..`, relative. `..` never climbs above the top.
pub fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

fn open_below(
    dir: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let mut attempt = 0;
    loop {
        attempt += 1;
        // No magic links: /proc/self/fd/N would lead out.
        match openat2(
            dir,
            path,
            flags,
            Mode::empty(),
            resolve | ResolveFlags::NO_MAGICLINKS,
        ) {
            Err(Errno::AGAIN | Errno::INTR) if attempt < ATTEMPTS => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let fd = rustix::fs::open(dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        (dir, Root::new(fd))
    }

    #[test]
    fn symlinks_stay_inside() {
        let (dir, root) = root();
        symlink("/etc", dir.path().join("out")).unwrap();
        assert_eq!(root.handle(Path::new("/out/passwd")).unwrap_err(), Errno::NOENT);
        symlink("../../..", dir.path().join("up")).unwrap();
        root.make_dirs(Path::new("/up/made/here")).unwrap();
        assert!(dir.path().join("made/here").is_dir());
    }

    #[test]
    fn dots_are_resolved_before_names_are_made() {
        let (dir, root) = root();
        root.make_dirs(Path::new("/a/../b/./c")).unwrap();
        assert!(dir.path().join("b/c").is_dir());
        assert!(!dir.path().join("a").exists());
    }

    #[test]
    fn files_get_their_parents() {
        let (dir, root) = root();
        root.make_file(Path::new("/x/y")).unwrap();
        assert!(dir.path().join("x/y").is_file());
        fs::write(dir.path().join("x/y"), "kept").unwrap();
        root.make_file(Path::new("/x/y")).unwrap();
        assert_eq!(fs::read(dir.path().join("x/y")).unwrap(), b"kept");
    }

    #[test]
    fn links_to_nothing_are_made_inside() {
        let (dir, root) = root();
        let path = |p: &str| dir.path().join(p);
        fs::create_dir_all(path("etc/real")).unwrap();
        symlink("/jump/baz/hosts", path("etc/hosts")).unwrap();
        symlink("/tmp/foo/bar", path("jump")).unwrap();
        root.make_file(Path::new("/etc/hosts")).unwrap();
        assert!(path("tmp/foo/bar/baz/hosts").is_file());
        symlink("real", path("etc/alias")).unwrap();
        symlink("../../up", path("etc/real/relative")).unwrap();
        root.make_dirs(Path::new("/etc/alias/relative/x")).unwrap();
        assert!(path("up/x").is_dir());
        symlink("../../../../out", path("etc/out")).unwrap();
        root.make_dirs(Path::new("/etc/out")).unwrap();
        assert!(path("out").is_dir());
        symlink("b", path("a")).unwrap();
        symlink("a", path("b")).unwrap();
        assert_eq!(root.make_dirs(Path::new("/a")).unwrap_err(), Errno::LOOP);
        symlink("no/../etc", path("c")).unwrap();
        assert_eq!(root.make_dirs(Path::new("/c")).unwrap_err(), Errno::NOENT);
        assert_eq!(
            root.make_dirs(Path::new("/tmp/foo/bar/baz/hosts/x")).unwrap_err(),
            Errno::NOTDIR
        );
    }

    #[test]
    fn a_link_is_no_plain_path() {
        let (dir, root) = root();
        fs::create_dir(dir.path().join("real")).unwrap();
        symlink("real", dir.path().join("proc")).unwrap();
        assert_eq!(root.handle_plain(Path::new("/proc")).unwrap_err(), Errno::LOOP);
    }
}
