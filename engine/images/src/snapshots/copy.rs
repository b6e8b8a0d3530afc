//! `docker cp`: looking at one path of a root, reading it as a tar, and extracting a tar into it.

use std::io::{BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags};

use super::view::{RootFs, open_in_root};
use crate::archive::tree::{TreeWriter, c_name};
use crate::error::Doing;
use crate::unpack::extract::{Into, extract_into};
use crate::unpack::inflate::Inflate;
use crate::{Error, Kind, Result};

/// What lies at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    /// The last part of the path as it was asked for.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// `st_mode` of stat(2).
    pub mode: u32,
    /// Seconds since the epoch, and nanoseconds.
    pub mtime: (i64, u32),
    /// Where a link leads, as an absolute path of the container.
    pub link_target: Option<PathBuf>,
}

/// How to extract.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExtractOptions {
    /// A directory is never replaced by something else, nor the other way round.
    pub keep_kinds: bool,
    /// Everything belongs to this user and group; as the archive says without.
    pub owner: Option<(u32, u32)>,
}

/// A path found in a root: the entry itself, so that its name can be looked at without following a link.
struct Found {
    parent: OwnedFd,
    base: PathBuf,
    /// What the archive calls it.
    name: Vec<u8>,
}

/// `/a//b/../c/` without detours, and whether a link at its end is followed: a slash or dot at the end asks for that.
fn clean(path: &Path) -> (Vec<&[u8]>, bool) {
    let bytes = path.as_os_str().as_bytes();
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in bytes.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let follow = parts.is_empty() || bytes.ends_with(b"/") || bytes.ends_with(b"/.");
    (parts, follow)
}

const PATH_DIR: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl RootFs {
    /// A root that somebody else mounted: that of a running container.
    #[must_use]
    pub fn of(root: OwnedFd) -> Self {
        Self::new(root)
    }

    /// Makes a directory, and those it lies in, as a runtime makes the places of mounts.
    ///
    /// # Errors
    /// When something else is in the way, or the root is read-only.
    pub fn make_dirs(&self, at: &Path) -> Result<()> {
        let (parts, _) = clean(at);
        let inside = |parts: &[&[u8]]| PathBuf::from(std::ffi::OsString::from_vec(parts.join(&b'/')));
        for end in 1..=parts.len() {
            let doing = || format!("make {}", at.display());
            let parent =
                open_in_root(self.fd(), &inside(&parts[..end - 1]), PATH_DIR, Mode::empty()).doing(doing)?;
            let name = inside(&parts[end - 1..end]);
            match rustix::fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e).doing(doing),
            }
        }
        Ok(())
    }

    /// Puts what lies at a path of the host (a volume) on a directory of a detached root.
    ///
    /// # Errors
    /// `NotFound` when the directory is not there; `Unsupported` where the kernel mounts nothing on a detached root.
    pub fn attach(&self, at: &Path, source: &Path) -> Result<()> {
        let (parts, _) = clean(at);
        let inside = PathBuf::from(std::ffi::OsString::from_vec(parts.join(&b'/')));
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let target = match open_in_root(self.fd(), &inside, flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                return Err(Error::not_found(format!("{} is not there", at.display())));
            }
            other => other.doing(|| format!("open {}", at.display()))?,
        };
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        let tree =
            rustix::mount::open_tree(CWD, source, flags).doing(|| format!("open {}", source.display()))?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(tree.as_fd(), "", target.as_fd(), "", flags).map_err(|e| {
            let what = format!("show {} at {}", source.display(), at.display());
            Error::new(Kind::Unsupported, what).caused_by(std::io::Error::from(e))
        })
    }

    fn find(&self, path: &Path) -> Result<Found> {
        let (parts, follow) = clean(path);
        let gone = || Error::not_found(format!("{} is not there", path.display()));
        let open = |parts: &[&[u8]]| {
            let dir = PathBuf::from(std::ffi::OsString::from_vec(parts.join(&b'/')));
            match open_in_root(self.fd(), &dir, PATH_DIR, Mode::empty()) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Err(gone()),
                other => other.doing(|| format!("open {}", path.display())),
            }
        };
        let last = parts.last().copied().unwrap_or(b"/");
        if follow {
            let dotted = path.as_os_str().as_bytes().ends_with(b"/.");
            return Ok(Found {
                parent: open(&parts)?,
                base: PathBuf::from("."),
                name: if dotted { b".".to_vec() } else { last.to_vec() },
            });
        }
        let parent = open(&parts[..parts.len() - 1])?;
        let base = PathBuf::from(std::ffi::OsString::from_vec(last.to_vec()));
        match rustix::fs::statat(&parent, &base, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Err(gone()),
            Err(e) => Err(e).doing(|| format!("look at {}", path.display())),
            Ok(_) => Ok(Found {
                parent,
                name: last.to_vec(),
                base,
            }),
        }
    }

    /// Looks at a path without following a link at its end.
    ///
    /// # Errors
    /// `NotFound` when it is not there.
    pub fn stat(&self, path: &Path) -> Result<PathStat> {
        let found = self.find(path)?;
        let stat = rustix::fs::statat(&found.parent, &found.base, AtFlags::SYMLINK_NOFOLLOW)
            .doing(|| format!("look at {}", path.display()))?;
        let link_target = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => Some(self.link_target(&found, path)?),
            _ => None,
        };
        Ok(PathStat {
            name: String::from_utf8_lossy(&found.name).into_owned(),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mode: stat.st_mode,
            mtime: (
                stat.st_mtime,
                u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
            ),
            link_target,
        })
    }

    /// Where a link says it leads, joined with its directory; whether anything is there is not looked at.
    fn link_target(&self, found: &Found, path: &Path) -> Result<PathBuf> {
        let target = rustix::fs::readlinkat(&found.parent, &found.base, Vec::new())
            .doing(|| format!("read the link {}", path.display()))?;
        let target = Path::new(std::ffi::OsStr::from_bytes(target.to_bytes()));
        let (mut parts, _) = clean(path);
        parts.pop();
        let dir = Path::new("/").join(std::ffi::OsString::from_vec(parts.join(&b'/')));
        let joined = dir.join(target);
        let (parts, _) = clean(&joined);
        Ok(Path::new("/").join(std::ffi::OsString::from_vec(parts.join(&b'/'))))
    }

    /// Writes a tar of what lies at a path: one entry for a file, one and everything below for a directory, named by the
    /// path's last part. Blocking.
    ///
    /// # Errors
    /// `NotFound` when it is not there; `Internal` when it cannot be read, or `out` refuses.
    pub fn archive(&self, path: &Path, out: impl Write) -> Result<()> {
        let found = self.find(path)?;
        let mut tar = TreeWriter::new(out);
        tar.add(found.parent.as_fd(), &c_name(&found.base)?, &found.name)?;
        tar.finish()
    }

    /// Writes a tar of everything, as `docker export` does. Blocking.
    ///
    /// # Errors
    /// As [`RootFs::archive`].
    pub fn export(&self, out: impl Write) -> Result<()> {
        let root = open_in_root(
            self.fd(),
            Path::new("."),
            OFlags::RDONLY | OFlags::DIRECTORY,
            Mode::empty(),
        );
        let mut tar = TreeWriter::new(out);
        tar.add_children(root.doing(|| "open the root")?.as_fd(), b"")?;
        tar.finish()
    }

    /// Extracts a tar, plain or packed, into a directory; links on the way are followed inside the root. Blocking.
    ///
    /// # Errors
    /// `NotFound` when the directory is not there; `Invalid` when it is none, for a malformed tar, and for what
    /// [`ExtractOptions::keep_kinds`] forbids.
    pub fn extract(&self, dir: &Path, input: impl Read, options: ExtractOptions) -> Result<()> {
        let (parts, _) = clean(dir);
        let prefix = parts.join(&b'/');
        let inside = PathBuf::from(std::ffi::OsString::from_vec(prefix.clone()));
        match open_in_root(self.fd(), &inside, PATH_DIR, Mode::empty()) {
            Err(Errno::NOENT | Errno::LOOP) => {
                return Err(Error::not_found(format!("{} is not there", dir.display())));
            }
            Err(Errno::NOTDIR) => return Err(Error::invalid("extraction point is not a directory")),
            other => other.doing(|| format!("open {}", dir.display()))?,
        };
        let root = self.fd().try_clone_to_owned().doing(|| "open the root")?;
        let into = Into {
            prefix,
            keep_kinds: options.keep_kinds,
            owner: options.owner,
        };
        let (plain, _) = Inflate::new(BufReader::new(input))?;
        extract_into(BufReader::new(plain), root, into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_without_detours() {
        let table: [(&str, &str, bool); 8] = [
            ("/a/b", "a/b", false),
            ("a//b/../c", "a/c", false),
            ("/a/", "a", true),
            ("/a/.", "a", true),
            ("/", "", true),
            ("", "", true),
            ("../../etc", "etc", false),
            ("/a/..", "", true),
        ];
        for (path, want, follows) in table {
            let (parts, follow) = clean(Path::new(path));
            assert_eq!(
                (parts.join(&b'/'), follow),
                (want.as_bytes().to_vec(), follows),
                "{path}"
            );
        }
    }
}
