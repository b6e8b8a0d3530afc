//! Copy-up: the image's content into a new, empty volume. Everything is opened below two directory descriptors; links are
//! copied, never followed.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use crate::error::{Doing, Result};

/// Directories deeper than this are not copied: no image has them, and each level holds two descriptors.
const MAX_DEPTH: usize = 256;

/// Longest extended attribute or list of names copied, bytes (the kernel's own limit).
const MAX_XATTR: usize = 64 << 10;

/// Copies `source`, with owner and mode of the directory itself, into the empty directory `target`.
/// One that is not empty is left alone.
pub(crate) fn copy_up(source: BorrowedFd<'_>, target: &Path) -> Result<()> {
    let doing = || format!("copy the image's content to {}", target.display());
    let to = rustix::fs::openat(CWD, target, dir_flags(), Mode::empty())
        .map_err(std::io::Error::from)
        .doing(doing)?;
    let copy = || -> rustix::io::Result<()> {
        if !is_empty(to.as_fd())? {
            return Ok(());
        }
        copy_dir(source, to.as_fd(), 0)?;
        let stat = rustix::fs::fstat(source)?;
        finish_dir(source, to.as_fd(), &stat)
    };
    copy().map_err(std::io::Error::from).doing(doing)
}

fn dir_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn is_empty(dir: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    for entry in Dir::read_from(dir)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

fn copy_dir(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> rustix::io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(Errno::LOOP);
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        copy_entry(from, to, name, &stat, depth)?;
    }
    Ok(())
}

fn copy_entry(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &CStr,
    stat: &Stat,
    depth: usize,
) -> rustix::io::Result<()> {
    let mode = Mode::from_raw_mode(stat.st_mode);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            rustix::fs::mkdirat(to, name, Mode::RWXU)?;
            let source = rustix::fs::openat(from, name, dir_flags(), Mode::empty())?;
            let target = rustix::fs::openat(to, name, dir_flags(), Mode::empty())?;
            copy_dir(source.as_fd(), target.as_fd(), depth + 1)?;
            finish_dir(source.as_fd(), target.as_fd(), stat)
        }
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let target = rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
            copy_bytes(source.try_clone(), target.try_clone())?;
            finish_dir(source.as_fd(), target.as_fd(), stat)
        }
        FileType::Symlink => {
            let link = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(&link, to, name)?;
            own(to, name, stat)
        }
        // Sockets have no meaning without their process; devices and fifos are made anew.
        FileType::Socket => Ok(()),
        kind => {
            rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev)?;
            finish_node(to, name, kind, stat)
        }
    }
}

fn copy_bytes(source: std::io::Result<OwnedFd>, target: std::io::Result<OwnedFd>) -> rustix::io::Result<()> {
    // std uses copy_file_range or sendfile between files.
    let copied = source.and_then(|s| std::io::copy(&mut File::from(s), &mut File::from(target?)));
    match copied {
        Ok(_) => Ok(()),
        Err(e) => Err(Errno::from_io_error(&e).unwrap_or(Errno::IO)),
    }
}

/// Owner and mode of a node just made, by descriptor: a container that shares the volume may have put a link in its place.
fn finish_node(to: BorrowedFd<'_>, name: &CStr, kind: FileType, stat: &Stat) -> rustix::io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = rustix::fs::openat(to, name, flags, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&node)?.st_mode) != kind {
        return Err(Errno::LOOP);
    }
    let owner = (
        rustix::fs::Uid::from_raw(stat.st_uid),
        rustix::fs::Gid::from_raw(stat.st_gid),
    );
    rustix::fs::chownat(&node, c"", Some(owner.0), Some(owner.1), AtFlags::EMPTY_PATH)?;
    // fchmod refuses O_PATH; the link names this inode and no other.
    let link = format!("/proc/self/fd/{}", node.as_raw_fd());
    rustix::fs::chmodat(CWD, link, Mode::from_raw_mode(stat.st_mode), AtFlags::empty())
}

fn own(dir: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> rustix::io::Result<()> {
    let (uid, gid) = (
        rustix::fs::Uid::from_raw(stat.st_uid),
        rustix::fs::Gid::from_raw(stat.st_gid),
    );
    rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

/// Owner first: chown clears set-id bits and capabilities, which mode and attributes then bring back.
fn finish_dir(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> rustix::io::Result<()> {
    let (uid, gid) = (
        rustix::fs::Uid::from_raw(stat.st_uid),
        rustix::fs::Gid::from_raw(stat.st_gid),
    );
    rustix::fs::fchown(to, Some(uid), Some(gid))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    copy_xattrs(from, to)?;
    let time = |sec, nsec| Timespec {
        tv_sec: sec,
        tv_nsec: i64::try_from(nsec).unwrap_or(0),
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    rustix::fs::futimens(to, &times)
}

fn copy_xattrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let mut names = vec![0u8; MAX_XATTR];
    let length = match rustix::fs::flistxattr(from, &mut names[..]) {
        Ok(n) => n,
        Err(Errno::NOTSUP) => return Ok(()),
        Err(e) => return Err(e),
    };
    let mut value = vec![0u8; if length == 0 { 0 } else { MAX_XATTR }];
    for name in names[..length].split_inclusive(|b| *b == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        // overlay's own marks are not the file's.
        if name.to_bytes().starts_with(b"trusted.overlay.") {
            continue;
        }
        let n = rustix::fs::fgetxattr(from, name, &mut value[..])?;
        match rustix::fs::fsetxattr(to, name, &value[..n], XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Bytes on disk below a directory, as `du` counts them; what cannot be read counts nothing.
pub(crate) fn size(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut total = 0;
    let mut stack = vec![path.to_owned()];
    while let Some(dir) = stack.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                stack.push(entry.path());
            } else {
                total += meta.blocks() * 512;
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn a_link_in_place_of_a_new_node_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::write(&outside, "").unwrap();
        std::fs::set_permissions(&outside, std::fs::Permissions::from_mode(0o600)).unwrap();
        let volume = dir.path().join("volume");
        std::fs::create_dir(&volume).unwrap();
        symlink(&outside, volume.join("node")).unwrap();
        let to = rustix::fs::openat(CWD, &volume, dir_flags(), Mode::empty()).unwrap();
        let mut stat = rustix::fs::stat(&outside).unwrap();
        stat.st_mode = 0o4777;
        let result = finish_node(to.as_fd(), c"node", FileType::Fifo, &stat);
        assert_eq!(result.unwrap_err(), Errno::LOOP);
        assert_eq!(std::fs::metadata(&outside).unwrap().mode() & 0o7777, 0o600);
    }

    #[test]
    fn content_owners_modes_and_links_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::create_dir_all(from.join("sub")).unwrap();
        std::fs::create_dir(&to).unwrap();
        std::fs::write(from.join("sub/file"), "text").unwrap();
        std::fs::set_permissions(from.join("sub/file"), std::fs::Permissions::from_mode(0o4750)).unwrap();
        std::fs::set_permissions(&from, std::fs::Permissions::from_mode(0o1777)).unwrap();
        symlink("/etc/passwd", from.join("link")).unwrap();
        std::os::unix::fs::chown(from.join("sub"), Some(33), Some(34)).unwrap();
        let fd = File::open(&from).unwrap();
        copy_up(fd.as_fd(), &to).unwrap();
        assert_eq!(std::fs::read(to.join("sub/file")).unwrap(), b"text");
        assert_eq!(
            std::fs::metadata(to.join("sub/file")).unwrap().mode() & 0o7777,
            0o4750
        );
        assert_eq!(std::fs::metadata(&to).unwrap().mode() & 0o7777, 0o1777);
        assert_eq!(
            std::fs::read_link(to.join("link")).unwrap(),
            Path::new("/etc/passwd")
        );
        let sub = std::fs::metadata(to.join("sub")).unwrap();
        assert_eq!((sub.uid(), sub.gid()), (33, 34));
        // A volume with data is never overwritten.
        std::fs::write(to.join("sub/file"), "mine").unwrap();
        copy_up(fd.as_fd(), &to).unwrap();
        assert_eq!(std::fs::read(to.join("sub/file")).unwrap(), b"mine");
        assert!(size(&to) > 0);
    }
}
