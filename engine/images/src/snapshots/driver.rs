//! How a container's root is made of its image's layers.
//!
//! A *layer* is an unpacked DiffID in overlayfs' own form, the same for every driver and shared by all images. A *root* is one
//! container's directory `N/`, in which the driver makes what it likes, `fs` first of all. A driver never writes into a layer.
//! Which driver made a root is in its record, so a daemon that is told to use another goes on with the roots there are.
//!
//! The words in order: [`Driver::create`], then any number of [`Driver::mount`], [`Driver::view`] and [`Driver::changes`], then
//! [`Driver::remove`]. `suite.rs` says what every driver has to do.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::changes::{self, Difference};
use super::flat::{Btrfs, Vfs};
use super::fuse::Fuse;
use super::merge::Merged;
use super::overlay::{mount_detached, root_mount};
use super::{Access, RootMount, TREE, WORK, files};
use crate::error::Doing;
use crate::{Error, Kind, Result};

/// A storage driver, by docker's name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StorageDriver {
    /// The kernel's overlayfs: `overlay2`.
    #[default]
    #[serde(rename = "overlay2")]
    Overlay,
    /// The same in user space, for kernels that let only root mount the other: `fuse-overlayfs`.
    #[serde(rename = "fuse-overlayfs")]
    Fuse,
    /// A full copy for each container; data is shared where the file system can: `vfs`.
    #[serde(rename = "vfs")]
    Vfs,
    /// A subvolume for each container: `btrfs`.
    #[serde(rename = "btrfs")]
    Btrfs,
}

impl StorageDriver {
    /// Docker's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Overlay => "overlay2",
            Self::Fuse => "fuse-overlayfs",
            Self::Vfs => "vfs",
            Self::Btrfs => "btrfs",
        }
    }

    pub(crate) fn driver(self) -> &'static dyn Driver {
        match self {
            Self::Overlay => &Overlay,
            Self::Fuse => &Fuse,
            Self::Vfs => &Vfs,
            Self::Btrfs => &Btrfs,
        }
    }
}

impl fmt::Display for StorageDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for StorageDriver {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let hint = |what: &str| {
            let text = format!("storage driver {text}: {what} (hint: use overlay2, which needs no set-up)");
            Err(Error::new(Kind::Unsupported, text))
        };
        match text {
            "" | "overlay" | "overlay2" | "overlayfs" => Ok(Self::Overlay),
            "fuse-overlayfs" => Ok(Self::Fuse),
            "vfs" => Ok(Self::Vfs),
            "btrfs" => Ok(Self::Btrfs),
            "aufs" => hint("AUFS never was in Linux, and docker dropped it in 24"),
            "devicemapper" => hint("docker dropped devicemapper in 25"),
            "zfs" | "windowsfilter" => hint("not supported"),
            _ => hint("no such driver; there are overlay2, fuse-overlayfs, vfs and btrfs"),
        }
    }
}

/// One way to make roots. Everything is blocking.
pub(crate) trait Driver: fmt::Debug + Send + Sync {
    /// Makes a root in an empty directory on these layers, bottom first. With a limit, what is written to it may take so many
    /// bytes.
    ///
    /// # Errors
    /// `Unsupported` where the file system cannot do it. What was made stays; the caller removes it.
    fn create(&self, dir: &Path, layers: &[PathBuf], limit: Option<Limit>) -> Result<()>;

    /// Describes the mount of a root, for whoever runs a container in it.
    fn mount(&self, dir: &Path, layers: &[PathBuf]) -> RootMount;

    /// Opens a root where nobody else sees it.
    fn view(&self, dir: &Path, layers: &[PathBuf], access: Access) -> Result<OwnedFd>;

    /// What a root has that its layers have not.
    fn changes(&self, dir: &Path, layers: &[PathBuf]) -> Result<Difference>;

    /// Where the bytes lie that only this root takes.
    fn own(&self, dir: &Path) -> PathBuf {
        dir.join(TREE)
    }

    /// Removes a root.
    fn remove(&self, dir: &Path) -> Result<()> {
        files::remove_tree(dir)
    }
}

/// A limit on a root, by a project quota of the file system.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub bytes: u64,
    /// A number no other root has.
    pub project: u32,
}

impl Limit {
    /// Puts empty directories under the limit.
    ///
    /// # Errors
    /// `Unsupported`, in docker's words, where there are no project quotas.
    pub fn apply(self, dirs: &[PathBuf]) -> Result<()> {
        let unsupported = |e: std::io::Error| {
            let text = "--storage-opt size is supported only where the file system has project quotas (hint: xfs with 'pquota', or ext4 with the feature 'project' and 'prjquota')";
            match e.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
                Some(rustix::io::Errno::NOSPC | rustix::io::Errno::IO) => {
                    Error::new(Kind::Internal, "set a quota")
                }
                _ => Error::new(Kind::Unsupported, text),
            }
            .caused_by(e)
        };
        for dir in dirs {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let fd =
                rustix::fs::open(dir, flags, Mode::empty()).doing(|| format!("open {}", dir.display()))?;
            // The limit first: a project without one is no use.
            kelson_sys::quota::limit_project(fd.as_fd(), self.project, self.bytes).map_err(unsupported)?;
            kelson_sys::quota::set_project(fd.as_fd(), self.project).map_err(unsupported)?;
        }
        Ok(())
    }
}

/// Opens a directory.
pub(super) fn open_dir(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).doing(|| format!("open {}", path.display()))
}

/// Top first, as overlayfs has them.
pub(super) fn top_first(layers: &[PathBuf]) -> Vec<PathBuf> {
    layers.iter().rev().cloned().collect()
}

/// The directories of an overlay, in which the root's own lies on top.
pub(super) fn overlay_dirs(dir: &Path, limit: Option<Limit>) -> Result<()> {
    files::make_dir(&dir.join(WORK), 0o700)?;
    limit.map_or(Ok(()), |limit| limit.apply(&[dir.join(TREE), dir.join(WORK)]))
}

/// The kernel's overlayfs.
#[derive(Debug)]
struct Overlay;

impl Driver for Overlay {
    fn create(&self, dir: &Path, _: &[PathBuf], limit: Option<Limit>) -> Result<()> {
        overlay_dirs(dir, limit)
    }

    fn mount(&self, dir: &Path, layers: &[PathBuf]) -> RootMount {
        root_mount(&top_first(layers), &dir.join(TREE), &dir.join(WORK))
    }

    fn view(&self, dir: &Path, layers: &[PathBuf], access: Access) -> Result<OwnedFd> {
        let mut lowers = top_first(layers);
        let tree = dir.join(TREE);
        match access {
            Access::ReadWrite => mount_detached(&lowers, Some((&tree, &dir.join(WORK)))),
            Access::ReadOnly => {
                lowers.insert(0, tree);
                mount_detached(&lowers, None)
            }
        }
    }

    fn changes(&self, dir: &Path, layers: &[PathBuf]) -> Result<Difference> {
        let below = mount_detached(&top_first(layers), None)?;
        match changes::changes(&dir.join(TREE), below.as_fd())? {
            Some(found) => Ok(found),
            None => {
                let shown = self.view(dir, layers, Access::ReadOnly)?;
                changes::whole(&Merged::root(layers)?, shown.as_fd())
            }
        }
    }
}
