//! `tmpcopyup`: a tmpfs that begins with a copy of what it hides.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid, chownat, fchmod, mkdirat, mknodat, openat, readlinkat,
    statat, symlinkat,
};
use rustix::io::Errno;

use crate::error::{Doing, Error, Kind, Result};

/// Deeper trees are refused: this is meant for a package's skeleton in /etc or /var.
const MAX_DEPTH: usize = 64;

/// Opens the directory before the tmpfs hides it.
pub(super) fn open(target: &OwnedFd) -> Result<OwnedFd> {
    openat(
        target,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .doing(|| "tmpcopyup: open the directory")
}

/// Copies `from` into the mounted tmpfs.
pub(super) fn copy(from: &OwnedFd, tmpfs: &OwnedFd) -> Result<()> {
    let to = openat(
        tmpfs,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .doing(|| "tmpcopyup: open the tmpfs")?;
    tree(from, to.as_fd(), MAX_DEPTH)
}

fn tree(from: &OwnedFd, to: std::os::fd::BorrowedFd<'_>, depth: usize) -> Result<()> {
    if depth == 0 {
        return Err(Error::new(Kind::Invalid, "tmpcopyup: the tree is too deep"));
    }
    let entries = Dir::read_from(from).doing(|| "tmpcopyup: list")?;
    for entry in entries {
        let entry = entry.doing(|| "tmpcopyup: list")?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let doing = || format!("tmpcopyup: copy {}", name.to_string_lossy());
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW).doing(doing)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        let nofollow = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | nofollow;
                let below = openat(from, name, flags, Mode::empty()).doing(doing)?;
                mkdirat(to, name, mode).doing(doing)?;
                let made = openat(to, name, flags, Mode::empty()).doing(doing)?;
                tree(&below, made.as_fd(), depth - 1)?;
                fchmod(&made, mode).doing(doing)?;
            }
            FileType::RegularFile => {
                let source = openat(from, name, OFlags::RDONLY | nofollow, Mode::empty()).doing(doing)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | nofollow;
                let made = openat(to, name, flags, mode).doing(doing)?;
                io::copy(&mut std::fs::File::from(source), &mut std::fs::File::from(made)).doing(doing)?;
            }
            FileType::Symlink => {
                let link = readlinkat(from, name, Vec::new()).doing(doing)?;
                symlinkat(link, to, name).doing(doing)?;
            }
            typ @ (FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice) => {
                match mknodat(to, name, typ, mode, stat.st_rdev) {
                    // A user namespace makes no nodes.
                    Err(Errno::PERM) => continue,
                    other => other.doing(doing)?,
                }
            }
            // A socket is nothing without the process that listens.
            _ => continue,
        }
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).doing(doing)?;
    }
    Ok(())
}
