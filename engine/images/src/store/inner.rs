//! The store's parts held together: opening, records, leases, and removing what nobody needs.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, Weak};

use tokio::sync::{Notify, Semaphore};

use super::flight::Flights;
use super::rebuild::{self, Lost};
use super::state::{BlobRef, Entry, ImageRecord, PULL_KEPT, PullRecord, RefRecord, State};
use crate::config::ImagesConfig;
use crate::content::Content;
use crate::digest::{Digest, ImageId};
use crate::error::Doing;
use crate::files::{self, Durable};
use crate::image::{ImageData, layers_of, parse_config};
use crate::limits::CONFIG_MAX;
use crate::registry::Transport;
use crate::snapshots::{self, Found, Snapshots};
use crate::{Error, Kind, Result};

/// Everything behind [`crate::Images`].
#[derive(Debug)]
pub(crate) struct Inner {
    pub content: Arc<Content>,
    pub snapshots: Snapshots,
    pub transport: Arc<Transport>,
    pub config: RwLock<Arc<ImagesConfig>>,
    pub flights: Flights,
    /// Layers fetched and unpacked at the same time, over all pulls.
    pub slots: Arc<Semaphore>,
    /// Writers of records, one after another. Readers never take it.
    writer: Mutex<()>,
    state: Mutex<State>,
    deleted: Notify,
    syncing: Mutex<bool>,
    /// DATA_ROOT.
    pub root: PathBuf,
    refs: PathBuf,
    ids: PathBuf,
    pulls: PathBuf,
}

/// Runs disk work where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(Error::new(Kind::Internal, "image store work was cut short").caused_by(e)),
    }
}

/// A name as a file name: readable where it fits, else by digest.
fn file_of(name: &str) -> String {
    use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
    const UNSAFE: &AsciiSet = &CONTROLS.add(b'/').add(b'%');
    let encoded = utf8_percent_encode(name, UNSAFE).to_string();
    if encoded.len() <= 200 {
        format!("{encoded}.json")
    } else {
        format!("{}.json", Digest::of(name.as_bytes()).hex())
    }
}

impl Inner {
    pub fn open(root: &Path, config: ImagesConfig) -> Result<Arc<Self>> {
        snapshots::check_root(root)?;
        let images = root.join("images");
        let (refs, ids, pulls) = (images.join("refs"), images.join("ids"), images.join("pulls"));
        [&refs, &ids, &pulls]
            .into_iter()
            .try_for_each(|dir| files::make_dir(dir, 0o700))?;
        let content = Arc::new(Content::open(&root.join("content"))?);
        let (snapshots, found) = Snapshots::open(&root.join("snapshots"), config.storage_driver)?;
        let mut state = State::default();
        let refs_found = read_all::<RefRecord>(&refs)?;
        let mut records = read_all::<ImageRecord>(&ids)?;
        if let Some(lost) = lost(&records, &refs_found, &found) {
            for record in rebuild::records(&content, &found.layers, &lost)? {
                files::write_record(&ids, &id_file(&record.id), &record, Durable::Yes)?;
                records.push(record);
            }
        }
        for record in records {
            // An image whose configuration is damaged or gone cannot be used or shown; a new pull repairs it.
            match load_data(&content, &record) {
                Ok(data) => state.put_image(Entry {
                    record,
                    data: Arc::new(data),
                }),
                Err(e) => {
                    tracing::warn!(image = %record.id, error = %e, "image left out: its configuration cannot be read")
                }
            }
        }
        for record in refs_found {
            if state.images.contains_key(&record.image) {
                state.put_ref(record);
            }
        }
        for record in read_all::<PullRecord>(&pulls)? {
            if record.begun + PULL_KEPT < files::now() {
                files::remove_file(&pulls.join(pull_file(&record.manifest)))?;
            } else {
                state.put_pull(record);
            }
        }
        found.containers.into_iter().for_each(|c| state.put_container(c));
        for layer in found.layers {
            if state.is_needed(&layer.diff_id) && !state.layers.contains_key(&layer.diff_id) {
                state.layers.insert(layer.diff_id, layer);
            } else {
                snapshots.remove(layer.number)?;
            }
        }
        content.sweep(|digest| state.is_needed(digest))?;
        let slots = Arc::new(Semaphore::new(config.max_concurrent_downloads.max(1)));
        let inner = Arc::new(Self {
            content,
            snapshots,
            transport: Arc::default(),
            config: RwLock::new(Arc::new(config)),
            flights: Flights::default(),
            slots,
            writer: Mutex::default(),
            state: Mutex::new(state),
            deleted: Notify::new(),
            syncing: Mutex::new(false),
            root: root.to_owned(),
            refs,
            ids,
            pulls,
        });
        inner.restore_layers();
        let sizes: Vec<Entry> = inner.state().images.values().cloned().collect();
        sizes.into_iter().for_each(|entry| inner.refresh_size(entry));
        Ok(inner)
    }

    /// The maps. Never hold this over I/O or an await.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The turn to change records. Taken on blocking threads, held over the disk.
    pub fn writer(&self) -> MutexGuard<'_, ()> {
        self.writer
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn config(&self) -> Arc<ImagesConfig> {
        Arc::clone(
            &self
                .config
                .read()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }

    /// Unpacks again what a power cut took from images that still have their blobs. Rare, so it may take its time here.
    fn restore_layers(self: &Arc<Self>) {
        let missing: Vec<BlobRef> = {
            let state = self.state();
            let all = state.images.values().flat_map(|entry| &entry.record.layers);
            all.filter(|l| !state.layers.contains_key(&l.diff_id))
                .cloned()
                .collect()
        };
        for layer in missing {
            let here =
                !self.state().layers.contains_key(&layer.diff_id) && self.content.size(&layer.blob).is_some();
            if here && let Err(e) = super::flight::unpack_stored(self, &layer) {
                tracing::warn!(layer = %layer.diff_id, error = %e, "layer could not be restored");
            }
        }
    }

    /// An image's size is the sum of its layers', which are known only when they are unpacked.
    fn refresh_size(&self, entry: Entry) {
        let size = self.size_of(&entry.record);
        if size != entry.data.size {
            let old = entry.data;
            let data = ImageData {
                id: old.id,
                config: old.config.clone(),
                raw: old.raw.clone(),
                layers: old.layers.clone(),
                size,
            };
            self.state().put_image(Entry {
                record: entry.record,
                data: Arc::new(data),
            });
        }
    }

    fn size_of(&self, record: &ImageRecord) -> u64 {
        let state = self.state();
        record
            .layers
            .iter()
            .filter_map(|l| state.layers.get(&l.diff_id))
            .map(|l| l.size)
            .sum()
    }

    /// The blob an image's layer has on the disk: its own, or the one another image brought the same content in. A record must
    /// name the latter, or it would go with that image.
    fn blob_on_disk(&self, layer: BlobRef) -> BlobRef {
        if self.content.size(&layer.blob).is_some() {
            return layer;
        }
        let twin = self.state().layers.get(&layer.diff_id).cloned();
        match twin.filter(|l| self.content.size(&l.blob) == Some(l.blob_size)) {
            Some(l) => BlobRef {
                diff_id: l.diff_id,
                blob: l.blob,
                size: l.blob_size,
                media_type: l.media_type,
            },
            None => layer,
        }
    }

    /// Makes an image known: its record first, then the map. The caller has the writer's turn.
    pub fn store_image(&self, record: ImageRecord, config: &[u8]) -> Result<Entry> {
        let layers = record.layers.into_iter().map(|l| self.blob_on_disk(l)).collect();
        let record = ImageRecord { layers, ..record };
        let (config, raw) = parse_config(config)?;
        let layers = layers_of(&config)?;
        let data = ImageData {
            id: record.id,
            config,
            raw,
            layers,
            size: self.size_of(&record),
        };
        let old = self.state().images.get(&record.id).map(|e| e.record.clone());
        // The same image stored again keeps its dates; it may have another manifest now.
        let record = match old {
            Some(old) => ImageRecord {
                stored: old.stored,
                last_used: old.last_used,
                ..record
            },
            None => record,
        };
        files::write_record(&self.ids, &id_file(&record.id), &record, Durable::Yes)?;
        let entry = Entry {
            record,
            data: Arc::new(data),
        };
        self.state().put_image(entry.clone());
        Ok(entry)
    }

    /// Points a name at an image; whether that is news.
    pub fn store_ref(&self, name: String, image: ImageId, target: Option<Digest>) -> Result<bool> {
        let same = self
            .state()
            .refs
            .get(&name)
            .is_some_and(|r| r.image == image && r.target == target);
        if same {
            return Ok(false);
        }
        let record = RefRecord {
            format: files::FORMAT,
            reference: name,
            image,
            target,
            updated: files::now(),
        };
        files::write_record(&self.refs, &file_of(&record.reference), &record, Durable::Yes)?;
        let old = self.state().put_ref(record);
        Ok(old.is_none_or(|old| old.image != image))
    }

    /// Forgets a name.
    pub fn drop_ref(&self, name: &str) -> Result<Option<RefRecord>> {
        files::remove_file(&self.refs.join(file_of(name)))?;
        Ok(self.state().take_ref(name))
    }

    /// Forgets an image; what it needed.
    pub fn drop_image(&self, id: &ImageId) -> Result<Vec<Digest>> {
        files::remove_file(&self.ids.join(id_file(id)))?;
        let Some(entry) = self.state().take_image(id) else {
            return Ok(Vec::new());
        };
        let layers = entry.record.layers.iter().flat_map(|l| [l.diff_id, l.blob]);
        Ok(layers.chain([*id]).chain(entry.record.manifest).collect())
    }

    /// Notes what a pull needs, before it fetches any of it.
    pub fn begin_pull(&self, record: PullRecord) -> Result<()> {
        files::write_record(&self.pulls, &pull_file(&record.manifest), &record, Durable::No)?;
        self.state().put_pull(record);
        Ok(())
    }

    /// Forgets a pull; what only it needed is the caller's to collect.
    pub fn end_pull(&self, manifest: &Digest) -> Result<Vec<Digest>> {
        files::remove_file(&self.pulls.join(pull_file(manifest)))?;
        let record = self.state().take_pull(manifest);
        Ok(record.map(|r| r.needs).unwrap_or_default())
    }

    /// Forgets the pulls nobody goes on with: those begun before this moment. The bytes that were freed. Blocking.
    pub fn forget_pulls(&self, before: i64) -> Result<u64> {
        let needs = {
            let _writer = self.writer();
            let idle: Vec<Digest> = {
                let state = self.state();
                let idle = |p: &&PullRecord| p.begun <= before && !state.is_leased(&p.manifest);
                state.pulls.values().filter(idle).map(|p| p.manifest).collect()
            };
            let needs: Result<Vec<_>> = idle.iter().map(|manifest| self.end_pull(manifest)).collect();
            needs?.concat()
        };
        self.collect(&needs)
    }

    /// Notes a use; lost by a crash at worst, so it is not flushed, nor written at all while another writes records: beside a
    /// removal it would bring the record back, and this must not wait for one.
    pub fn touch(&self, id: &ImageId) -> Result<()> {
        let turn = self.writer.try_lock();
        let record = {
            let mut state = self.state();
            let Some(entry) = state.images.get_mut(id) else {
                return Ok(());
            };
            entry.record.last_used = files::now();
            entry.record.clone()
        };
        if matches!(turn, Err(std::sync::TryLockError::WouldBlock)) {
            return Ok(());
        }
        files::write_record(&self.ids, &id_file(id), &record, Durable::No)
    }

    /// Removes those of these blobs and layers that nothing needs; the bytes that were freed. Blocking, for as long as large
    /// trees take: not to be called in the writer's turn.
    ///
    /// Marked under the lock, removed outside it: a pull that wants one in between waits for the mark to go.
    pub fn collect(&self, digests: &[Digest]) -> Result<u64> {
        let (garbage, layers) = {
            let mut state = self.state();
            let mut garbage: Vec<Digest> = digests.iter().copied().filter(|d| !state.is_needed(d)).collect();
            garbage.sort_unstable();
            garbage.dedup();
            garbage.retain(|d| state.deleting.insert(*d));
            let layers: Vec<_> = garbage.iter().filter_map(|d| state.layers.remove(d)).collect();
            (garbage, layers)
        };
        let mut freed = 0;
        let mut failure = None;
        for layer in layers {
            match self.snapshots.remove(layer.number) {
                Ok(()) => freed += layer.size,
                Err(e) => failure = Some(e),
            }
        }
        for digest in &garbage {
            match self.content.remove(digest) {
                Ok(bytes) => freed += bytes,
                Err(e) => failure = Some(e),
            }
        }
        let mut state = self.state();
        state.deleting.retain(|d| !garbage.contains(d));
        drop(state);
        self.deleted.notify_waiters();
        failure.map_or(Ok(freed), Err)
    }

    /// Keeps blobs and layers from being collected until the lease ends.
    pub async fn lease(self: &Arc<Self>, digests: Vec<Digest>) -> Lease {
        loop {
            let deleted = self.deleted.notified();
            tokio::pin!(deleted);
            // Registered before looking, so that an end in between is not missed.
            deleted.as_mut().enable();
            if self.state().lease(&digests) {
                return Lease {
                    inner: Arc::clone(self),
                    digests,
                };
            }
            deleted.await;
        }
    }

    /// Flushes new layers in the background; one flush at a time, and another if layers came meanwhile.
    pub fn sync_soon(self: &Arc<Self>) {
        let mut syncing = self
            .syncing
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if std::mem::replace(&mut *syncing, true) {
            return;
        }
        drop(syncing);
        let weak: Weak<Self> = Arc::downgrade(self);
        let run = move || {
            while let Some(inner) = weak.upgrade() {
                let fresh = {
                    // Under this lock: a layer that comes later starts a flush of its own.
                    let mut syncing = inner
                        .syncing
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner);
                    let state = inner.state();
                    let fresh: Vec<_> = state
                        .layers
                        .values()
                        .filter(|l| l.boot_id.is_some())
                        .cloned()
                        .collect();
                    *syncing = !fresh.is_empty();
                    fresh
                };
                if fresh.is_empty() {
                    return;
                }
                let safe = inner.snapshots.sync(fresh).unwrap_or_else(|e| {
                    tracing::warn!(error = %e, "new layers could not be flushed; after a reboot they are unpacked again");
                    Vec::new()
                });
                if safe.is_empty() {
                    // No progress: the next layer tries again.
                    *inner
                        .syncing
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner) = false;
                    return;
                }
                inner.mark_safe(safe);
            }
        };
        // A thread of its own: a flush takes as long as the disk wants, and a runtime's end must not wait for it.
        if let Err(e) = std::thread::Builder::new().name("layer-sync".into()).spawn(run) {
            tracing::warn!(error = %e, "no thread to flush new layers");
        }
    }

    fn mark_safe(&self, safe: Vec<snapshots::Layer>) {
        let mut state = self.state();
        for layer in safe {
            if let Some(slot) = state.layers.get_mut(&layer.diff_id)
                && slot.number == layer.number
            {
                slot.boot_id = None;
            }
        }
    }
}

fn id_file(id: &ImageId) -> String {
    format!("{}.json", id.hex())
}

/// Which images have lost their records: those that a name or container points to, or all when there is no record at all.
fn lost(records: &[ImageRecord], refs: &[RefRecord], found: &Found) -> Option<Lost> {
    if records.is_empty() && (!refs.is_empty() || !found.layers.is_empty()) {
        return Some(Lost::All);
    }
    let here: HashSet<ImageId> = records.iter().map(|r| r.id).collect();
    let wanted = refs.iter().map(|r| r.image);
    let gone: BTreeSet<ImageId> = wanted.filter(|id| !here.contains(id)).collect();
    (!gone.is_empty()).then_some(Lost::Some(gone))
}

fn pull_file(manifest: &Digest) -> String {
    format!("{}.json", manifest.hex())
}

/// Reads every record of a directory; one that does not parse is left out and told, one of a newer format refused.
fn read_all<T: serde::de::DeserializeOwned>(dir: &Path) -> Result<Vec<T>> {
    let doing = || format!("list {}", dir.display());
    let mut records = Vec::new();
    for entry in std::fs::read_dir(dir).doing(doing)? {
        let path = entry.doing(doing)?.path();
        if path.extension().is_none_or(|e| e != "json") {
            // A temporary file of a write that a crash cut short.
            files::remove_file(&path)?;
            continue;
        }
        match files::read_record(&path) {
            Ok(record) => records.extend(record),
            Err(e) if e.kind() == Kind::Invalid => tracing::warn!(error = %e, "record left out"),
            Err(e) => return Err(e),
        }
    }
    Ok(records)
}

fn load_data(content: &Content, record: &ImageRecord) -> Result<ImageData> {
    let bytes = content.read(&record.id, CONFIG_MAX)?;
    let (config, raw) = parse_config(&bytes)?;
    let layers = layers_of(&config)?;
    Ok(ImageData {
        id: record.id,
        config,
        raw,
        layers,
        size: 0,
    })
}

/// Blobs and layers somebody is working with.
#[derive(Debug)]
pub(crate) struct Lease {
    inner: Arc<Inner>,
    digests: Vec<Digest>,
}

impl Lease {
    /// Ends the lease and removes, before it returns, what nothing else needs. Blocking.
    pub fn end(mut self) -> Result<u64> {
        let digests = std::mem::take(&mut self.digests);
        self.inner.state().unlease(&digests);
        self.inner.collect(&digests)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let digests = std::mem::take(&mut self.digests);
        if digests.is_empty() {
            return;
        }
        let inner = Arc::clone(&self.inner);
        inner.state().unlease(&digests);
        let unneeded = {
            let state = inner.state();
            digests.iter().any(|d| !state.is_needed(d))
        };
        if !unneeded {
            return;
        }
        let collect = move || {
            if let Err(e) = inner.collect(&digests) {
                tracing::warn!(error = %e, "unneeded blobs stay until the next start");
            }
        };
        // The pull was dropped (its client went away), maybe on an async thread: removing trees is not for that.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(collect)),
            Err(_) => collect(),
        }
    }
}
