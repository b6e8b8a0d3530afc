//! The `cgroup` mount: on v2 the container's own hierarchy; on v1 and hybrid a tmpfs with one bind per controller,
//! each showing the container's own directory.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use kelson_cgroups::{Cgroup, Version};
use kelson_sys::mount as attr;
use nix::libc::{EBUSY, ENOENT, EPERM};
use rustix::fs::{CWD, Mode, mkdirat, symlinkat};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::mounts::{Entry, after_attach, attach, new_filesystem};
use super::options::{self, Attributes, Options};
use super::target::{self, Target};
use super::{Mounted, Setup, mask};
use crate::error::{Doing, Error, Kind, Result};

pub(super) fn mount_cgroup(setup: &Setup<'_>, mounted: &Mounted, entry: &Entry<'_>) -> Result<()> {
    let Some(cgroup) = setup.cgroup else {
        return Err(Error::new(Kind::Unsupported, "the container has no cgroup"));
    };
    let mut options = entry.options.clone();
    options.data.clear();
    if setup.user_namespace && !setup.cgroup_namespace {
        // What is shown then is the host's own tree, and root of the container may be who delegated a part of it
        // (CVE-2023-25809).
        options.recursive.set |= attr::RDONLY;
        options.recursive.clear &= !attr::RDONLY;
    }
    let target = target::open(mounted, entry.destination, Target::Directory)?;
    target::forbid_in_proc(&target, entry.destination, false)?;
    let made = if cgroup.is_unified() {
        let made = unified(setup, cgroup, &options)?;
        attach(made.as_fd(), &target.fd)?;
        made
    } else {
        controllers(setup, cgroup, &options, &target.fd)?
    };
    after_attach(made.as_fd(), &options)
}

/// The one hierarchy of v2, detached.
fn unified(setup: &Setup<'_>, cgroup: &Cgroup, options: &Options) -> Result<OwnedFd> {
    match new_filesystem(None, "cgroup2", "cgroup", options) {
        // A user namespace without a cgroup namespace may not mount it, but may show what is there.
        Err(e) if matches!(e.errno(), Some(EPERM | EBUSY)) => {}
        other => return other,
    }
    // Without rights on any cgroup there is none to show: better nothing than the host's, which a bind of /sys would
    // leave in sight.
    let Some(dir) = cgroup.dirs().first() else {
        return mask::empty_directory(setup.label);
    };
    let path = if setup.cgroup_namespace {
        &dir.path
    } else {
        &dir.mount
    };
    match bind_of(path, additions(options)) {
        Err(e) if e.errno() == Some(ENOENT) => mask::empty_directory(setup.label),
        other => other,
    }
}

/// A tmpfs with a directory for each hierarchy of v1, mounted on `target`.
fn controllers(setup: &Setup<'_>, cgroup: &Cgroup, options: &Options, target: &OwnedFd) -> Result<OwnedFd> {
    let empty = options::parse(&["nosuid", "nodev", "noexec", "mode=755"]);
    let tmpfs = new_filesystem(setup.label, "tmpfs", "cgroup", &empty)?;
    attach(tmpfs.as_fd(), target)?;
    for hierarchy in cgroup.dirs().iter().filter(|d| d.version == Version::V1) {
        let name = hierarchy
            .controllers
            .strip_prefix("name=")
            .unwrap_or(&hierarchy.controllers);
        let bind = match bind_of(&hierarchy.path, Attributes::default()) {
            // An unprivileged runtime may not have been able to make it.
            Err(e) if e.errno() == Some(ENOENT) => continue,
            other => other?,
        };
        mkdirat(&tmpfs, name, Mode::from_raw_mode(0o755)).doing(|| format!("make {name}"))?;
        // By name, as nobody else knows of the tmpfs yet.
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&bind, "", &tmpfs, name, flags).doing(|| format!("attach {name}"))?;
        // cpu and cpuacct may share a hierarchy: each is found under its own name, too.
        for alias in name.split(',').filter(|_| name.contains(',')) {
            symlinkat(name, &tmpfs, alias).doing(|| format!("make {alias}"))?;
        }
    }
    // One call for all of them instead of one for each.
    attr::set_attr(&tmpfs, true, additions(options).change()).doing(|| "set mount options")?;
    Ok(tmpfs)
}

/// What a bind of the host's tree gets besides the attributes it has; access times mean nothing there.
fn additions(options: &Options) -> Attributes {
    let all = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC | attr::NOSYMFOLLOW;
    Attributes {
        set: options.attributes() & all,
        clear: 0,
    }
}

fn bind_of(path: &Path, attributes: Attributes) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let fd = open_tree(CWD, path, flags).doing(|| format!("open {}", path.display()))?;
    if !attributes.is_empty() {
        attr::set_attr(&fd, false, attributes.change()).doing(|| "set mount options")?;
    }
    Ok(fd)
}
