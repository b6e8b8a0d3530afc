//! The container's root filesystem: mounting, device nodes, hiding, and making it the root.
//!
//! Everything inside the root is reached by descriptor (see [`resolve`]); new mounts are made detached and then
//! moved onto a descriptor, so no path inside the container is looked up twice.

mod bind;
mod cgroup;
mod copy_up;
mod devices;
pub mod host;
pub mod idmap;
pub mod label;
mod mask;
mod mounts;
mod option_table;
pub mod options;
mod pivot;
pub mod resolve;
pub mod running;
mod target;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use kelson_cgroups::Cgroup;
use kelson_sys::mount as attr;
use nix::libc::{MS_PRIVATE, MS_SHARED, MS_SLAVE, MS_UNBINDABLE};
use nix::mount::{MsFlags, mount};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::config::Config;
use crate::error::{Doing, Result};
pub use bind::open_source;
use resolve::Root;

/// What building the root filesystem needs to know.
#[derive(Debug)]
pub struct Setup<'a> {
    /// The bundle's config.
    pub config: &'a Config,
    /// Relative sources of bind mounts start here.
    pub bundle: &'a Path,
    /// The root filesystem's directory on the host.
    pub rootfs: PathBuf,
    /// The container's cgroup, if it has one.
    pub cgroup: Option<&'a Cgroup>,
    /// Device nodes cannot be made, only bound from the host.
    pub user_namespace: bool,
    /// How the tree will become the root.
    pub way_in: WayIn,
    /// The container's cgroup namespace is its own.
    pub cgroup_namespace: bool,
    /// SELinux context of new mounts.
    pub label: Option<label::Label<'a>>,
    /// Opens the sources that only the runtime can.
    pub open_source: OpenSource<'a>,
}

/// Asks the runtime, which has the host's privileges, for a detached copy of the source of `mounts[i]`, with its ids
/// mapped where they are to be.
#[derive(Clone, Copy)]
pub struct OpenSource<'a>(pub &'a dyn Fn(usize) -> Result<OwnedFd>);

impl OpenSource<'_> {
    fn call(self, index: usize) -> Result<OwnedFd> {
        (self.0)(index)
    }
}

impl std::fmt::Debug for OpenSource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpenSource")
    }
}

/// How the mounted tree becomes the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WayIn {
    /// By pivot_root.
    Pivot,
    /// `--no-pivot`: moved over `/`, then chroot.
    Move,
    /// Without a mount namespace: chroot alone. The host's mounts stay as they are; see [`host`].
    Chroot,
}

/// The mounted root filesystem, before it becomes the root.
#[derive(Debug)]
pub struct Mounted {
    /// Its root directory.
    pub root: Root,
    /// Its devpts, from which the terminal is made.
    pub devpts: Option<OwnedFd>,
    /// The tmpfs on its /dev, as long as nothing is mounted over it.
    dev: Option<OwnedFd>,
    /// Made read-only at the end.
    readonly: Vec<OwnedFd>,
}

/// Mounts everything of `mounts`, and makes devices and symlinks below /dev.
///
/// # Errors
/// Names the entry of config.json.
pub fn mount_all(setup: &Setup<'_>) -> Result<Mounted> {
    // Mode bits of what is made here are exact.
    rustix::process::umask(rustix::fs::Mode::empty());
    let root = bind_root(setup)?;
    let mut mounted = Mounted {
        root,
        devpts: None,
        dev: None,
        readonly: Vec::new(),
    };
    for (i, entry) in setup.config.mounts.iter().enumerate() {
        mounts::mount_entry(setup, &mut mounted, i, entry).doing(|| {
            let source = entry
                .source()
                .as_deref()
                .or(entry.typ().as_deref().map(Path::new))
                .unwrap_or(Path::new("none"));
            format!(
                "error mounting mounts[{i}]: {} on {}",
                source.display(),
                entry.destination().display()
            )
        })?;
    }
    if has_own_dev(setup) {
        devices::make_all(setup, &mounted)?;
    }
    Ok(mounted)
}

/// Whether /dev is for us to fill: one bound from elsewhere is used as it is.
fn has_own_dev(setup: &Setup<'_>) -> bool {
    !setup.config.mounts.iter().any(|m| {
        resolve::clean(m.destination()) == Path::new("dev")
            && options::parse(m.options().as_deref().unwrap_or_default()).bind()
    })
}

/// Hides and protects paths, makes mounts read-only that had to be writable until now, and enters the root.
///
/// # Errors
/// Names the path or entry of config.json.
pub fn finish(setup: &Setup<'_>, mounted: Mounted) -> Result<()> {
    mask::readonly_paths(&mounted.root, &setup.config.linux.readonly_paths)?;
    mask::masked_paths(&mounted.root, setup.label, &setup.config.linux.masked_paths)?;
    let readonly = attr::MountAttr {
        set: attr::RDONLY,
        ..Default::default()
    };
    for fd in &mounted.readonly {
        attr::set_attr(fd, false, readonly).doing(|| "make a tmpfs read-only")?;
    }
    if setup
        .config
        .root
        .as_ref()
        .and_then(|r| r.readonly())
        .unwrap_or(false)
    {
        attr::set_attr(&mounted.root, false, readonly).doing(|| "root.readonly: make the root read-only")?;
    }
    match setup.way_in {
        WayIn::Pivot => pivot::pivot(&mounted.root)?,
        WayIn::Move => pivot::move_root(&mounted.root, &setup.rootfs)?,
        WayIn::Chroot => return pivot::chroot_only(&mounted.root),
    }
    if has_own_dev(setup) {
        devices::reopen_null().doing(|| "standard streams")?;
    }
    match wanted_propagation(setup) {
        // The others it has since the bind.
        Some(p) if matches!(p.flag, MS_SHARED | MS_UNBINDABLE) => {
            mount(None::<&str>, "/", None::<&str>, flags(p), None::<&str>)
                .doing(|| "linux.rootfsPropagation")?;
        }
        _ => {}
    }
    Ok(())
}

/// Binds the root filesystem onto itself, so that it can be pivoted to. It is private, but for slave propagation, with
/// which the container sees what the host mounts there later.
fn bind_root(setup: &Setup<'_>) -> Result<Root> {
    let wanted = wanted_propagation(setup);
    let first = match wanted {
        // A mount that cannot be bound cannot be the one that is bound here.
        Some(p) if p.flag == MS_UNBINDABLE => options::Propagation {
            flag: MS_PRIVATE,
            ..p
        },
        // Volumes with shared propagation must stay peers of the host's mounts.
        Some(p) => p,
        None => options::Propagation {
            flag: MS_SLAVE,
            recursive: true,
        },
    };
    if setup.way_in != WayIn::Chroot {
        change_all(setup, first)?;
    }
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, &setup.rootfs, flags)
        .doing(|| format!("root.path: open {}", setup.rootfs.display()))?;
    if wanted.is_none_or(|p| p.flag != MS_SLAVE) {
        let private = attr::MountAttr {
            propagation: MS_PRIVATE,
            ..Default::default()
        };
        attr::set_attr(&tree, false, private).doing(|| "root.path: make the mount private")?;
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&tree, "", CWD, &setup.rootfs, flags)
        .doing(|| format!("root.path: mount {}", setup.rootfs.display()))?;
    Ok(Root::new(tree))
}

/// Before the bind, so that what is mounted for the container does not reach the host.
fn change_all(setup: &Setup<'_>, first: options::Propagation) -> Result<()> {
    mount(None::<&str>, "/", None::<&str>, flags(first), None::<&str>)
        .doing(|| "change propagation of all mounts")?;
    if first.flag == MS_SHARED || !first.recursive {
        let other = if first.flag == MS_SLAVE {
            MS_SLAVE
        } else {
            MS_PRIVATE
        };
        isolate_parent(&setup.rootfs, MsFlags::from_bits_truncate(other))?;
    }
    Ok(())
}

fn wanted_propagation(setup: &Setup<'_>) -> Option<options::Propagation> {
    let name = setup.config.linux.rootfs_propagation.as_deref();
    name.and_then(options::propagation)
}

fn flags(p: options::Propagation) -> MsFlags {
    let recursive = if p.recursive {
        MsFlags::MS_REC
    } else {
        MsFlags::empty()
    };
    MsFlags::from_bits_truncate(p.flag) | recursive
}

/// pivot_root refuses a root whose parent mount is shared, and the bind of the root would reach the host. The mount that
/// holds `path` is the first of its ancestors on which a change of propagation works: on what is no mount point it is
/// EINVAL.
fn isolate_parent(path: &Path, flag: MsFlags) -> Result<()> {
    for ancestor in path.ancestors() {
        match mount(None::<&str>, ancestor, None::<&str>, flag, None::<&str>) {
            Ok(()) => return Ok(()),
            Err(nix::errno::Errno::EINVAL) => {}
            Err(e) => {
                return Err(e).doing(|| format!("change propagation of the mount of {}", ancestor.display()));
            }
        }
    }
    Ok(())
}
