//! Layer and container directories, and how they are mounted.
//!
//! `snapshots/N/meta.json` owns `snapshots/N/`: it is written last for a layer (verified and complete) and first for nothing,
//! so a directory without a readable one is half made and removed at open. A layer's content does not depend on what is
//! below it, so a layer is known by its DiffID and images share it whatever their other layers are.

mod changes;
mod copy;
mod driver;
mod flat;
mod fuse;
mod merge;
mod overlay;
#[cfg(test)]
mod suite;
mod view;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Gid, Mode, OFlags, Uid};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::Doing;
use crate::files::{self, Durable};
use crate::{Error, Result};

pub(crate) use changes::Difference;
pub use changes::{Change, ChangeKind};
pub use copy::{ExtractOptions, PathStat};
use driver::Limit;
pub use driver::StorageDriver;
pub use overlay::RootMount;
use overlay::mount_detached;
pub(crate) use view::open_in_root;
pub use view::{Access, RootFs};

/// The content of a snapshot, below its number.
const TREE: &str = "fs";
const WORK: &str = "work";
const META: &str = "meta.json";
/// Ends the name of a snapshot that is being removed.
const GONE: &str = ".gone";
/// An empty lower layer, for images that have none; overlayfs wants at least one.
const EMPTY: u64 = 0;

/// `meta.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Meta {
    format: u32,
    #[serde(flatten)]
    owner: Owner,
    #[serde(flatten)]
    unknown: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Owner {
    Layer(Layer),
    Container(Container),
}

/// An unpacked layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Layer {
    #[serde(skip)]
    pub number: u64,
    pub diff_id: Digest,
    /// Bytes of its files.
    pub size: u64,
    /// Whether it sets the root directory's owner and mode.
    pub has_root: bool,
    /// The blob it came from, and that blob's media type.
    pub blob: Digest,
    pub blob_size: u64,
    pub media_type: String,
    /// Set until the layer is known to be on the disk: in another boot it is not to be trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
}

/// A container's writable directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Container {
    #[serde(skip)]
    pub number: u64,
    pub container: String,
    pub image: Digest,
    /// Its layers, bottom first.
    pub layers: Vec<Digest>,
    /// What made its root.
    #[serde(default)]
    pub driver: StorageDriver,
    /// Bytes it may write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// How a container's root is to be made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RootOptions {
    /// Bytes that may be written to it (`--storage-opt size`).
    pub limit: Option<u64>,
}

/// The directory of all snapshots.
#[derive(Debug)]
pub(crate) struct Snapshots {
    root: PathBuf,
    next: AtomicU64,
    boot_id: String,
    /// Makes new roots.
    driver: StorageDriver,
    /// Held by every draft.
    drafts: Arc<()>,
}

/// What [`Snapshots::open`] found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub layers: Vec<Layer>,
    pub containers: Vec<Container>,
}

impl Snapshots {
    /// Opens or makes the directory. Half-made snapshots go, and layers a power cut may have torn.
    ///
    /// # Errors
    /// `Unsupported` for a snapshot of a newer format: it is not ours to remove.
    pub fn open(root: &Path, driver: StorageDriver) -> Result<(Self, Found)> {
        files::make_dir(root, 0o700)?;
        let boot_id = files::boot_id()?;
        let mut found = Found::default();
        let mut highest = EMPTY;
        let doing = || format!("list {}", root.display());
        for entry in std::fs::read_dir(root).doing(doing)? {
            let entry = entry.doing(doing)?;
            let Some(number) = entry.file_name().to_str().and_then(|n| n.parse::<u64>().ok()) else {
                if entry
                    .path()
                    .as_os_str()
                    .as_encoded_bytes()
                    .ends_with(GONE.as_bytes())
                {
                    files::remove_tree(&entry.path())?;
                }
                continue;
            };
            highest = highest.max(number);
            if number == EMPTY {
                continue;
            }
            let meta = match files::read_record::<Meta>(&entry.path().join(META)) {
                Err(e) if e.kind() == crate::Kind::Invalid && entry.path().join(WORK).exists() => {
                    // A layer can be had again, what a container wrote cannot: a person decides about that.
                    tracing::warn!(error = %e, "container directory left alone: its record is damaged");
                    continue;
                }
                Err(e) if e.kind() == crate::Kind::Invalid => None,
                other => other?,
            };
            match meta.map(|m| m.owner) {
                Some(Owner::Layer(layer)) if layer.boot_id.as_ref().is_none_or(|b| *b == boot_id) => {
                    found.layers.push(Layer { number, ..layer });
                }
                Some(Owner::Container(container)) => found.containers.push(Container { number, ..container }),
                Some(Owner::Layer(_)) | None => files::remove_tree(&entry.path())?,
            }
        }
        let snapshots = Self {
            root: root.to_owned(),
            next: AtomicU64::new(highest + 1),
            boot_id,
            driver,
            drafts: Arc::default(),
        };
        make_tree(&snapshots.tree(EMPTY))?;
        Ok((snapshots, found))
    }

    fn dir(&self, number: u64) -> PathBuf {
        self.root.join(number.to_string())
    }

    /// The content of a snapshot.
    pub fn tree(&self, number: u64) -> PathBuf {
        self.dir(number).join(TREE)
    }

    /// The directories of these layers (bottom first).
    fn trees(&self, layers: &[u64]) -> Vec<PathBuf> {
        let mut trees: Vec<PathBuf> = layers.iter().map(|n| self.tree(*n)).collect();
        if trees.is_empty() {
            trees.push(self.tree(EMPTY));
        }
        trees
    }

    /// Whether snapshots are being made.
    pub fn is_busy(&self) -> bool {
        Arc::strong_count(&self.drafts) > 1
    }

    /// Numbers and names of all that is here. Reads the disk.
    pub fn list(&self) -> Result<Vec<(u64, String)>> {
        let doing = || format!("list {}", self.root.display());
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.root).doing(doing)? {
            let name = entry.doing(doing)?.file_name().to_string_lossy().into_owned();
            let number = name.strip_suffix(GONE).unwrap_or(&name).parse();
            found.extend(number.ok().filter(|n| *n != EMPTY).map(|n: u64| (n, name)));
        }
        Ok(found)
    }

    /// Begins a layer.
    pub fn draft(&self) -> Result<Draft> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let draft = Draft {
            number,
            dir: self.dir(number),
            driver: None,
            kept: false,
            _drafts: Arc::clone(&self.drafts),
        };
        files::make_dir(&draft.dir, 0o700)?;
        make_tree(&draft.dir.join(TREE))?;
        Ok(draft)
    }

    /// Makes a complete layer known.
    pub fn commit(&self, mut draft: Draft, layer: Layer) -> Result<Layer> {
        let layer = Layer {
            number: draft.number,
            boot_id: Some(self.boot_id.clone()),
            ..layer
        };
        self.write_meta(draft.number, Owner::Layer(layer.clone()), Durable::No)?;
        draft.kept = true;
        Ok(layer)
    }

    fn write_meta(&self, number: u64, owner: Owner, durable: Durable) -> Result<()> {
        let meta = Meta {
            format: files::FORMAT,
            owner,
            unknown: serde_json::Map::new(),
        };
        files::write_record(&self.dir(number), META, &meta, durable)
    }

    /// Flushes the file system and marks these layers as safe. Takes as long as the disk does; no lock is held.
    pub fn sync(&self, layers: Vec<Layer>) -> Result<Vec<Layer>> {
        let doing = || format!("sync {}", self.root.display());
        let root = rustix::fs::open(
            &self.root,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        rustix::fs::syncfs(root.doing(doing)?).doing(doing)?;
        let mut safe = Vec::with_capacity(layers.len());
        for layer in layers {
            let layer = Layer {
                boot_id: None,
                ..layer
            };
            // Removed in the meantime: nothing to mark.
            if self.dir(layer.number).is_dir()
                && self
                    .write_meta(layer.number, Owner::Layer(layer.clone()), Durable::No)
                    .is_ok()
            {
                safe.push(layer);
            }
        }
        Ok(safe)
    }

    /// Makes a container's root on these layers (bottom first).
    ///
    /// # Errors
    /// `Unsupported` for what the driver or the file system cannot do.
    pub fn create_container(
        &self,
        container: &str,
        image: Digest,
        layers: &[Layer],
        options: RootOptions,
    ) -> Result<Container> {
        let mut draft = self.draft()?;
        let owner = Container {
            number: draft.number,
            container: container.to_owned(),
            image,
            layers: layers.iter().map(|l| l.diff_id).collect(),
            driver: self.driver,
            limit: options.limit,
        };
        let numbers: Vec<u64> = layers.iter().map(|l| l.number).collect();
        let limit = owner.limit.map(|bytes| Limit {
            bytes,
            project: project(owner.number),
        });
        draft.driver = Some(self.driver);
        self.driver
            .driver()
            .create(&draft.dir, &self.trees(&numbers), limit)?;
        // The merged root is the upper directory's inode: it takes owner and mode of the topmost layer that sets them.
        if let Some(layer) = layers.iter().rev().find(|l| l.has_root) {
            let tree = self.tree(draft.number);
            let doing = || format!("set the root directory of {container}");
            let meta = std::fs::metadata(self.tree(layer.number)).doing(doing)?;
            let (uid, gid) = (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid()));
            rustix::fs::chown(&tree, Some(uid), Some(gid)).doing(doing)?;
            rustix::fs::chmod(&tree, Mode::from_raw_mode(meta.mode() & 0o7777)).doing(doing)?;
        }
        self.write_meta(draft.number, Owner::Container(owner.clone()), Durable::No)?;
        draft.kept = true;
        Ok(owner)
    }

    /// The mount of a container's root.
    pub fn mount_of(&self, container: &Container, layers: &[u64]) -> RootMount {
        let driver = container.driver.driver();
        driver.mount(&self.dir(container.number), &self.trees(layers))
    }

    /// A detached mount of a container's root.
    pub fn view_container(&self, container: &Container, layers: &[u64], access: Access) -> Result<OwnedFd> {
        let driver = container.driver.driver();
        driver.view(&self.dir(container.number), &self.trees(layers), access)
    }

    /// What a container's root has that these layers have not.
    pub fn changes(&self, container: &Container, layers: &[u64]) -> Result<Difference> {
        let driver = container.driver.driver();
        driver.changes(&self.dir(container.number), &self.trees(layers))
    }

    /// Where the bytes lie that only this container takes.
    pub fn own(&self, container: &Container) -> PathBuf {
        container.driver.driver().own(&self.dir(container.number))
    }

    /// Removes a container's root.
    pub fn remove_container(&self, container: &Container) -> Result<()> {
        if container.limit.is_some()
            && let Ok(dir) = driver::open_dir(&self.root)
            && let Err(e) = kelson_sys::quota::limit_project(dir.as_fd(), project(container.number), 0)
        {
            tracing::warn!(container = container.container, error = %e, "its quota stays");
        }
        self.remove_with(container.number, container.driver)
    }

    /// A detached mount of layers.
    pub fn view_layers(&self, layers: &[u64]) -> Result<OwnedFd> {
        let mut lowers = self.trees(layers);
        lowers.reverse();
        mount_detached(&lowers, None)
    }

    /// Removes a layer.
    pub fn remove(&self, number: u64) -> Result<()> {
        self.remove_with(number, StorageDriver::Overlay)
    }

    /// Removes what is no layer and no container's root. A container's directory whose record is damaged stays: a person decides
    /// about it.
    pub fn remove_orphan(&self, name: &str) -> Result<()> {
        let path = self.root.join(name);
        match name.parse() {
            Ok(number) if !path.join(WORK).exists() && !self.is_busy() => self.remove(number),
            Ok(_) => Ok(()),
            Err(_) => files::remove_tree(&path),
        }
    }

    /// Removes a snapshot. It loses its name first: a crash in between leaves what the next open removes, and a flush that is
    /// about to mark this layer as safe writes into nothing.
    fn remove_with(&self, number: u64, driver: StorageDriver) -> Result<()> {
        let (dir, gone) = (self.dir(number), self.root.join(format!("{number}{GONE}")));
        match std::fs::rename(&dir, &gone) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.doing(|| format!("remove {}", dir.display()))?,
        }
        driver.driver().remove(&gone)
    }
}

/// A number of the file system's quotas; ours begin where nobody's by hand are.
fn project(number: u64) -> u32 {
    u32::try_from(number & 0x00ff_ffff).unwrap_or(0) | 0x4b00_0000
}

/// Makes the directory that a container sees as `/` when no layer says what it is like. Its mode does not follow the daemon's
/// umask: with 077 nobody but root could enter a container's root.
fn make_tree(tree: &Path) -> Result<()> {
    files::make_dir(tree, 0o755)?;
    rustix::fs::chmod(tree, Mode::from_raw_mode(0o755)).doing(|| format!("make {}", tree.display()))
}

/// A snapshot being made; dropped, it is gone.
#[derive(Debug)]
pub(crate) struct Draft {
    number: u64,
    dir: PathBuf,
    driver: Option<StorageDriver>,
    kept: bool,
    _drafts: Arc<()>,
}

impl Draft {
    /// The directory to fill.
    pub fn open_tree(&self) -> Result<OwnedFd> {
        let path = self.dir.join(TREE);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(&path, flags, Mode::empty()).doing(|| format!("open {}", path.display()))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept {
            // The next open removes what cannot be removed now: it has no record.
            let _ = self.driver.unwrap_or_default().driver().remove(&self.dir);
        }
    }
}

/// Refuses a root that overlayfs' options cannot name.
pub(crate) fn check_root(root: &Path) -> Result<()> {
    let text = root.as_os_str().as_encoded_bytes();
    if text.iter().any(|b| b":,\\".contains(b)) || !root.is_absolute() {
        return Err(Error::invalid(format!(
            "data root {} must be absolute and hold no colon, comma or backslash: overlay mounts name it",
            root.display()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_record_costs_no_container_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("snapshots");
        let (snapshots, _) = Snapshots::open(&root, StorageDriver::default()).unwrap();
        let number = snapshots
            .create_container("c", Digest::of(b""), &[], RootOptions::default())
            .unwrap()
            .number;
        let written = snapshots.tree(number).join("written");
        std::fs::write(&written, "by the container").unwrap();
        std::fs::write(snapshots.dir(number).join(META), "").unwrap();
        let (again, found) = Snapshots::open(&root, StorageDriver::default()).unwrap();
        assert!(found.containers.is_empty() && written.exists());
        assert!(again.draft().unwrap().number > number);
    }

    #[test]
    fn a_root_nobody_described_is_open_to_all_whatever_the_umask() {
        let dir = tempfile::tempdir().unwrap();
        let old = rustix::process::umask(Mode::from_raw_mode(0o077));
        let (snapshots, _) =
            Snapshots::open(&dir.path().join("snapshots"), StorageDriver::default()).unwrap();
        let draft = snapshots.draft().unwrap();
        rustix::process::umask(old);
        for number in [EMPTY, draft.number] {
            let meta = std::fs::metadata(snapshots.tree(number)).unwrap();
            assert_eq!(meta.mode() & 0o7777, 0o755);
        }
    }
}
