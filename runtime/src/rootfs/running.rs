//! Mounts of a container that runs: by a process that has entered its mount namespace, with sources that were opened
//! outside.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use kelson_sys::mount as attr;
use nix::libc::MS_SLAVE;
use nix::mount::{MntFlags, umount2};
use nix::unistd::fchdir;
use oci_spec::runtime::Mount;
use rustix::fs::{Mode, OFlags};

use super::mounts::{self, Entry};
use super::options::Options;
use super::resolve::Root;
use super::{Mounted, Setup, bind, options};
use crate::error::{Doing, Error, Kind, Result};

/// Whether an entry shows something of the host, which has to be opened there: bind mounts do.
///
/// # Errors
/// `Unsupported` names the entry and an option that cannot be had in a container that runs.
pub fn has_source(index: usize, mount: &Mount) -> Result<bool> {
    let options = options::parse(mount.options().as_deref().unwrap_or_default());
    match not_carried_out(mount, &options) {
        Some(what) => Err(Error::new(
            Kind::Unsupported,
            format!("mounts[{index}]{what} cannot be had in a container that runs"),
        )),
        None => Ok(options.bind() && !options.remount()),
    }
}

/// Opens what a bind mount shows, in the mount namespace that this process is in. It is no peer of what it was cloned
/// from: what the container mounts there stays the container's.
///
/// # Errors
/// Names the entry and the source.
pub fn open_source(bundle: &Path, index: usize, mount: &Mount) -> Result<OwnedFd> {
    let options = options::parse(mount.options().as_deref().unwrap_or_default());
    let slave = attr::MountAttr {
        propagation: MS_SLAVE,
        ..Default::default()
    };
    bind::open_source(bundle, mount, &options)
        .and_then(|tree| {
            attr::set_attr(&tree, true, slave).doing(|| "set propagation")?;
            Ok(tree)
        })
        .doing(|| format!("mounts[{index}]"))
}

/// What of an entry could only be left out: mappings and copied symlinks, which are made as part of a creation, and what
/// only mount(2) takes, which needs a path through a procfs, and the container's is not to be trusted.
fn not_carried_out(mount: &Mount, options: &Options) -> Option<&'static str> {
    let long = |path: &Path| path.as_os_str().len() > 255;
    if options.idmap.is_some() {
        Some(".options: idmap")
    } else if bind::mapped(mount) {
        Some(": uidMappings and gidMappings")
    } else if options.copy_symlink {
        Some(".options: copy-symlink")
    } else if options.bind() {
        None
    } else if options.remount() {
        Some(".options: remount without bind")
    } else if options.needs_mount2() {
        Some(".options: iversion, silent, or a value of more than 255 bytes")
    } else if mount.source().as_deref().is_some_and(long) {
        Some(".source: more than 255 bytes")
    } else {
        None
    }
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
    let doing = || format!("mounts[{index}]: mount on {}", mount.destination().display());
    done.doing(doing)?;
    // Nothing follows for which they would have to stay writable.
    let readonly = attr::MountAttr {
        set: attr::RDONLY,
        ..Default::default()
    };
    mounted
        .readonly
        .iter()
        .try_for_each(|fd| attr::set_attr(fd, false, readonly).doing(doing))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_carried_out_is_refused_by_name() {
        let refused = |text: &str| {
            let mount: Mount = serde_json::from_str(text).unwrap();
            let error = has_source(3, &mount).err()?;
            assert_eq!(error.kind(), Kind::Unsupported, "{error}");
            Some(error.to_string())
        };
        let long = "x".repeat(256);
        for (rest, named) in [
            (
                r#""options": ["bind", "ridmap"]"#.to_owned(),
                "mounts[3].options: idmap ",
            ),
            (
                r#""options": ["bind"], "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]"#
                    .to_owned(),
                "mounts[3]: uidMappings",
            ),
            (
                r#""options": ["rbind", "copy-symlink"]"#.to_owned(),
                "mounts[3].options: copy-symlink",
            ),
            (
                r#""options": ["remount", "ro"]"#.to_owned(),
                "mounts[3].options: remount",
            ),
            (
                r#""type": "tmpfs", "options": ["iversion"]"#.to_owned(),
                "mounts[3].options: iversion",
            ),
            (
                format!(r#""type": "overlay", "options": ["lowerdir={long}"]"#),
                "more than 255 bytes",
            ),
            (
                format!(r#""type": "tmpfs", "source": "{long}""#),
                "mounts[3].source",
            ),
        ] {
            let error = refused(&format!(r#"{{"destination": "/a", {rest}}}"#)).unwrap();
            assert!(error.contains(named), "{error}");
        }
        for rest in [
            r#""type": "tmpfs", "options": ["ro", "size=64k"]"#,
            r#""options": ["bind", "remount", "ro"]"#,
        ] {
            assert_eq!(refused(&format!(r#"{{"destination": "/a", {rest}}}"#)), None);
        }
    }
}
