//! `linux.maskedPaths` and `linux.readonlyPaths`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use kelson_sys::mount as attr;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, makedev, openat, statat};
use rustix::io::Errno;

use super::mounts::{attach, clone_mount, new_filesystem};
use super::options::{Attributes, Options};
use super::resolve::Root;
use crate::error::{Doing, Error, Kind, Result};

/// Binds each path onto itself, read-only. Missing paths are skipped.
pub(super) fn readonly_paths(root: &Root, paths: &[String]) -> Result<()> {
    for (i, path) in paths.iter().enumerate() {
        protect(root, Path::new(path)).doing(|| format!("linux.readonlyPaths[{i}]: {path}"))?;
    }
    Ok(())
}

fn protect(root: &Root, path: &Path) -> Result<()> {
    let target = match root.handle(path) {
        Err(Errno::NOENT) => return Ok(()),
        other => other.doing(|| "open")?,
    };
    let copy = clone_mount(&target, true).doing(|| "clone the mount")?;
    let readonly = attr::MountAttr {
        set: attr::RDONLY,
        ..Default::default()
    };
    attr::set_attr(&copy, false, readonly).doing(|| "make it read-only")?;
    attach(copy.as_fd(), &target)
}

/// Hides each directory behind an empty read-only tmpfs, and each file behind /dev/null. Missing paths are
/// skipped.
pub(super) fn masked_paths(root: &Root, paths: &[String]) -> Result<()> {
    let mut null = None;
    let mut empty = None;
    for (i, path) in paths.iter().enumerate() {
        hide(root, Path::new(path), &mut null, &mut empty)
            .doing(|| format!("linux.maskedPaths[{i}]: {path}"))?;
    }
    Ok(())
}

fn hide(root: &Root, path: &Path, null: &mut Option<OwnedFd>, empty: &mut Option<OwnedFd>) -> Result<()> {
    let target = match root.handle(path) {
        // A part of the path may be a file on this kernel.
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        other => other.doing(|| "open")?,
    };
    let stat = statat(&target, "", AtFlags::EMPTY_PATH).doing(|| "stat")?;
    let cover = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        match empty {
            // All masked directories share one tmpfs. A mount can only be cloned once it is attached.
            Some(first) => clone_mount(&*first, false).doing(|| "clone the empty tmpfs")?,
            None => {
                let attributes = Attributes {
                    set: attr::RDONLY,
                    clear: 0,
                };
                let data = vec!["size=0".to_owned(), "nr_inodes=1".to_owned()];
                let made = new_filesystem(
                    "tmpfs",
                    "tmpfs",
                    &Options {
                        attributes,
                        data,
                        ..Options::default()
                    },
                )?;
                attach(made.as_fd(), &target)?;
                *empty = Some(made);
                return Ok(());
            }
        }
    } else {
        let source = match null {
            Some(fd) => fd,
            None => null.insert(host_null()?),
        };
        clone_mount(&*source, false).doing(|| "clone /dev/null")?
    };
    attach(cover.as_fd(), &target)
}

/// The host's /dev/null, checked: an image's own could be a symlink to a file worth writing (CVE-2025-31133).
fn host_null() -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(CWD, "/dev/null", flags, Mode::empty()).doing(|| "open the host's /dev/null")?;
    let stat = statat(&fd, "", AtFlags::EMPTY_PATH).doing(|| "stat the host's /dev/null")?;
    let is_char = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if !is_char || stat.st_rdev != makedev(1, 3) {
        return Err(Error::new(
            Kind::Internal,
            "the host's /dev/null is not the null device",
        ));
    }
    Ok(fd)
}
