//! The image store: its public face.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kelson_formats::Reference;
use tokio::io::AsyncRead;

use crate::config::{ImagesConfig, Platform, PullOptions};
use crate::digest::{Digest, ImageId};
use crate::image::{HistoryEntry, Image};
use crate::progress::Progress;
use crate::remove::{InUse, Removed};
use crate::snapshots::{Access, RootFs, RootMount};
use crate::{Error, Kind, Result};

/// The image store. Cheap to clone; all clones are one store.
#[derive(Debug, Clone)]
pub struct Images {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {}

/// What a pull brought.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// The image.
    pub image: Image,
    /// Digest of the manifest or index the registry gave.
    pub digest: Digest,
    /// Whether the name pointed elsewhere before, or nowhere ("Downloaded newer image").
    pub newer: bool,
}

/// One image of a loaded archive.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The names it was given; none for an archive without names.
    pub references: Vec<Reference>,
    /// Its id.
    pub id: ImageId,
}

/// How to make an image of a root file system.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The name it gets.
    pub reference: Option<Reference>,
    /// Dockerfile instructions: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR.
    pub changes: Vec<String>,
    /// Text for the history.
    pub message: String,
    /// The platform it is said to be for; the host's without.
    pub platform: Option<Platform>,
}

/// An image of one static program, carried by the daemon itself.
#[derive(Debug, Clone)]
pub struct EmbeddedImage<'a> {
    /// Its name, e.g. `kelson/hello:latest`.
    pub name: &'a str,
    /// Absolute path of the program inside.
    pub path: &'a str,
    /// The program.
    pub binary: &'a [u8],
    /// Arguments after the program.
    pub cmd: &'a [&'a str],
    /// `80/tcp`.
    pub exposed_ports: &'a [&'a str],
    /// Labels.
    pub labels: &'a [(&'a str, &'a str)],
}

/// What a prune removed.
#[derive(Debug, Clone, Default)]
pub struct Pruned {
    /// In docker's order.
    pub removed: Vec<Removed>,
    /// Bytes given back to the disk.
    pub reclaimed: u64,
}

/// Bytes on disk, by owner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Unpacked layers, each counted once.
    pub layers: u64,
    /// Blobs.
    pub content: u64,
}

fn unfinished<T>() -> Result<T> {
    Err(Error::new(
        Kind::Unsupported,
        "this part of the image store is not built yet",
    ))
}

impl Images {
    /// Opens (or makes) the store below `root` (DATA_ROOT). Reads every record, removes what a crash left half made.
    ///
    /// # Errors
    /// `Internal` when the directories cannot be made or read.
    pub fn open(_root: &Path, _config: ImagesConfig) -> Result<Self> {
        Ok(Self {
            inner: Arc::new(Inner {}),
        })
    }

    /// Replaces the registry settings (daemon reload); running pulls keep the old ones.
    pub fn reconfigure(&self, _config: ImagesConfig) {}

    /// Pulls an image. The reference gets `latest` when it has neither tag nor digest.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `Unavailable` with docker's sentences; `Invalid` for content that does not match its digest.
    /// Nothing is stored then.
    pub async fn pull(
        &self,
        _reference: &Reference,
        _options: PullOptions,
        _progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<Pulled> {
        unfinished()
    }

    /// Loads `docker save`'s archive or an OCI layout in a tar, plain or compressed.
    ///
    /// # Errors
    /// `Invalid` for a malformed archive; nothing is stored then.
    pub async fn load(
        &self,
        _archive: impl AsyncRead + Send + Unpin + 'static,
        _progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<Vec<Loaded>> {
        unfinished()
    }

    /// Makes an image of one layer from a root file system's tar, plain or compressed.
    ///
    /// # Errors
    /// `Invalid` for a malformed tar or change.
    pub async fn import(
        &self,
        _rootfs: impl AsyncRead + Send + Unpin + 'static,
        _options: ImportOptions,
    ) -> Result<ImageId> {
        unfinished()
    }

    /// Makes the embedded image if it is not there. The same binary gives the same id everywhere.
    ///
    /// # Errors
    /// `Internal` when the disk refuses.
    pub async fn ensure_embedded(&self, _image: EmbeddedImage<'_>) -> Result<Image> {
        unfinished()
    }

    /// All images, newest first. Reads memory only.
    #[must_use]
    pub fn list(&self) -> Vec<Image> {
        let _ = &self.inner;
        Vec::new()
    }

    /// Finds an image by name, id, or the beginning of an id.
    ///
    /// # Errors
    /// `NotFound` ("No such image: x:latest"), `Invalid` for a name out of grammar or an ambiguous beginning.
    pub fn resolve(&self, _name: &str) -> Result<Image> {
        unfinished()
    }

    /// Notes that a container was made from the image now.
    pub fn touch(&self, _id: &ImageId) {}

    /// Rows of `docker history`, newest first.
    ///
    /// # Errors
    /// As [`Images::resolve`].
    pub fn history(&self, _name: &str) -> Result<Vec<HistoryEntry>> {
        unfinished()
    }

    /// Gives an image a further name; moves the name if it was taken.
    ///
    /// # Errors
    /// As [`Images::resolve`]; `Invalid` for a target with a digest.
    pub async fn tag(&self, _source: &str, _target: &Reference) -> Result<Image> {
        unfinished()
    }

    /// Removes a name, and the image with its last name.
    ///
    /// # Errors
    /// `NotFound`, or `Conflict` with docker's sentences.
    pub async fn remove(
        &self,
        _name: &str,
        _force: bool,
        _in_use: &(dyn Fn(&ImageId) -> Option<InUse> + Send + Sync),
    ) -> Result<Vec<Removed>> {
        unfinished()
    }

    /// Removes images no container uses: those without a name, or `all`; only older than `unused_for` where given.
    ///
    /// # Errors
    /// `Internal` when the disk refuses.
    pub async fn prune(
        &self,
        _all: bool,
        _unused_for: Option<Duration>,
        _in_use: &(dyn Fn(&ImageId) -> Option<InUse> + Send + Sync),
    ) -> Result<Pruned> {
        unfinished()
    }

    /// Bytes on disk. Reads memory only.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage::default()
    }

    /// Makes a container's snapshot (upper and work directories) on the image's layers.
    ///
    /// # Errors
    /// `Conflict` when the container has one.
    pub async fn prepare(&self, _container: &str, _image: &Image) -> Result<RootMount> {
        unfinished()
    }

    /// The mount of a container's existing snapshot.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub fn root_mount(&self, _container: &str) -> Result<RootMount> {
        unfinished()
    }

    /// Removes a container's snapshot; one that is not there is fine.
    ///
    /// # Errors
    /// `Internal` when the disk refuses (it is retried at the next open).
    pub async fn remove_snapshot(&self, _container: &str) -> Result<()> {
        unfinished()
    }

    /// The containers that have a snapshot; the daemon removes those it has no record of.
    #[must_use]
    pub fn snapshot_containers(&self) -> Vec<String> {
        Vec::new()
    }

    /// A detached view of a container's root. Blocking: call it on a blocking thread.
    ///
    /// # Errors
    /// `NotFound` without a snapshot, `Internal` when the kernel refuses the mount.
    pub fn view_container(&self, _container: &str, _access: Access) -> Result<RootFs> {
        unfinished()
    }

    /// A detached read-only view of an image's root. Blocking: call it on a blocking thread.
    ///
    /// # Errors
    /// `Internal` when the kernel refuses the mount.
    pub fn view_image(&self, _image: &Image) -> Result<RootFs> {
        unfinished()
    }
}
