//! The image store as containers see it: their roots.

use std::sync::Arc;

use super::{BlobRef, CommitOptions, Images, blocking, commit, flight};
use crate::digest::{Digest, ImageId};
use crate::image::Image;
use crate::snapshots::{Access, Change, Container, RootFs, RootMount, RootOptions};
use crate::{Error, Result};

impl Images {
    /// Makes a container's snapshot (upper and work directories) on the image's layers. Layers a crash took are unpacked again
    /// from their blobs.
    ///
    /// # Errors
    /// `Conflict` when the container has one; `NotFound` when a layer and its blob are both gone; `Unsupported` for a limit that the
    /// driver or the file system knows nothing of.
    pub async fn prepare(&self, container: &str, image: &Image, options: RootOptions) -> Result<RootMount> {
        let layers: Vec<Digest> = image.layers().iter().map(|l| l.diff_id).collect();
        let id = *image.id();
        let blobs: Vec<BlobRef> = {
            let state = self.inner.state();
            state
                .images
                .get(&id)
                .map(|e| e.record.layers.clone())
                .unwrap_or_default()
        };
        let lease = self
            .inner
            .lease(
                layers
                    .iter()
                    .copied()
                    .chain(blobs.iter().map(|l| l.blob))
                    .collect(),
            )
            .await;
        let inner = Arc::clone(&self.inner);
        let container = container.to_owned();
        blocking(move || {
            if inner.state().containers.contains_key(&container) {
                return Err(Error::conflict(format!(
                    "container {container} has a root file system already"
                )));
            }
            for blob in &blobs {
                if !inner.state().layers.contains_key(&blob.diff_id) {
                    flight::unpack_stored(&inner, blob)?;
                }
            }
            let known: Vec<_> = {
                let state = inner.state();
                layers
                    .iter()
                    .map(|d| state.layers.get(d).cloned().ok_or_else(|| lost(d)))
                    .collect::<Result<_>>()?
            };
            let made = inner
                .snapshots
                .create_container(&container, id, &known, options)?;
            let numbers: Vec<u64> = known.iter().map(|l| l.number).collect();
            let mount = inner.snapshots.mount_of(&made, &numbers);
            inner.state().put_container(made);
            lease.end()?;
            Ok(mount)
        })
        .await
    }

    /// The mount of a container's existing snapshot. Reads memory only.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub fn root_mount(&self, container: &str) -> Result<RootMount> {
        let (container, layers) = self.container(container)?;
        Ok(self.inner.snapshots.mount_of(&container, &layers))
    }

    /// Removes a container's snapshot; one that is not there is fine.
    ///
    /// # Errors
    /// `Internal` when the disk refuses (it is retried at the next open).
    pub async fn remove_snapshot(&self, container: &str) -> Result<()> {
        let Some(gone) = self.inner.state().take_container(container) else {
            return Ok(());
        };
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            inner.snapshots.remove_container(&gone)?;
            // Its image may have been removed by force while it was there: the layers were kept for it.
            inner.collect(&gone.layers).map(|_| ())
        })
        .await
    }

    /// The containers that have a snapshot; the daemon removes those it has no record of.
    #[must_use]
    pub fn snapshot_containers(&self) -> Vec<String> {
        self.inner.state().containers.keys().cloned().collect()
    }

    /// A detached view of a container's root. Blocking: call it on a blocking thread.
    ///
    /// # Errors
    /// `NotFound` without a snapshot, `Internal` when the kernel refuses the mount.
    pub fn view_container(&self, container: &str, access: Access) -> Result<RootFs> {
        let (container, layers) = self.container(container)?;
        self.inner
            .snapshots
            .view_container(&container, &layers, access)
            .map(RootFs::new)
    }

    /// What a container changed in its image's tree, sorted by path. Works beside a running container. Blocking.
    ///
    /// # Errors
    /// `NotFound` without a snapshot, `Internal` when a directory cannot be read.
    pub fn changes(&self, container: &str) -> Result<Vec<Change>> {
        let (container, layers) = self.container(container)?;
        Ok(self.inner.snapshots.changes(&container, &layers)?.changes)
    }

    /// Makes an image of what a container has that its image has not. The same difference gives the same layer. The container
    /// is not looked at otherwise: whoever wants it still pauses it.
    ///
    /// # Errors
    /// `NotFound` without a snapshot, or without the container's image; `Invalid` for what no layer can hold.
    pub async fn commit(&self, container: &str, options: CommitOptions) -> Result<ImageId> {
        commit::commit(&self.inner, container, options).await
    }

    /// The directory that holds what only this container takes of the disk. Reads memory only.
    ///
    /// # Errors
    /// `NotFound` without a snapshot.
    pub fn own_directory(&self, container: &str) -> Result<std::path::PathBuf> {
        let (container, _) = self.container(container)?;
        Ok(self.inner.snapshots.own(&container))
    }

    /// A detached read-only view of an image's root. Blocking: call it on a blocking thread. Hold the image's container, or
    /// nothing keeps the layers from being removed meanwhile.
    ///
    /// # Errors
    /// `Internal` when the kernel refuses the mount.
    pub fn view_image(&self, image: &Image) -> Result<RootFs> {
        let layers: Vec<Digest> = image.layers().iter().map(|l| l.diff_id).collect();
        let numbers = self.inner.state().numbers(&layers).map_err(|d| lost(&d))?;
        self.inner.snapshots.view_layers(&numbers).map(RootFs::new)
    }

    /// A container's directory and its layers', bottom first.
    fn container(&self, container: &str) -> Result<(Container, Vec<u64>)> {
        let state = self.inner.state();
        let none = || Error::not_found(format!("container {container} has no root file system"));
        let found = state.containers.get(container).ok_or_else(none)?;
        let layers = state.numbers(&found.layers).map_err(|d| lost(&d))?;
        Ok((found.clone(), layers))
    }
}

pub(super) fn lost(diff_id: &Digest) -> Error {
    Error::not_found(format!(
        "layer {diff_id} is not on the disk any more (hint: pull the image again)"
    ))
}
