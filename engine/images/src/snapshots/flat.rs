//! Drivers that give each container a whole tree: vfs, and btrfs, where the tree is a subvolume.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::changes::{self, Difference};
use super::driver::{Driver, Limit, open_dir};
use super::merge::Merged;
use super::{Access, RootMount, TREE, files};
use crate::error::Doing;
use crate::{Error, Kind, Result};

fn bind(dir: &Path) -> RootMount {
    RootMount {
        fs_type: "bind".into(),
        source: dir.join(TREE).display().to_string(),
        options: vec!["rbind".into(), "rw".into()],
    }
}

/// Only a mount keeps a reader from writing.
fn view(dir: &Path, access: Access) -> Result<OwnedFd> {
    let tree = dir.join(TREE);
    match access {
        Access::ReadWrite => open_dir(&tree),
        Access::ReadOnly => super::overlay::bind_detached(&tree),
    }
}

/// A copy of the layers' tree.
#[derive(Debug)]
pub(super) struct Vfs;

impl Driver for Vfs {
    fn create(&self, dir: &Path, layers: &[PathBuf], limit: Option<Limit>) -> Result<()> {
        let tree = dir.join(TREE);
        limit.map_or(Ok(()), |limit| limit.apply(std::slice::from_ref(&tree)))?;
        Merged::root(layers)?.copy_to(open_dir(&tree)?.as_fd())
    }

    fn mount(&self, dir: &Path, _: &[PathBuf]) -> RootMount {
        bind(dir)
    }

    fn view(&self, dir: &Path, _: &[PathBuf], access: Access) -> Result<OwnedFd> {
        view(dir, access)
    }

    fn changes(&self, dir: &Path, layers: &[PathBuf]) -> Result<Difference> {
        changes::whole(&Merged::root(layers)?, open_dir(&dir.join(TREE))?.as_fd())
    }
}

/// The same in a subvolume of its own, which goes in one step.
#[derive(Debug)]
pub(super) struct Btrfs;

impl Driver for Btrfs {
    fn create(&self, dir: &Path, layers: &[PathBuf], limit: Option<Limit>) -> Result<()> {
        // The directory that every root begins with gives way to a subvolume of its name.
        let tree = dir.join(TREE);
        std::fs::remove_dir(&tree).doing(|| format!("remove {}", tree.display()))?;
        kelson_sys::btrfs::create_subvolume(open_dir(dir)?.as_fd(), TREE).map_err(|e| {
            let text = format!(
                "{} is not on btrfs (hint: choose another storage driver)",
                dir.display()
            );
            let kind = match e.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
                Some(rustix::io::Errno::NOTTY) => Error::new(Kind::Unsupported, text),
                _ => Error::new(Kind::Internal, format!("make a subvolume in {}", dir.display())),
            };
            kind.caused_by(e)
        })?;
        let tree = open_dir(&tree)?;
        Merged::root(layers)?.copy_to(tree.as_fd())?;
        match limit {
            // What it shares with the layers is not its own.
            Some(limit) => kelson_sys::btrfs::limit_subvolume(tree.as_fd(), limit.bytes)
                .doing(|| format!("limit the subvolume in {}", dir.display())),
            None => Ok(()),
        }
    }

    fn mount(&self, dir: &Path, _: &[PathBuf]) -> RootMount {
        bind(dir)
    }

    fn view(&self, dir: &Path, _: &[PathBuf], access: Access) -> Result<OwnedFd> {
        view(dir, access)
    }

    fn changes(&self, dir: &Path, layers: &[PathBuf]) -> Result<Difference> {
        Vfs.changes(dir, layers)
    }

    fn remove(&self, dir: &Path) -> Result<()> {
        // What it does not take (a daemon of another user may not), the removal of the tree does file by file.
        if let Ok(parent) = open_dir(dir) {
            let _ = kelson_sys::btrfs::remove_subvolume(parent.as_fd(), TREE);
        }
        files::remove_tree(dir)
    }
}
