//! `linux.maskedPaths` and `linux.readonlyPaths`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use kelson_sys::mount as attr;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, makedev, openat, statat};
use rustix::io::Errno;

use super::label::Label;
use super::mounts::{attach, clone_mount, new_filesystem};
use super::options;
use super::resolve::Root;
use crate::error::{Doing, Error, Kind, Result};
use crate::fault;

/// Binds each path onto itself, read-only. Missing paths are skipped.
pub(super) fn readonly_paths(root: &Root, paths: &[String]) -> Result<()> {
    for (i, path) in paths.iter().enumerate() {
        if fault::is_planted("readonly-path") && i == 0 {
            continue;
        }
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
pub(super) fn masked_paths(root: &Root, label: Option<Label<'_>>, paths: &[String]) -> Result<()> {
    let mut null = None;
    let mut empty = None;
    for (i, path) in paths.iter().enumerate() {
        let skipped = fault::is_planted("masked-path") && i == 0;
        if paths[..i].contains(path) || skipped {
            continue;
        }
        hide(root, label, Path::new(path), &mut null, &mut empty)
            .doing(|| format!("linux.maskedPaths[{i}]: {path}"))?;
    }
    Ok(())
}

fn hide(
    root: &Root,
    label: Option<Label<'_>>,
    path: &Path,
    null: &mut Option<OwnedFd>,
    empty: &mut Option<OwnedFd>,
) -> Result<()> {
    let target = match root.handle(path) {
        // A part of the path may be a file on this kernel.
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        other => other.doing(|| "open")?,
    };
    let stat = statat(&target, "", AtFlags::EMPTY_PATH).doing(|| "stat")?;
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let cover = if directory { empty } else { null };
    // All masked directories share one tmpfs, and all files one mount. One can only be cloned once it is attached.
    if let Some(first) = cover {
        let copy = clone_mount(&*first, false).doing(|| "clone the cover")?;
        return attach(copy.as_fd(), &target);
    }
    let made = if directory {
        empty_directory(label)?
    } else {
        null_device()?
    };
    attach(made.as_fd(), &target)?;
    *cover = Some(made);
    Ok(())
}

/// A read-only tmpfs without room for anything, detached.
pub(super) fn empty_directory(label: Option<Label<'_>>) -> Result<OwnedFd> {
    let with = |inodes: &str| {
        let options = options::parse(&["ro", "nr_blocks=1", inodes]);
        new_filesystem(label, "tmpfs", "tmpfs", &options)
    };
    // Ubuntu's 5.4 kernels insist on two.
    with("nr_inodes=1").or_else(|_| with("nr_inodes=2"))
}

/// The null device, detached. It can be written to on a read-only mount, and root of the container cannot change mode and
/// owner of what is the host's.
fn null_device() -> Result<OwnedFd> {
    let copy = clone_mount(host_null()?, false).doing(|| "clone /dev/null")?;
    let readonly = attr::MountAttr {
        set: attr::RDONLY,
        ..Default::default()
    };
    attr::set_attr(&copy, false, readonly).doing(|| "make /dev/null read-only")?;
    Ok(copy)
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
