//! One layer on its way, shared by every pull that wants it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::inner::{Inner, Lease, blocking};
use super::state::BlobRef;
use crate::content::Fetch;
use crate::content::partial::{Arriving, Partial};
use crate::digest::Digest;
use crate::registry::manifest::Descriptor;
use crate::registry::{Arrived, Download, Repository};
use crate::snapshots::Layer;
use crate::unpack::pipeline::{self, Expect, FileChunks, QUEUE, Trust, Unpacked};
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
    let _slot = Arc::clone(&inner.slots)
        .acquire_owned()
        .await
        .map_err(|e| Error::new(Kind::Internal, "wait for a download").caused_by(e))?;
    // Of its own, beside the pull's: the unpacking threads may outlive a pull that was given up.
    let lease = inner.lease(vec![want.diff_id, want.blob]).await;
    if inner.state().layers.contains_key(&want.diff_id) {
        return Ok(());
    }
    if inner.content.size(&want.blob) == Some(want.size) {
        tell.send_replace(Stage::Extracting);
        let (work, wanted) = (Arc::clone(inner), want.clone());
        return blocking(move || unpack_stored(&work, &wanted).map(|_| drop(lease))).await;
    }
    let mut lease = Some(lease);
    loop {
        let (work, wanted) = (Arc::clone(inner), want.clone());
        let fetch = blocking(move || work.content.fetch(wanted.blob, wanted.size)).await?;
        // One blob for two DiffIDs: one of them is wrong, and neither must spoil the other's bytes.
        let twice = || {
            Error::new(
                Kind::Unavailable,
                format!("blob {} is being fetched already", want.blob),
            )
        };
        let fetch = fetch.ok_or_else(twice)?;
        let resumed = fetch.partial.resumed() > 0;
        let kept = match &lease {
            Some(_) => lease.take(),
            None => Some(inner.lease(vec![want.diff_id, want.blob]).await),
        };
        match fetch_once(inner, want, repository, tell, fetch, kept).await {
            // A power cut may have torn what an earlier pull left. It is gone now, and the whole blob is fetched.
            Err(e) if resumed && e.kind() == Kind::Invalid => {}
            result => return result,
        }
    }
}

/// Tells the unpacking threads when their download is dropped: they wait for its bytes.
struct Feeding<'a>(&'a Partial);

impl Drop for Feeding<'_> {
    fn drop(&mut self) {
        self.0
            .fail(&Error::new(Kind::Unavailable, "the download was given up"));
    }
}

async fn fetch_once(
    inner: &Arc<Inner>,
    want: &BlobRef,
    repository: &Repository,
    tell: &watch::Sender<Stage>,
    fetch: Fetch,
    lease: Option<Lease>,
) -> Result<()> {
    let partial = Arc::clone(&fetch.partial);
    let feeding = Feeding(&partial);
    let (sink, mut arrived) = mpsc::channel::<Arrived>(QUEUE);
    let target = Arc::clone(&partial);
    let writing = tokio::task::spawn_blocking(move || {
        let mut result = Ok(());
        while let (Ok(()), Some((offset, bytes))) = (&result, arrived.blocking_recv()) {
            result = target.write(offset, &bytes);
        }
        let result = result.and_then(|()| target.note_all());
        result.inspect_err(|e| target.fail(e))
    });
    let (work, wanted) = (Arc::clone(inner), want.clone());
    let unpacking = tokio::task::spawn_blocking(move || {
        let result = unpack(&work, fetch, &wanted);
        drop(lease);
        result.map(|_| ())
    });
    let blob = Descriptor {
        media_type: want.media_type.clone(),
        digest: want.blob,
        size: want.size,
        platform: None,
        annotations: Default::default(),
    };
    let on_bytes = |done| drop(tell.send_replace(Stage::Downloading(done)));
    let download = Download {
        blob: &blob,
        partial: &partial,
        sink: &sink,
        spare: &inner.slots,
    };
    match repository.download(&download, on_bytes).await {
        // The pipeline must not take the break for the end. It answers with this very error.
        Err(e) => partial.fail(&e),
        Ok(()) => drop(tell.send_replace(Stage::Verifying)),
    }
    drop(sink);
    let cut = |e| Error::new(Kind::Internal, "unpack a layer").caused_by(e);
    let written = writing.await.map_err(cut)?;
    tell.send_replace(Stage::Extracting);
    let unpacked = unpacking.await.map_err(cut)?;
    drop(feeding);
    unpacked.and(written)
}

/// Unpacks a blob that arrives now, and names it. Blocking; nothing is visible unless all of it is as expected, and what is
/// not as expected is not kept for the next pull.
fn unpack(inner: &Arc<Inner>, fetch: Fetch, want: &BlobRef) -> Result<Layer> {
    let expect = Expect {
        blob: Some((want.blob, want.size)),
        diff_id: Some(want.diff_id),
        trust: Trust::Nothing,
    };
    let draft = inner.snapshots.draft()?;
    match pipeline::run(
        Arriving::new(Arc::clone(&fetch.partial)),
        None,
        expect,
        draft.open_tree()?,
    ) {
        Ok(unpacked) => {
            fetch.commit(want.size)?;
            keep(inner, draft, &unpacked, &want.media_type)
        }
        Err(e) => {
            if e.kind() != Kind::Unavailable {
                fetch.discard()?;
            }
            Err(e)
        }
    }
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
