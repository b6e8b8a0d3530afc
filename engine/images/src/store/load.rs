//! Loading archives, importing root file systems, and the image the daemon carries itself.

use std::collections::{HashMap, VecDeque};
use std::io::Read;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::AsyncRead;
use tokio_util::io::SyncIoBridge;

use super::flight::keep;
use super::inner::{Inner, Lease, blocking};
use super::state::{BlobRef, ImageRecord, lookup_name};
use super::{EmbeddedImage, ImportOptions, Loaded};
use crate::archive::changes;
use crate::archive::layout::{self, Found, FoundLayer};
use crate::archive::spool::Spool;
use crate::config::Platform;
use crate::content::BlobDraft;
use crate::digest::{Digest, ImageId};
use crate::files;
use crate::unpack::inflate::Packing;
use crate::unpack::pipeline::{self, Chunks, Expect, FileChunks, Trust};
use crate::{Error, Kind, Result};

/// Says which build of the embedded program an image holds.
const EMBEDDED_LABEL: &str = "io.kelson.embedded";

/// Loads an archive: spool, read what it says, unpack all layers, then store. Nothing is visible before all of it is good.
pub(super) async fn load(
    inner: &Arc<Inner>,
    archive: impl AsyncRead + Send + Unpin + 'static,
) -> Result<Vec<Loaded>> {
    let archive = SyncIoBridge::new(archive);
    let work = Arc::clone(inner);
    let (spool, found) = blocking(move || {
        let spool = Spool::read(archive, &work.content)?;
        let found = layout::read(&spool)?;
        Ok((spool, found))
    })
    .await?;
    let lease = inner.lease(found.iter().flat_map(digests).collect()).await;
    let work = Arc::clone(inner);
    blocking(move || {
        let stored = store_all(&work, &spool, &found).and_then(|()| {
            let mut drafts = spool.into_drafts();
            let _writer = work.writer();
            found
                .into_iter()
                .map(|image| store_one(&work, image, &mut drafts))
                .collect::<Result<Vec<_>>>()
        });
        lease.end()?;
        stored
    })
    .await
}

fn digests(found: &Found) -> Vec<Digest> {
    let layers = found.layers.iter().flat_map(|l| [l.blob.diff_id, l.blob.blob]);
    layers.chain([found.id]).chain(found.manifest).collect()
}

/// Unpacks every layer that is not there, several at a time.
fn store_all(inner: &Arc<Inner>, spool: &Spool, found: &[Found]) -> Result<()> {
    let mut queue: VecDeque<&FoundLayer> = VecDeque::new();
    for layer in found.iter().flat_map(|image| &image.layers) {
        let known = inner.state().layers.contains_key(&layer.blob.diff_id);
        if !known && !queue.iter().any(|l| l.blob.diff_id == layer.blob.diff_id) {
            queue.push_back(layer);
        }
    }
    let workers = inner
        .config()
        .max_concurrent_downloads
        .clamp(1, queue.len().max(1));
    let queue = Mutex::new(queue);
    let by_digest = spool.by_digest();
    let next = || {
        queue
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .pop_front()
    };
    let work = || -> Result<()> {
        while let Some(layer) = next() {
            let file = by_digest
                .get(&layer.blob.blob)
                .ok_or_else(|| Error::invalid("the archive lost a layer"))?;
            unpack(inner, file.draft.reader()?, layer)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..workers).map(|_| scope.spawn(work)).collect();
        let mut result = work();
        for thread in threads {
            let joined = thread
                .join()
                .unwrap_or_else(|_| Err(Error::new(Kind::Internal, "an unpacking thread panicked")));
            result = result.and(joined);
        }
        result
    })
}

fn unpack(inner: &Arc<Inner>, file: impl Read + Send, layer: &FoundLayer) -> Result<()> {
    let trust = if layer.packing == Packing::Plain {
        Trust::Tar
    } else {
        Trust::Blob
    };
    let blob = &layer.blob;
    let expect = Expect {
        blob: Some((blob.blob, blob.size)),
        diff_id: Some(blob.diff_id),
        trust,
    };
    let draft = inner.snapshots.draft()?;
    let unpacked = pipeline::run(FileChunks(file), None, expect, draft.open_tree()?)?;
    keep(inner, draft, &unpacked, &blob.media_type).map(|_| ())
}

/// Blobs, then the record, then the names.
fn store_one(inner: &Arc<Inner>, found: Found, drafts: &mut HashMap<Digest, BlobDraft>) -> Result<Loaded> {
    for digest in digests(&found) {
        if let Some(draft) = drafts.remove(&digest) {
            // The record that follows is flushed, and without its configuration it would be lost with the power. Layers are
            // larger and flushed in the background.
            if digest == found.id || Some(digest) == found.manifest {
                draft.sync()?;
            }
            inner.content.commit(draft, &digest)?;
        }
    }
    inner.content.put(&found.config)?;
    let record = new_record(
        found.id,
        found.manifest,
        found.layers.into_iter().map(|l| l.blob).collect(),
    );
    inner.store_image(record, &found.config)?;
    for reference in &found.references {
        inner.store_ref(lookup_name(reference), found.id, found.manifest)?;
    }
    Ok(Loaded {
        references: found.references,
        id: found.id,
    })
}

pub(super) fn new_record(id: ImageId, manifest: Option<Digest>, layers: Vec<BlobRef>) -> ImageRecord {
    ImageRecord {
        format: files::FORMAT,
        id,
        manifest,
        layers,
        packed: Vec::new(),
        parent: None,
        stored: files::now(),
        last_used: files::now(),
    }
}

/// One layer of unknown digest, unpacked and stored; leased until the caller has a record for it.
pub(super) fn take_layer(inner: &Arc<Inner>, input: impl Chunks + Send) -> Result<(BlobRef, Lease)> {
    let mut blob = inner.content.draft()?;
    let draft = inner.snapshots.draft()?;
    let expect = Expect {
        blob: None,
        diff_id: None,
        trust: Trust::Nothing,
    };
    let unpacked = pipeline::run(input, Some(&mut blob), expect, draft.open_tree()?)?;
    // On a blocking thread: waiting here is allowed.
    let runtime = tokio::runtime::Handle::current();
    let lease = runtime.block_on(inner.lease(vec![unpacked.blob, unpacked.diff_id]));
    inner.content.commit(blob, &unpacked.blob)?;
    let media_type = layout::media_type(unpacked.packing);
    keep(inner, draft, &unpacked, media_type)?;
    let blob = BlobRef {
        diff_id: unpacked.diff_id,
        blob: unpacked.blob,
        size: unpacked.blob_size,
        media_type: media_type.to_owned(),
    };
    Ok((blob, lease))
}

/// Imports a root file system.
pub(super) async fn import(
    inner: &Arc<Inner>,
    rootfs: impl AsyncRead + Send + Unpin + 'static,
    options: ImportOptions,
) -> Result<ImageId> {
    if options.reference.as_ref().is_some_and(|r| r.digest().is_some()) {
        return Err(Error::invalid("cannot import digest reference"));
    }
    let mut run = serde_json::Map::new();
    // Before a byte is read: a bad change must cost nothing.
    changes::apply(&mut run, &options.changes)?;
    let rootfs = SyncIoBridge::new(rootfs);
    let work = Arc::clone(inner);
    blocking(move || {
        let (layer, lease) = take_layer(&work, FileChunks(rootfs))?;
        let created = jiff::Timestamp::now().to_string();
        let platform = options.platform.unwrap_or_else(Platform::host);
        let comment = if options.message.is_empty() {
            "Imported from -".to_owned()
        } else {
            options.message
        };
        let mut config = base_config(&platform, &layer, Value::Object(run));
        config["created"] = json!(created);
        config["history"] = json!([{"created": created, "comment": comment}]);
        let name = options.reference.map(|r| lookup_name(&r));
        let id = store_config(&work, &config, layer, name)?;
        lease.end()?;
        Ok(id)
    })
    .await
}

fn base_config(platform: &Platform, layer: &BlobRef, run: Value) -> Value {
    let mut config = json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "config": run,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
    });
    if let Some(variant) = &platform.variant {
        config["variant"] = json!(variant);
    }
    config
}

fn store_config(inner: &Arc<Inner>, config: &Value, layer: BlobRef, name: Option<String>) -> Result<ImageId> {
    let _writer = inner.writer();
    // Keys are sorted, so the same content is the same id.
    let bytes = config.to_string().into_bytes();
    let id = inner.content.put(&bytes)?;
    inner.store_image(new_record(id, None, vec![layer]), &bytes)?;
    if let Some(name) = name {
        inner.store_ref(name, id, None)?;
    }
    Ok(id)
}

/// Makes the embedded image, or leaves it be when this very program is in it. A name the user gave to something else stays his.
pub(super) async fn ensure_embedded(inner: &Arc<Inner>, image: EmbeddedImage<'_>) -> Result<ImageId> {
    let reference = kelson_formats::Reference::parse(image.name)?.with_default_tag();
    let name = lookup_name(&reference);
    let build = Digest::of(image.binary).to_string();
    {
        let state = inner.state();
        if let Some(entry) = state.refs.get(&name).and_then(|r| state.images.get(&r.image)) {
            let labels = entry.data.config.labels_of_config();
            let label = labels.and_then(|l| l.get(EMBEDDED_LABEL));
            let complete = entry
                .data
                .layers
                .iter()
                .all(|l| state.layers.contains_key(&l.diff_id));
            if label.is_none_or(|l| *l == build) && complete {
                return Ok(entry.record.id);
            }
        }
    }
    let tar = program_tar(image.path, image.binary)?;
    let entrypoint: Vec<&str> = vec![image.path];
    let ports: serde_json::Map<_, _> = image
        .exposed_ports
        .iter()
        .map(|p| ((*p).to_owned(), json!({})))
        .collect();
    let mut labels: serde_json::Map<_, _> = image
        .labels
        .iter()
        .map(|(k, v)| ((*k).to_owned(), json!(v)))
        .collect();
    labels.insert(EMBEDDED_LABEL.to_owned(), json!(build));
    let mut run = json!({
        "Entrypoint": entrypoint, "Cmd": image.cmd, "ExposedPorts": ports, "Labels": labels,
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "WorkingDir": "/",
    });
    if !image.stop_signal.is_empty() {
        run["StopSignal"] = json!(image.stop_signal);
    }
    let work = Arc::clone(inner);
    let created = image.created.to_owned();
    blocking(move || {
        let (layer, lease) = take_layer(&work, FileChunks(tar.as_slice()))?;
        let mut config = base_config(&Platform::host(), &layer, run);
        config["created"] = json!(created);
        config["history"] =
            json!([{"created": created, "created_by": "embedded in kelsond", "comment": "kelson"}]);
        let id = store_config(&work, &config, layer, Some(name))?;
        lease.end()?;
        work.sync_soon();
        Ok(id)
    })
    .await
}

/// The same program gives the same bytes: no times, no owners, and the directories on the way listed.
fn program_tar(path: &str, binary: &[u8]) -> Result<Vec<u8>> {
    let failed = |e: std::io::Error| Error::new(Kind::Internal, "pack the embedded program").caused_by(e);
    let mut tar = ::tar::Builder::new(Vec::with_capacity(binary.len() + 4096));
    let mut add = |name: &str, kind, mode, data: &[u8]| {
        let mut header = ::tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(data.len() as u64);
        tar.append_data(&mut header, name, data).map_err(failed)
    };
    let path = path.trim_matches('/');
    for (slash, _) in path.match_indices('/') {
        add(
            &format!("{}/", &path[..slash]),
            ::tar::EntryType::Directory,
            0o755,
            &[],
        )?;
    }
    add(path, ::tar::EntryType::Regular, 0o755, binary)?;
    tar.into_inner().map_err(failed)
}
