//! The `cgroup` mount: on v2 the container's own hierarchy; on v1 and hybrid a tmpfs with one bind per controller,
//! each showing the container's own directory.

use std::os::fd::AsFd;
use std::path::Path;

use kelson_cgroups::Version;
use kelson_sys::mount as attr;
use oci_spec::runtime::Mount;
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat, symlinkat};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::Setup;
use super::mounts::{Target, after_attach, attach, new_filesystem, open_target};
use super::options::{Attributes, Options};
use super::resolve::Root;
use crate::error::{Doing, Error, Kind, Result};

pub(super) fn mount_cgroup(setup: &Setup<'_>, root: &Root, entry: &Mount, options: &Options) -> Result<()> {
    let Some(cgroup) = setup.cgroup else {
        return Err(Error::new(Kind::Unsupported, "the container has no cgroup"));
    };
    let target = open_target(root, entry.destination(), Target::Directory)?;
    if cgroup.is_unified() {
        let options = Options {
            data: Vec::new(),
            ..options.clone()
        };
        let made = match new_filesystem("cgroup2", "cgroup", &options) {
            Ok(fd) => fd,
            // A user namespace without a cgroup namespace may not mount it, but may show what is there.
            Err(e) if matches!(e.errno(), Some(nix::libc::EPERM | nix::libc::EBUSY)) => {
                let dir = cgroup
                    .dirs()
                    .first()
                    .ok_or_else(|| Error::new(Kind::Internal, "no cgroup directory"))?;
                let path = if setup.cgroup_namespace {
                    dir.path.as_path()
                } else {
                    dir.mount.as_path()
                };
                bind_of(path, options.attributes)?
            }
            Err(e) => return Err(e),
        };
        attach(made.as_fd(), &target)?;
        return after_attach(made.as_fd(), &options);
    }
    let empty = Options {
        data: vec!["mode=755".to_owned()],
        ..Options::default()
    };
    let tmpfs = new_filesystem("tmpfs", "cgroup", &empty)?;
    attach(tmpfs.as_fd(), &target)?;
    let dir = openat(
        &tmpfs,
        ".",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .doing(|| "open the tmpfs")?;
    for hierarchy in cgroup.dirs().iter().filter(|d| d.version == Version::V1) {
        let name = hierarchy
            .controllers
            .strip_prefix("name=")
            .unwrap_or(&hierarchy.controllers);
        mkdirat(&dir, name, Mode::from_raw_mode(0o755)).doing(|| format!("make {name}"))?;
        let point = openat(
            &dir,
            name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .doing(|| format!("open {name}"))?;
        attach(bind_of(&hierarchy.path, Attributes::default())?.as_fd(), &point)?;
        // cpu and cpuacct may share a hierarchy: each is found under its own name, too.
        for alias in name.split(',').filter(|_| name.contains(',')) {
            symlinkat(name, &dir, alias).doing(|| format!("make {alias}"))?;
        }
    }
    // One call for all of them instead of one for each.
    let change = attr::MountAttr {
        set: options.attributes.set,
        clear: options.attributes.clear,
        propagation: 0,
    };
    attr::set_attr(&tmpfs, true, change).doing(|| "set mount options")?;
    after_attach(tmpfs.as_fd(), options)
}

fn bind_of(path: &Path, attributes: Attributes) -> Result<std::os::fd::OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let fd = open_tree(CWD, path, flags).doing(|| format!("open {}", path.display()))?;
    if !attributes.is_empty() {
        let change = attr::MountAttr {
            set: attributes.set,
            clear: attributes.clear,
            propagation: 0,
        };
        attr::set_attr(&fd, false, change).doing(|| "set mount options")?;
    }
    Ok(fd)
}
