//! One entry of `mounts` that is a filesystem of its own, or changes one. Bind mounts are in [`super::bind`].

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use kelson_sys::mount as attr;
use nix::libc::{MS_RDONLY, MS_REMOUNT};
use nix::mount::{MsFlags, mount};
use oci_spec::runtime::Mount;
use rustix::fs::{XattrFlags, setxattr};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::label::{Label, Place, place};
use super::options::{self, Options};
use super::resolve::clean;
use super::target::{self, Target};
use super::{Mounted, Setup, bind, cgroup, copy_up};
use crate::error::{Doing, Error, IntoError, Kind, Result};

/// An entry with what has been decided about it.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    /// Its place in `mounts`.
    pub index: usize,
    pub mount: &'a Mount,
    /// In the container: some callers give the path on the host, as runc allows.
    pub destination: &'a Path,
    pub options: Options,
}

pub(super) fn mount_entry(
    setup: &Setup<'_>,
    mounted: &mut Mounted,
    index: usize,
    mount: &Mount,
) -> Result<()> {
    let destination = mount.destination();
    let entry = Entry {
        index,
        mount,
        destination: destination.strip_prefix(&setup.rootfs).unwrap_or(destination),
        options: options::parse(mount.options().as_deref().unwrap_or_default()),
    };
    if Path::new("dev").starts_with(clean(entry.destination)) {
        // What is mounted over it hides it.
        mounted.dev = None;
    }
    let options = &entry.options;
    let typ = mount.typ().as_deref().unwrap_or("none");
    if options.bind() {
        return bind::mount(setup, mounted, &entry);
    }
    if options.remount() {
        let target = target::open(mounted, entry.destination, Target::Any)?;
        return remount(&target.fd, options);
    }
    match typ {
        "cgroup" => cgroup::mount_cgroup(setup, mounted, &entry),
        "cgroup2" if setup.cgroup.is_some_and(kelson_cgroups::Cgroup::is_unified) => {
            cgroup::mount_cgroup(setup, mounted, &entry)
        }
        "proc" | "sysfs" => {
            let target = target::open(mounted, entry.destination, Target::PlainDirectory)?;
            target::forbid_in_proc(&target, entry.destination, typ == "proc")?;
            fresh(setup.label, typ, mount, options, &target.fd).map(drop)
        }
        _ => filesystem(setup, mounted, typ, entry),
    }
}

fn filesystem(setup: &Setup<'_>, mounted: &mut Mounted, typ: &str, entry: Entry<'_>) -> Result<()> {
    let mut options = entry.options;
    let tmpfs = typ == "tmpfs";
    if tmpfs
        && !options.data.iter().any(|d| d.starts_with("mode="))
        && let Some(mode) = target::mode_of(&mounted.root, entry.destination)?
    {
        // A directory keeps its mode under the tmpfs that hides it, as in runc.
        options.data.push(format!("mode={mode:o}"));
    }
    let target = target::open(mounted, entry.destination, Target::Directory)?;
    target::forbid_in_proc(&target, entry.destination, false)?;
    // They stay writable until mount points, devices and files in them have been made.
    let late = (tmpfs || clean(entry.destination) == Path::new("dev"))
        && (options.readonly() || options.recursive.set & attr::RDONLY != 0);
    if late {
        options.flags &= !MS_RDONLY;
        options.recursive.set &= !attr::RDONLY;
    }
    let before = if options.copy_up && tmpfs {
        Some(copy_up::open(&target.fd)?)
    } else {
        None
    };
    let fd = fresh(setup.label, typ, entry.mount, &options, &target.fd)?;
    if let Some(before) = before {
        copy_up::copy(&before, &fd)?;
    }
    let is_dev = tmpfs && target.is_plain() && clean(entry.destination) == Path::new("dev");
    if is_dev && late {
        mounted
            .readonly
            .push(fd.try_clone().doing(|| "duplicate a descriptor")?);
        mounted.dev = Some(fd);
    } else if is_dev {
        mounted.dev = Some(fd);
    } else if late {
        mounted.readonly.push(fd);
    } else if typ == "devpts" {
        mounted.devpts = Some(fd);
    }
    Ok(())
}

/// Mounts a new instance on `target`; gives its descriptor.
fn fresh(
    label: Option<Label<'_>>,
    typ: &str,
    entry: &Mount,
    options: &Options,
    target: &OwnedFd,
) -> Result<OwnedFd> {
    let source = entry.source().clone().unwrap_or_else(|| PathBuf::from(typ));
    let source = source
        .to_str()
        .ok_or_else(|| Error::new(Kind::Invalid, "source is not UTF-8"))?;
    let fd = if options.needs_mount2() || source.len() > 255 {
        by_mount2(label, typ, source, options, target)?;
        target::reopen(target)?
    } else {
        let fd = new_filesystem(label, typ, source, options)?;
        attach(fd.as_fd(), target)?;
        fd
    };
    if let (Some(label), Place::Root) = (label, place(typ)) {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        setxattr(
            path,
            "security.selinux",
            label.context.as_bytes(),
            XattrFlags::empty(),
        )
        .doing(|| format!("linux.mountLabel: set {:?}", label.context))?;
    }
    after_attach(fd.as_fd(), options)?;
    Ok(fd)
}

fn by_mount2(
    label: Option<Label<'_>>,
    typ: &str,
    source: &str,
    options: &Options,
    target: &OwnedFd,
) -> Result<()> {
    let path = format!("/proc/self/fd/{}", target.as_raw_fd());
    let mut data = options.data.clone();
    if let (Some(label), Place::Option) = (label, place(typ)) {
        // Categories are separated by commas, too.
        data.push(format!("{}=\"{}\"", label.option, label.context));
    }
    let data = data.join(",");
    let flags = MsFlags::from_bits_retain(options.flags);
    mount(Some(source), path.as_str(), Some(typ), flags, Some(data.as_str())).doing(|| "mount")
}

/// A detached mount of a new filesystem instance.
pub(super) fn new_filesystem(
    label: Option<Label<'_>>,
    typ: &str,
    source: &str,
    options: &Options,
) -> Result<OwnedFd> {
    let fs = fsopen(typ, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| match e {
        Errno::NODEV => Error::new(
            Kind::Unsupported,
            format!("filesystem type {typ:?} is unknown to this kernel"),
        ),
        other => other.into_error(format!("open filesystem {typ}").into()),
    })?;
    fsconfig_set_string(fs.as_fd(), "source", source).doing(|| "set source")?;
    let read_only = (options.readonly() && has_disk(typ)).then_some("ro");
    for flag in options.superblock().chain(read_only) {
        fsconfig_set_flag(fs.as_fd(), flag).doing(|| format!("set option {flag}"))?;
    }
    if let (Some(label), Place::Option) = (label, place(typ)) {
        fsconfig_set_string(fs.as_fd(), label.option, label.context)
            .doing(|| format!("linux.mountLabel: set {}={:?}", label.option, label.context))?;
    }
    for option in &options.data {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(fs.as_fd(), key, value),
            None => fsconfig_set_flag(fs.as_fd(), option.as_str()),
        }
        .doing(|| format!("set option {option:?}"))?;
    }
    fsconfig_create(fs.as_fd()).doing(|| format!("create filesystem {typ}"))?;
    let attributes = MountAttrFlags::from_bits_retain(u32::try_from(options.attributes()).unwrap_or(0));
    fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).doing(|| "mount")
}

/// Whether `ro` matters to the filesystem and not only to the mount: one with a disk might otherwise be written to (its
/// journal, its superblock), or refused, by a device that is read-only.
fn has_disk(typ: &str) -> bool {
    !matches!(
        typ,
        "tmpfs" | "proc" | "sysfs" | "devpts" | "mqueue" | "cgroup" | "cgroup2" | "ramfs" | "devtmpfs"
    )
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

/// What applies to a whole tree, or concerns peers: only once the mount is in place.
pub(super) fn after_attach(mount: BorrowedFd<'_>, options: &Options) -> Result<()> {
    if !options.recursive.is_empty() {
        attr::set_attr(mount, true, options.recursive.change()).doing(|| "set recursive mount options")?;
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

/// `remount` without `bind`: the filesystem's options, too.
fn remount(target: &OwnedFd, options: &Options) -> Result<()> {
    let path = format!("/proc/self/fd/{}", target.as_raw_fd());
    let data = options.data.join(",");
    mount(
        None::<&str>,
        path.as_str(),
        None::<&str>,
        MsFlags::from_bits_retain(options.flags | MS_REMOUNT),
        Some(data.as_str()),
    )
    .doing(|| "remount")?;
    after_attach(target.as_fd(), options)
}
