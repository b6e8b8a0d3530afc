//! One layer on its way, shared by every pull that wants it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::inner::Inner;
use super::state::BlobRef;
use crate::digest::Digest;
use crate::registry::Repository;
use crate::registry::manifest::Descriptor;
use crate::snapshots::Layer;
use crate::unpack::pipeline::{self, Chunks, Expect, FileChunks, QUEUE, Trust, Unpacked};
use crate::{Error, Kind, Result};

/// Where a layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    Waiting,
    Downloading(u64),
    Verifying,
    Extracting,
    Complete,
    Failed(Kind, String),
}

/// A layer being fetched and unpacked by a task of its own. When the last who waits for it is gone, the task ends.
#[derive(Debug)]
pub(crate) struct Flight {
    stage: watch::Receiver<Stage>,
    task: JoinHandle<()>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The layers on their way, by DiffID.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<Digest, Weak<Flight>>>);

impl Flights {
    /// Joins the flight of this layer, or starts it.
    pub fn join(&self, inner: &Arc<Inner>, want: &BlobRef, repository: &Arc<Repository>) -> Arc<Flight> {
        let mut flights = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        flights.retain(|_, flight| flight.strong_count() > 0);
        if let Some(flight) = flights.get(&want.diff_id).and_then(Weak::upgrade)
            && !matches!(*flight.stage.borrow(), Stage::Failed(..))
        {
            return flight;
        }
        let (tell, stage) = watch::channel(Stage::Waiting);
        let task = tokio::spawn(fly(Arc::clone(inner), want.clone(), Arc::clone(repository), tell));
        let flight = Arc::new(Flight { stage, task });
        flights.insert(want.diff_id, Arc::downgrade(&flight));
        flight
    }
}

impl Flight {
    /// Follows the flight to its end.
    pub async fn follow(&self, mut tell: impl FnMut(&Stage)) -> Result<()> {
        let mut stage = self.stage.clone();
        loop {
            let now = stage.borrow_and_update().clone();
            tell(&now);
            match now {
                Stage::Complete => return Ok(()),
                Stage::Failed(kind, text) => return Err(Error::new(kind, text)),
                _ => {}
            }
            if stage.changed().await.is_err() {
                return Err(Error::new(
                    Kind::Internal,
                    "the layer's task ended without a word",
                ));
            }
        }
    }
}

async fn fly(inner: Arc<Inner>, want: BlobRef, repository: Arc<Repository>, tell: watch::Sender<Stage>) {
    let end = match fetch(&inner, &want, &repository, &tell).await {
        Ok(()) => Stage::Complete,
        Err(e) => Stage::Failed(e.kind(), e.to_string()),
    };
    tell.send_replace(end);
}

async fn fetch(
    inner: &Arc<Inner>,
    want: &BlobRef,
    repository: &Repository,
    tell: &watch::Sender<Stage>,
) -> Result<()> {
    // Of its own, beside the pull's: the unpacking threads may outlive a pull that was given up.
    let lease = inner.lease(vec![want.diff_id, want.blob]).await;
    let slots = Arc::clone(&inner.slots);
    let _slot = slots
        .acquire_owned()
        .await
        .map_err(|e| Error::new(Kind::Internal, "wait for a download").caused_by(e))?;
    if inner.state().layers.contains_key(&want.diff_id) {
        return Ok(());
    }
    let (to_disk, from_net) = mpsc::channel::<Result<Bytes>>(QUEUE);
    let on_disk = inner.content.size(&want.blob) == Some(want.size);
    let (work, wanted) = (Arc::clone(inner), want.clone());
    let unpacking = super::inner::blocking(move || {
        let result = if on_disk {
            unpack_stored(&work, &wanted)
        } else {
            unpack(&work, from_net, &wanted)
        };
        drop(lease);
        result.map(|_| ())
    });
    // The closure above runs only when it is polled; it must run while the download feeds it.
    let unpacking = tokio::spawn(unpacking);
    if !on_disk {
        let blob = Descriptor {
            media_type: want.media_type.clone(),
            digest: want.blob,
            size: want.size,
            platform: None,
            annotations: Default::default(),
        };
        let on_bytes = |done| drop(tell.send_replace(Stage::Downloading(done)));
        if let Err(e) = repository.blob(&blob, &to_disk, on_bytes).await {
            // Told to the pipeline, which must not take the break for the end. It answers with this very error.
            let _ = to_disk.send(Err(e)).await;
        } else {
            tell.send_replace(Stage::Verifying);
        }
        drop(to_disk);
    }
    tell.send_replace(Stage::Extracting);
    let result = unpacking.await;
    result.map_err(|e| Error::new(Kind::Internal, "unpack a layer").caused_by(e))?
}

/// Unpacks and stores a blob that arrives now. Blocking; nothing is visible unless all of it is as expected.
pub(crate) fn unpack(inner: &Arc<Inner>, chunks: impl Chunks + Send, want: &BlobRef) -> Result<Layer> {
    let mut blob = inner.content.draft()?;
    let expect = Expect {
        blob: Some((want.blob, want.size)),
        diff_id: Some(want.diff_id),
        trust: Trust::Nothing,
    };
    let draft = inner.snapshots.draft()?;
    let unpacked = pipeline::run(chunks, Some(&mut blob), expect, draft.open_tree()?)?;
    inner.content.commit(blob, &unpacked.blob)?;
    keep(inner, draft, &unpacked, &want.media_type)
}

/// Unpacks a blob that the store has already. A damaged one goes, so that the next pull fetches it.
pub(crate) fn unpack_stored(inner: &Arc<Inner>, want: &BlobRef) -> Result<Layer> {
    let file = inner.content.open_blob(&want.blob)?;
    let expect = Expect {
        blob: Some((want.blob, want.size)),
        diff_id: Some(want.diff_id),
        trust: Trust::Nothing,
    };
    let draft = inner.snapshots.draft()?;
    match pipeline::run(FileChunks(file), None, expect, draft.open_tree()?) {
        Ok(unpacked) => keep(inner, draft, &unpacked, &want.media_type),
        Err(e) => {
            if e.kind() == Kind::Invalid {
                inner.content.remove(&want.blob)?;
            }
            Err(e)
        }
    }
}

/// Makes an unpacked layer known. Two may have unpacked the same content under different blobs: the first stays.
pub(crate) fn keep(
    inner: &Arc<Inner>,
    draft: crate::snapshots::Draft,
    unpacked: &Unpacked,
    media_type: &str,
) -> Result<Layer> {
    let layer = Layer {
        number: 0,
        diff_id: unpacked.diff_id,
        size: unpacked.extracted.size,
        has_root: unpacked.extracted.has_root,
        blob: unpacked.blob,
        blob_size: unpacked.blob_size,
        media_type: media_type.to_owned(),
        boot_id: None,
    };
    let layer = inner.snapshots.commit(draft, layer)?;
    let first = inner
        .state()
        .layers
        .entry(layer.diff_id)
        .or_insert_with(|| layer.clone())
        .clone();
    if first.number != layer.number {
        inner.snapshots.remove(layer.number)?;
    }
    Ok(first)
}
