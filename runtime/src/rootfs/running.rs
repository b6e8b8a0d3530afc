//! Mounts of a container that runs: by a process that has entered its mount namespace, with sources that were opened
//! outside.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::mount::{MntFlags, umount2};
use nix::unistd::fchdir;
use oci_spec::runtime::Mount;
use rustix::fs::{Mode, OFlags};

use super::mounts::{self, Entry};
use super::resolve::Root;
use super::{Mounted, Setup, bind, options};
use crate::error::{Doing, Error, Kind, Result};

/// Opens what a bind mount shows, on the host; nothing for other types.
///
/// # Errors
/// Names the entry and the source.
pub fn open_source(bundle: &Path, index: usize, mount: &Mount) -> Result<Option<OwnedFd>> {
    let options = options::parse(mount.options().as_deref().unwrap_or_default());
    if !options.bind() || options.remount() {
        return Ok(None);
    }
    let source = bind::open_source(bundle, mount, &options);
    source.map(Some).doing(|| format!("mounts[{index}]"))
}

/// Adds one mount to the tree that this process sees as `/`.
///
/// # Errors
/// Names the entry.
pub fn add(setup: &Setup<'_>, index: usize, mount: &Mount, source: Option<OwnedFd>) -> Result<()> {
    let mut mounted = here()?;
    let done = match source {
        Some(tree) => {
            let entry = Entry {
                index,
                mount,
                destination: mount.destination(),
                options: options::parse(mount.options().as_deref().unwrap_or_default()),
            };
            bind::place(&mounted, &entry, tree)
        }
        None => mounts::mount_entry(setup, &mut mounted, index, mount),
    };
    done.doing(|| format!("mounts[{index}]: mount on {}", mount.destination().display()))
}

/// Takes off what is mounted last on `path`. `descriptors` is this process's /proc/self/fd, of the host's procfs: what
/// the container has there could be anything.
///
/// # Errors
/// Names the entry; `Invalid` when nothing is mounted there.
pub fn remove(index: usize, path: &Path, descriptors: &File) -> Result<()> {
    let doing = || format!("mounts[{index}]: remove the mount on {}", path.display());
    let target = here()?.root.handle(path).doing(doing)?;
    fchdir(descriptors).doing(doing)?;
    match umount2(target.as_raw_fd().to_string().as_str(), MntFlags::MNT_DETACH) {
        Err(nix::errno::Errno::EINVAL) => {
            Err(Error::new(Kind::Invalid, "nothing is mounted there")).doing(doing)
        }
        other => other.doing(doing),
    }
}

fn here() -> Result<Mounted> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty()).doing(|| "open the container's root")?;
    Ok(Mounted {
        root: Root::new(root),
        devpts: None,
        dev: None,
        readonly: Vec::new(),
    })
}
