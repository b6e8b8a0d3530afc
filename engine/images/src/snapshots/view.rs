//! A root file system that nobody else sees: a mount that is never attached, held by its descriptor. Paths are resolved
//! inside it (`RESOLVE_IN_ROOT`), so a link in an image cannot lead out.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::error::Doing;
use crate::{Error, Kind, Result};

/// What a view is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Look only; works beside a running container.
    ReadOnly,
    /// Write into a container's upper layer. The container must not run: two overlay mounts of one upper directory corrupt it.
    ReadWrite,
}

/// A detached view of an image's or container's root. It is gone when dropped.
#[derive(Debug)]
pub struct RootFs {
    root: OwnedFd,
}

/// `openat2` may say EAGAIN while anything on the machine is renamed or mounted (path_resolution of `..`); this often is a
/// storm or an attack.
const RESOLVE_RETRIES: usize = 128;

impl RootFs {
    pub(crate) fn new(root: OwnedFd) -> Self {
        Self { root }
    }

    /// The root directory; for `openat2` calls of the caller's own.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens a path inside. `None` when it, or a directory on the way, is not there. The mode counts for `CREATE` only.
    ///
    /// # Errors
    /// `Internal` with the kernel's word for anything else than "not there".
    pub fn open(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<Option<OwnedFd>> {
        match open_in_root(self.fd(), path, flags, mode) {
            Ok(fd) => Ok(Some(fd)),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
            Err(e) => Err(e).doing(|| format!("open {} in the container's root", path.display())),
        }
    }

    /// Reads a small regular file; `None` when it is not there.
    ///
    /// # Errors
    /// `Invalid` when it is no regular file or holds more than `limit` bytes, `Internal` when it cannot be read.
    pub fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        // Non-blocking: an image may have a fifo here.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let Some(fd) = self.open(path, flags, Mode::empty())? else {
            return Ok(None);
        };
        let name = || format!("read {} in the container's root", path.display());
        let file = File::from(fd);
        if !file.metadata().doing(name)?.is_file() {
            return Err(Error::invalid(format!("{}: not a regular file", name())));
        }
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes).doing(name)?;
        if bytes.len() as u64 > limit {
            return Err(Error::new(
                Kind::Invalid,
                format!("{}: larger than {limit} bytes", name()),
            ));
        }
        Ok(Some(bytes))
    }
}

/// Opens `path` with `root` as `/`, for links too.
pub(crate) fn open_in_root(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let mut retries = 0;
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, mode, resolve) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) if retries < RESOLVE_RETRIES => {
                retries += 1
            }
            other => return other,
        }
    }
}
