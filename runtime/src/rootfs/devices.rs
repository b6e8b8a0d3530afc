//! Device nodes and symlinks below /dev.

use std::os::fd::AsFd;
use std::path::Path;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, chownat, makedev, mknodat, openat, readlinkat, statat,
    symlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::Setup;
use super::mounts::attach;
use super::resolve::Root;
use crate::error::{Doing, Result};

/// The nodes that every container has (runtime-spec, config-linux.md, "Default Devices").
const DEFAULT: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

struct Node<'a> {
    typ: FileType,
    major: u32,
    minor: u32,
    mode: u32,
    uid: u32,
    gid: u32,
    /// Where the host has it, for containers that cannot make nodes.
    host: &'a Path,
}

pub(super) fn make_all(setup: &Setup<'_>, root: &Root) -> Result<()> {
    let dev = root
        .make_dirs(Path::new("/dev"))
        .doing(|| "open /dev in the container")?;
    for (name, major, minor) in DEFAULT {
        let host = Path::new("/dev").join(name);
        // An entry of linux.devices for the same path decides about mode and owner.
        if setup.config.linux.devices.iter().any(|d| d.path() == &host) {
            continue;
        }
        let node = Node {
            typ: FileType::CharacterDevice,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
            host: &host,
        };
        make(setup, &dev, Path::new(name), &node).doing(|| format!("make device {}", host.display()))?;
    }
    for (i, device) in setup.config.linux.devices.iter().enumerate() {
        listed(setup, root, device)
            .doing(|| format!("linux.devices[{i}]: make device {}", device.path().display()))?;
    }
    links(&dev)
}

fn listed(setup: &Setup<'_>, root: &Root, d: &LinuxDevice) -> Result<()> {
    let (dir, name) = root.parent(d.path()).doing(|| "open its directory")?;
    // The console of a container with a terminal is the terminal; see terminal.rs.
    if d.path() == Path::new("/dev/console") && setup.config.process.as_ref().is_some_and(|p| p.terminal) {
        return Ok(());
    }
    // ptmx is a symlink to the container's own devpts, never a node.
    if d.path() == Path::new("/dev/ptmx") {
        return Ok(());
    }
    let typ = match d.typ() {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::P => FileType::Fifo,
        _ => FileType::CharacterDevice,
    };
    let number = |n: i64| u32::try_from(n).unwrap_or(0);
    let node = Node {
        typ,
        major: number(d.major()),
        minor: number(d.minor()),
        mode: d.file_mode().unwrap_or(0o666),
        uid: d.uid().unwrap_or(0),
        gid: d.gid().unwrap_or(0),
        host: d.path(),
    };
    make(setup, &dir, &name, &node)
}

fn make(setup: &Setup<'_>, dir: impl AsFd, name: &Path, node: &Node<'_>) -> Result<()> {
    let dir = dir.as_fd();
    if setup.user_namespace && node.typ != FileType::Fifo {
        return bind(dir, name, node.host);
    }
    let mode = Mode::from_raw_mode(node.mode & 0o7777);
    match mknodat(dir, name, node.typ, mode, makedev(node.major, node.minor)) {
        Ok(()) => {}
        // Root of a user namespace that the runtime itself runs in.
        Err(Errno::PERM) => return bind(dir, name, node.host),
        // One that is there already must be the one that is meant.
        Err(Errno::EXIST) if is_same(dir, name, node) => return Ok(()),
        // Docker lists some devices that a bind mount of its has put there.
        Err(Errno::EXIST) if name != Path::new("null") => return Ok(()),
        Err(e) => return Err(e).doing(|| "make node"),
    }
    if (node.uid, node.gid) != (0, 0) {
        let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
        chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).doing(|| "change its owner")?;
    }
    Ok(())
}

fn is_same(dir: impl AsFd, name: &Path, node: &Node<'_>) -> bool {
    statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|s| {
        FileType::from_raw_mode(s.st_mode) == node.typ && s.st_rdev == makedev(node.major, node.minor)
    })
}

/// In a user namespace mknod is not allowed; the host's own node is shown instead.
fn bind(dir: impl AsFd, name: &Path, host: &Path) -> Result<()> {
    let dir = dir.as_fd();
    let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::EXCL;
    match openat(dir, name, flags, Mode::from_raw_mode(0o666)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e).doing(|| "make a file to bind it on"),
    }
    let target = openat(
        dir,
        name,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .doing(|| "open the file to bind it on")?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let node = open_tree(CWD, host, flags).doing(|| format!("open the host's {}", host.display()))?;
    attach(node.as_fd(), &target)
}

fn links(dev: impl AsFd) -> Result<()> {
    let dev = dev.as_fd();
    for (name, target) in LINKS {
        link(dev, name, target, false)?;
    }
    if Path::new("/proc/kcore").exists() {
        link(dev, "core", "/proc/kcore", false)?;
    }
    // Whatever the image has as /dev/ptmx: pseudo-terminals come from the container's own devpts.
    link(dev, "ptmx", "pts/ptmx", true)
}

fn link(dev: impl AsFd, name: &str, target: &str, replace: bool) -> Result<()> {
    let dev = dev.as_fd();
    let doing = || format!("link /dev/{name} to {target}");
    match symlinkat(target, dev, name) {
        Err(Errno::EXIST) => {}
        other => return other.doing(doing),
    }
    if !replace || readlinkat(dev, name, Vec::new()).is_ok_and(|t| t.as_bytes() == target.as_bytes()) {
        return Ok(());
    }
    unlinkat(dev, name, AtFlags::empty()).doing(doing)?;
    symlinkat(target, dev, name).doing(doing)
}
