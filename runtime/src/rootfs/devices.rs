//! Device nodes and symlinks below /dev.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, fstat, makedev, mknodat, openat,
    readlinkat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::mounts::attach;
use super::resolve::Root;
use super::{Mounted, Setup};
use crate::error::{Doing, Error, Kind, Result};

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

pub(super) fn make_all(setup: &Setup<'_>, mounted: &Mounted) -> Result<()> {
    let root = &mounted.root;
    let opened = match mounted.dev {
        Some(_) => None,
        None => Some(
            root.make_dirs(Path::new("/dev"))
                .doing(|| "open /dev in the container")?,
        ),
    };
    let Some(dev) = opened.as_ref().or(mounted.dev.as_ref()) else {
        return Ok(());
    };
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
        make(setup, dev, Path::new(name), &node).doing(|| format!("make device {}", host.display()))?;
    }
    for (i, device) in setup.config.linux.devices.iter().enumerate() {
        listed(setup, root, device)
            .doing(|| format!("linux.devices[{i}]: make device {}", device.path().display()))?;
    }
    links(dev)
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
        return bind(dir, name, node);
    }
    let mode = Mode::from_raw_mode(node.mode & 0o7777);
    match mknodat(dir, name, node.typ, mode, makedev(node.major, node.minor)) {
        Ok(()) => {}
        // One that is there already must be the one that is meant (config-linux.md, "Devices").
        Err(Errno::EXIST) => {
            let there = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).doing(|| "look at what is there")?;
            return node.check(&there, "what is there already");
        }
        // The runtime is in a user namespace itself.
        Err(Errno::PERM) if node.typ != FileType::Fifo => return bind(dir, name, node),
        Err(e) => return Err(e).doing(|| "make node"),
    }
    if (node.uid, node.gid) == (0, 0) {
        return Ok(());
    }
    // By descriptor: the name may be something else by now, where others can write to the directory.
    let made = handle(dir, name).doing(|| "open node")?;
    node.check(&fstat(&made).doing(|| "stat node")?, "the new node")?;
    let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
    chownat(&made, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).doing(|| "change its owner")
}

impl Node<'_> {
    fn check(&self, stat: &Stat, what: &str) -> Result<()> {
        let typ = FileType::from_raw_mode(stat.st_mode);
        // A pipe has no number.
        let number = typ == FileType::Fifo || stat.st_rdev == makedev(self.major, self.minor);
        if typ == self.typ && number {
            return Ok(());
        }
        let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let wanted = format!("{:?} {}:{}", self.typ, self.major, self.minor);
        let text = format!("{what} is {typ:?} {major}:{minor}, and not {wanted}");
        Err(Error::new(Kind::Invalid, text))
    }
}

fn handle(dir: BorrowedFd<'_>, name: &Path) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}

/// In a user namespace mknod is not allowed; the host's own node is shown instead.
fn bind(dir: BorrowedFd<'_>, name: &Path, node: &Node<'_>) -> Result<()> {
    let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::EXCL;
    match openat(dir, name, flags, Mode::from_raw_mode(0o666)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e).doing(|| "make a file to bind it on"),
    }
    let target = handle(dir, name).doing(|| "open the file to bind it on")?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let host = node.host.display();
    let tree = open_tree(CWD, node.host, flags).doing(|| format!("open the host's {host}"))?;
    node.check(&fstat(&tree).doing(|| "stat the host's node")?, "the host's node")?;
    attach(tree.as_fd(), &target)
}

/// Standard streams that are the host's null device become the container's: root of the container could change mode and
/// owner of what it holds open.
pub(super) fn reopen_null() -> Result<()> {
    let is_null = |stat: &Stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == makedev(1, 3)
    };
    let mut own: Option<OwnedFd> = None;
    for number in 0..3 {
        let stream = match number {
            0 => rustix::stdio::stdin(),
            1 => rustix::stdio::stdout(),
            _ => rustix::stdio::stderr(),
        };
        // One may be closed.
        if !fstat(stream).is_ok_and(|stat| is_null(&stat)) {
            continue;
        }
        let null = match &own {
            Some(fd) => fd,
            None => {
                let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
                let fd = match openat(CWD, "/dev/null", flags, Mode::empty()) {
                    // The image's /dev is on a mount without devices: there is none to take instead.
                    Err(Errno::ACCESS | Errno::PERM) => return Ok(()),
                    other => other.doing(|| "open /dev/null in the container")?,
                };
                if !fstat(&fd).is_ok_and(|stat| is_null(&stat)) {
                    return Err(Error::new(
                        Kind::Invalid,
                        "/dev/null in the container is not the null device",
                    ));
                }
                own.insert(fd)
            }
        };
        match number {
            0 => rustix::stdio::dup2_stdin(null),
            1 => rustix::stdio::dup2_stdout(null),
            _ => rustix::stdio::dup2_stderr(null),
        }
        .doing(|| "replace a standard stream")?;
    }
    Ok(())
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
