//! Bind mounts: of files and directories, with attributes of their own, and with mapped ids.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use kelson_sys::mount as attr;
use nix::libc::{EACCES, EPERM};
use oci_spec::runtime::Mount;
use rustix::fs::{AtFlags, CWD, FileType, readlinkat, statat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::mounts::{Entry, after_attach, attach};
use super::options::Options;
use super::resolve::Root;
use super::target::{self, Target};
use super::{Mounted, Setup};
use crate::error::{Doing, Error, Kind, Result};

pub(super) fn mount(setup: &Setup<'_>, mounted: &Mounted, entry: &Entry<'_>) -> Result<()> {
    let options = &entry.options;
    if options.remount() {
        // mount(2) ignores the source of a remount, and so does runc.
        let target = target::open(mounted, entry.destination, Target::Any)?;
        change(&target.fd, options)?;
        return after_attach(target.fd.as_fd(), options);
    }
    if options.copy_symlink
        && copy_symlink(
            &mounted.root,
            &source_path(setup.bundle, entry.mount),
            entry.destination,
        )?
    {
        return Ok(());
    }
    let tree = if options.idmap.is_some() || mapped(entry.mount) {
        setup.open_source.call(entry.index)?
    } else {
        match open_source(setup.bundle, entry.mount, options) {
            // Root of the container may not search the directories on the way; the runtime can.
            Err(e) if setup.user_namespace && e.errno() == Some(EACCES) => {
                setup.open_source.call(entry.index)?
            }
            other => other?,
        }
    };
    place(mounted, entry, tree)
}

/// Mounts a detached tree, made to match what it shows: a directory or a file.
pub(super) fn place(mounted: &Mounted, entry: &Entry<'_>, tree: OwnedFd) -> Result<()> {
    let options = &entry.options;
    let stat = statat(&tree, "", AtFlags::EMPTY_PATH).doing(|| "stat source")?;
    let kind = if options.target_nofollow {
        Target::Link
    } else if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        Target::Directory
    } else {
        Target::File
    };
    let target = target::open(mounted, entry.destination, kind)?;
    let is_proc = is_procfs_at_proc(&tree, entry.destination);
    target::forbid_in_proc(&target, entry.destination, is_proc)?;
    change(&tree, options)?;
    attach(tree.as_fd(), &target.fd)?;
    after_attach(tree.as_fd(), options)
}

/// Whether the entry has mappings of its own: with or without the option that announces them.
pub(super) fn mapped(entry: &Mount) -> bool {
    [entry.uid_mappings(), entry.gid_mappings()]
        .into_iter()
        .flatten()
        .any(|list| !list.is_empty())
}

/// A detached copy of the mount that a bind mount's source is on.
///
/// # Errors
/// Names the source.
pub fn open_source(bundle: &Path, entry: &Mount, options: &Options) -> Result<OwnedFd> {
    let source = source_path(bundle, entry);
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if options.recursive_bind() {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    if options.source_nofollow {
        flags |= OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    }
    open_tree(CWD, &source, flags).doing(|| format!("open source {}", source.display()))
}

/// Relative sources start at the bundle (runtime-spec, config.md, "mounts").
fn source_path(bundle: &Path, entry: &Mount) -> PathBuf {
    bundle.join(entry.source().as_deref().unwrap_or(Path::new("")))
}

/// Changes the attributes that the options name. Those that a mount of the host has are locked in a user namespace:
/// what the options leave open then stays as it is, and what they contradict is an error.
fn change(mount: &OwnedFd, options: &Options) -> Result<()> {
    let Some(wanted) = options.bind_change() else {
        return Ok(());
    };
    let refused = match attr::set_attr(mount, false, wanted.change()) {
        Err(e) if e.raw_os_error() == Some(EPERM) => e,
        other => return other.doing(|| "set mount options"),
    };
    let flags = rustix::fs::fstatvfs(mount).doing(|| "read mount options")?.f_flag;
    match options.locked_change(attributes_of(flags.bits())) {
        Ok(change) => attr::set_attr(mount, false, change.change()).doing(|| "set mount options"),
        Err(option) => {
            Err(refused).doing(|| format!("option {option}: the source's mount is locked otherwise"))
        }
    }
}

/// `MOUNT_ATTR_*` of statvfs(3)'s flags.
fn attributes_of(flags: u64) -> u64 {
    const RELATIME: u64 = 0x1000;
    let pairs = [
        (0x1, attr::RDONLY),
        (0x2, attr::NOSUID),
        (0x4, attr::NODEV),
        (0x8, attr::NOEXEC),
        (0x400, attr::NOATIME),
        (0x800, attr::NODIRATIME),
        (0x2000, attr::NOSYMFOLLOW),
    ];
    let mut all = pairs
        .iter()
        .filter(|(flag, _)| flags & flag != 0)
        .fold(0, |all, (_, bit)| all | bit);
    // Of the three modes strictatime is the one without a flag.
    if all & attr::NOATIME == 0 && flags & RELATIME == 0 {
        all |= attr::STRICTATIME;
    }
    all
}

/// A whole procfs (or a part of one) may be bound to /proc; it cannot pretend to be one.
fn is_procfs_at_proc(tree: &OwnedFd, destination: &Path) -> bool {
    // Elsewhere it does not matter, and need not be asked.
    super::resolve::clean(destination).starts_with("proc")
        && rustix::fs::fstatfs(tree).is_ok_and(|s| s.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

/// crun's `copy-symlink`: whether the source was a symlink, which then is in the container, too.
fn copy_symlink(root: &Root, source: &Path, destination: &Path) -> Result<bool> {
    let link = match readlinkat(CWD, source, Vec::new()) {
        Err(Errno::INVAL) => return Ok(false),
        other => other.doing(|| format!("read source {}", source.display()))?,
    };
    let doing = || format!("make symlink {}", destination.display());
    let (dir, name) = root.parent(destination).doing(doing)?;
    match symlinkat(&link, &dir, &name) {
        Err(Errno::EXIST) if readlinkat(&dir, &name, Vec::new()).is_ok_and(|there| there == link) => Ok(true),
        Err(Errno::EXIST) => Err(Error::new(
            Kind::Invalid,
            format!(
                "copy-symlink: {} is there already and is another",
                destination.display()
            ),
        )),
        other => other.map(|()| true).doing(doing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statvfs_flags_are_attributes() {
        assert_eq!(attributes_of(0x1000), 0);
        assert_eq!(attributes_of(0), attr::STRICTATIME);
        let all = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC | attr::NOATIME | attr::NODIRATIME;
        assert_eq!(attributes_of(0xc0f), all);
        assert_eq!(attributes_of(0x3000), attr::NOSYMFOLLOW);
    }
}
