//! One entry of `mounts`.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use kelson_sys::mount as attr;
use nix::mount::{MsFlags, mount};
use oci_spec::runtime::Mount;
use rustix::fs::{AtFlags, CWD, FileType, statat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::options::{self, Options};
use super::resolve::{Root, clean};
use super::{Mounted, Setup, cgroup, copy_up};
use crate::error::{Doing, Error, IntoError, Kind, Result};

pub(super) fn mount_entry(setup: &Setup<'_>, mounted: &mut Mounted, entry: &Mount) -> Result<()> {
    let options = options::parse(entry.options().as_deref().unwrap_or_default());
    let typ = entry.typ().as_deref().unwrap_or("none");
    if options.bind {
        return bind(setup, &mounted.root, entry, &options);
    }
    if options.remount {
        let target = open_target(&mounted.root, entry.destination(), Target::Any)?;
        return remount(&target, &options);
    }
    match typ {
        "cgroup" | "cgroup2" => cgroup::mount_cgroup(setup, &mounted.root, entry, &options),
        "proc" | "sysfs" => {
            let target = open_target(&mounted.root, entry.destination(), Target::PlainDirectory)?;
            fresh(typ, entry, &options, &target).map(|_| ())
        }
        _ => {
            let target = open_target(&mounted.root, entry.destination(), Target::Directory)?;
            forbid_inside_proc(&target, entry.destination())?;
            filesystem(mounted, typ, entry, options, &target)
        }
    }
}

fn filesystem(
    mounted: &mut Mounted,
    typ: &str,
    entry: &Mount,
    mut options: Options,
    target: &OwnedFd,
) -> Result<()> {
    // A read-only tmpfs stays writable until mount points, devices and files in it have been made.
    let deferred = typ == "tmpfs" && options.attributes.set & attr::RDONLY != 0;
    if deferred {
        options.attributes.set &= !attr::RDONLY;
    }
    let before = if options.copy_up && typ == "tmpfs" {
        Some(copy_up::open(target)?)
    } else {
        None
    };
    let fd = fresh(typ, entry, &options, target)?;
    if let Some(before) = before {
        copy_up::copy(before, &fd)?;
    }
    match (fd, typ) {
        (Some(fd), "devpts") => mounted.devpts = Some(fd),
        (Some(fd), _) if deferred => mounted.readonly.push(fd),
        _ => {}
    }
    Ok(())
}

/// Mounts a new instance on `target`; gives its descriptor where the kernel made one.
fn fresh(typ: &str, entry: &Mount, options: &Options, target: &OwnedFd) -> Result<Option<OwnedFd>> {
    let source = entry.source().clone().unwrap_or_else(|| PathBuf::from(typ));
    let source = source
        .to_str()
        .ok_or_else(|| Error::new(Kind::Invalid, "source is not UTF-8"))?;
    // fsconfig takes values of at most 255 bytes, too few for the layers of an overlay.
    if options.data.iter().any(|d| d.len() > 255) || source.len() > 255 {
        let flags = legacy_flags(options);
        let path = format!("/proc/self/fd/{}", target.as_raw_fd());
        let data = options.data.join(",");
        mount(Some(source), path.as_str(), Some(typ), flags, Some(data.as_str())).doing(|| "mount")?;
        return Ok(None);
    }
    let fd = new_filesystem(typ, source, options)?;
    attach(fd.as_fd(), target)?;
    after_attach(fd.as_fd(), options)?;
    Ok(Some(fd))
}

/// A detached mount of a new filesystem instance.
pub(super) fn new_filesystem(typ: &str, source: &str, options: &Options) -> Result<OwnedFd> {
    let fs = fsopen(typ, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| match e {
        Errno::NODEV => Error::new(
            Kind::Unsupported,
            format!("filesystem type {typ:?} is unknown to this kernel"),
        ),
        other => other.into_error(format!("open filesystem {typ}").into()),
    })?;
    fsconfig_set_string(fs.as_fd(), "source", source).doing(|| "set source")?;
    for flag in &options.superblock {
        fsconfig_set_flag(fs.as_fd(), *flag).doing(|| format!("set option {flag}"))?;
    }
    for option in &options.data {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(fs.as_fd(), key, value),
            None => fsconfig_set_flag(fs.as_fd(), option.as_str()),
        }
        .doing(|| format!("set option {option:?}"))?;
    }
    fsconfig_create(fs.as_fd()).doing(|| format!("create filesystem {typ}"))?;
    let attributes = MountAttrFlags::from_bits_retain(u32::try_from(options.attributes.set).unwrap_or(0));
    fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).doing(|| "mount")
}

/// Moves a detached mount onto a descriptor.
pub(super) fn attach(mount: BorrowedFd<'_>, target: &OwnedFd) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags).doing(|| "attach the mount")
}

/// A detached copy of the mount at `fd`, with all below it where `recursive`.
pub(super) fn clone_mount(fd: impl AsFd, recursive: bool) -> std::result::Result<OwnedFd, Errno> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(fd, "", flags)
}

fn bind(setup: &Setup<'_>, root: &Root, entry: &Mount, options: &Options) -> Result<()> {
    let source = entry.source().as_deref().unwrap_or(Path::new(""));
    // Relative sources start at the bundle (runtime-spec, config.md, "mounts").
    let source = setup.bundle.join(source);
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if options.recursive_bind {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = open_tree(CWD, &source, flags).doing(|| format!("open source {}", source.display()))?;
    let stat = statat(&tree, "", AtFlags::EMPTY_PATH).doing(|| "stat source")?;
    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let kind = if is_dir { Target::Directory } else { Target::File };
    let target = open_target(root, entry.destination(), kind)?;
    // A whole procfs (or a part of one) may be bound there; it cannot pretend to be one.
    let is_proc = rustix::fs::fstatfs(&tree).is_ok_and(|s| s.f_type == rustix::fs::PROC_SUPER_MAGIC);
    if !is_proc {
        forbid_inside_proc(&target, entry.destination())?;
    }
    if !options.attributes.is_empty() {
        let change = attr::MountAttr {
            set: options.attributes.set,
            clear: options.attributes.clear,
            propagation: 0,
        };
        attr::set_attr(&tree, false, change).doing(|| "set mount options")?;
    }
    attach(tree.as_fd(), &target)?;
    after_attach(tree.as_fd(), options)
}

/// What applies to a whole tree, or concerns peers: only once the mount is in place.
pub(super) fn after_attach(mount: BorrowedFd<'_>, options: &Options) -> Result<()> {
    let r = options.recursive;
    if !r.is_empty() {
        let change = attr::MountAttr {
            set: r.set,
            clear: r.clear,
            propagation: 0,
        };
        attr::set_attr(mount, true, change).doing(|| "set recursive mount options")?;
    }
    for p in &options.propagation {
        let change = attr::MountAttr {
            propagation: p.flag,
            ..Default::default()
        };
        attr::set_attr(mount, p.recursive, change).doing(|| "set propagation")?;
    }
    Ok(())
}

fn remount(target: &OwnedFd, options: &Options) -> Result<()> {
    let path = format!("/proc/self/fd/{}", target.as_raw_fd());
    let data = options.data.join(",");
    let flags = legacy_flags(options) | MsFlags::MS_REMOUNT;
    mount(
        None::<&str>,
        path.as_str(),
        None::<&str>,
        flags,
        Some(data.as_str()),
    )
    .doing(|| "remount")?;
    Ok(())
}

fn legacy_flags(options: &Options) -> MsFlags {
    let pairs = [
        (attr::RDONLY, MsFlags::MS_RDONLY),
        (attr::NOSUID, MsFlags::MS_NOSUID),
        (attr::NODEV, MsFlags::MS_NODEV),
        (attr::NOEXEC, MsFlags::MS_NOEXEC),
        (attr::NOATIME, MsFlags::MS_NOATIME),
        (attr::STRICTATIME, MsFlags::MS_STRICTATIME),
        (attr::NODIRATIME, MsFlags::MS_NODIRATIME),
    ];
    let mut flags = MsFlags::empty();
    for (bit, flag) in pairs {
        if options.attributes.set & bit != 0 {
            flags |= flag;
        }
    }
    for name in &options.superblock {
        match *name {
            "sync" => flags |= MsFlags::MS_SYNCHRONOUS,
            "dirsync" => flags |= MsFlags::MS_DIRSYNC,
            "mand" => flags |= MsFlags::MS_MANDLOCK,
            "lazytime" => flags |= MsFlags::MS_LAZYTIME,
            _ => {}
        }
    }
    flags
}

/// What a mount point must be.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Target {
    /// A directory, made if missing, reached without symlinks: writes to procfs and sysfs below it must go there
    /// and nowhere else (CVE-2019-19921).
    PlainDirectory,
    Directory,
    File,
    Any,
}

pub(super) fn open_target(root: &Root, path: &Path, kind: Target) -> Result<OwnedFd> {
    if clean(path).as_os_str().is_empty() {
        return Err(Error::new(Kind::Invalid, "the destination is the root itself"));
    }
    let doing = || format!("open mount point {}", path.display());
    match kind {
        Target::PlainDirectory => match root.handle_plain(path) {
            Err(Errno::NOENT) => root.make_dirs(path).doing(doing),
            Err(Errno::LOOP) => Err(Error::new(
                Kind::Invalid,
                format!(
                    "open mount point {}: must be an ordinary directory, not a symlink",
                    path.display()
                ),
            )),
            other => other.doing(doing),
        },
        Target::Directory => root.make_dirs(path).doing(doing),
        Target::File => root.make_file(path).doing(doing),
        Target::Any => root.handle(path).doing(doing),
    }
}

/// Mounts that hide parts of procfs would mislead the checks of programs that read it; only what presents
/// resource figures may be replaced (lxcfs does).
fn forbid_inside_proc(target: &OwnedFd, destination: &Path) -> Result<()> {
    const ALLOWED: [&str; 10] = [
        "cpuinfo",
        "diskstats",
        "meminfo",
        "stat",
        "swaps",
        "uptime",
        "loadavg",
        "slabinfo",
        "sys/kernel/ns_last_pid",
        "sys/crypto/fips_enabled",
    ];
    if rustix::fs::fstatfs(target).is_ok_and(|s| s.f_type != rustix::fs::PROC_SUPER_MAGIC) {
        return Ok(());
    }
    let cleaned = clean(destination);
    match cleaned.strip_prefix("proc") {
        Ok(below) if ALLOWED.iter().any(|a| below == Path::new(a)) => Ok(()),
        Ok(below) if below.as_os_str().is_empty() => Ok(()),
        _ => Err(Error::new(
            Kind::Invalid,
            format!("{} is inside procfs", destination.display()),
        )),
    }
}
