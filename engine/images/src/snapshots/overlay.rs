//! Overlay mounts: described for the shim, or made here without a place in any mount tree.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};
use serde::{Deserialize, Serialize};

use crate::error::Doing;
use crate::{Error, Kind, Result};

/// A container's root, for whoever mounts it (containerd's `Mount`, `CreateTaskRequest.rootfs`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootMount {
    /// `overlay`.
    #[serde(rename = "type")]
    pub fs_type: String,
    /// `overlay`.
    pub source: String,
    /// `lowerdir=A:B` (top first, absolute), `upperdir=`, `workdir=`.
    pub options: Vec<String>,
}

/// Describes the mount. Whoever does it with the mount API must give each lower directory as a `lowerdir+` of its own
/// (kernel 6.8): one `fsconfig` value holds 256 bytes only.
pub(crate) fn root_mount(lowers: &[PathBuf], upper: &Path, work: &Path) -> RootMount {
    let lowers: Vec<String> = lowers.iter().map(|p| p.display().to_string()).collect();
    RootMount {
        fs_type: "overlay".into(),
        source: "overlay".into(),
        options: vec![
            format!("lowerdir={}", lowers.join(":")),
            format!("upperdir={}", upper.display()),
            format!("workdir={}", work.display()),
        ],
    }
}

/// Mounts the layers where nobody sees them; the mount ends with the descriptor. A single read-only directory needs no mount.
pub(crate) fn mount_detached(lowers: &[PathBuf], upper: Option<(&Path, &Path)>) -> Result<OwnedFd> {
    let doing = || "mount the layers for a look inside";
    if let ([only], None) = (lowers, upper) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        return rustix::fs::open(only, flags, Mode::empty()).doing(|| format!("open {}", only.display()));
    }
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).doing(doing)?;
    rustix::mount::fsconfig_set_string(fs.as_fd(), "source", "overlay").doing(doing)?;
    if set_lowers_singly(&fs, lowers).is_err() {
        set_lowers_at_once(&fs, lowers)?;
    }
    if let Some((upper, work)) = upper {
        rustix::mount::fsconfig_set_string(fs.as_fd(), "upperdir", upper).doing(doing)?;
        rustix::mount::fsconfig_set_string(fs.as_fd(), "workdir", work).doing(doing)?;
    }
    rustix::mount::fsconfig_create(fs.as_fd()).map_err(|e| {
        let error = Error::new(Kind::Internal, doing());
        error.caused_by(std::io::Error::from(e))
    })?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
    rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).doing(doing)
}

/// A read-only view of one directory, held by its descriptor.
pub(crate) fn bind_detached(tree: &Path) -> Result<OwnedFd> {
    let doing = || format!("open {} to look at it", tree.display());
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = rustix::mount::open_tree(rustix::fs::CWD, tree, flags).doing(doing)?;
    let read_only = kelson_sys::mount::MountAttr {
        set: kelson_sys::mount::RDONLY,
        ..kelson_sys::mount::MountAttr::default()
    };
    kelson_sys::mount::set_attr(&mount, false, read_only).doing(doing)?;
    Ok(mount)
}

/// `lowerdir+` is Linux 6.8.
fn set_lowers_singly(fs: &OwnedFd, lowers: &[PathBuf]) -> rustix::io::Result<()> {
    lowers
        .iter()
        .try_for_each(|lower| rustix::mount::fsconfig_set_string(fs.as_fd(), "lowerdir+", lower))
}

/// Older kernels take one string; what does not fit in it cannot be viewed there.
fn set_lowers_at_once(fs: &OwnedFd, lowers: &[PathBuf]) -> Result<()> {
    let all: Vec<String> = lowers.iter().map(|p| p.display().to_string()).collect();
    rustix::mount::fsconfig_set_string(fs.as_fd(), "lowerdir", all.join(":"))
        .doing(|| format!("name {} lower directories for an overlay mount", lowers.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_top_first() {
        let lowers = [
            PathBuf::from("/d/snapshots/2/fs"),
            PathBuf::from("/d/snapshots/1/fs"),
        ];
        let mount = root_mount(
            &lowers,
            Path::new("/d/snapshots/3/fs"),
            Path::new("/d/snapshots/3/work"),
        );
        assert_eq!(
            mount.options,
            [
                "lowerdir=/d/snapshots/2/fs:/d/snapshots/1/fs",
                "upperdir=/d/snapshots/3/fs",
                "workdir=/d/snapshots/3/work"
            ]
        );
    }
}
