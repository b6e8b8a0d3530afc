//! Pushing: the names asked for → blobs the registry lacks → manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use kelson_formats::Reference;
use kelson_formats::credentials::Credential;

use super::Pushed;
use super::inner::{Inner, blocking};
use super::save;
use super::state::{BlobRef, Entry, ImageRecord, State, lookup_name};
use crate::archive::pack::{Packed, pack};
use crate::archive::save::{Item, manifest_of};
use crate::config::{Compression, PullOptions, PushOptions};
use crate::digest::Digest;
use crate::limits::CONFIG_MAX;
use crate::progress::Progress;
use crate::registry::manifest::{Document, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST, parse};
use crate::registry::referrers::Referrer;
use crate::registry::{Aim, Endpoint, Repository, Uploaded, endpoints};
use crate::{Error, Kind, Result};

/// Other repositories a blob may be mounted from: more would cost more requests than they save.
const MOUNTS_MAX: usize = 3;

/// One layer on its way: what the manifest says of it, and its bytes unless the registry has them anyway.
#[derive(Debug)]
struct Outgoing {
    blob: BlobRef,
    /// Made for this push; a layer without it lies in the store as it is sent.
    packed: Option<Packed>,
    mounts: Vec<String>,
}

/// One image on its way to one place.
#[derive(Debug, Clone, Copy)]
struct Way<'a> {
    inner: &'a Arc<Inner>,
    repository: &'a Repository,
    reference: &'a Reference,
    entry: &'a Entry,
    how: Compression,
}

pub(super) async fn push(
    inner: &Arc<Inner>,
    reference: &Reference,
    options: &PushOptions,
    progress: &(impl Fn(Progress) + Send + Sync),
) -> Result<Vec<Pushed>> {
    if reference.digest().is_some() {
        return Err(Error::invalid("cannot push a digest reference"));
    }
    progress(Progress::line(format!(
        "The push refers to repository [{}]",
        reference.name()
    )));
    let targets = targets(&inner.state(), reference)?;
    let others = {
        let state = inner.state();
        let layers = targets.iter().flat_map(|(_, entry)| &entry.record.layers);
        let found = layers.flat_map(|l| mounts(&state, reference, l.blob));
        found.collect::<BTreeSet<String>>()
    };
    let repository = connect(inner, reference, options, Aim::Push(others.into_iter().collect())).await?;
    let mut done = Vec::new();
    for (reference, entry) in targets {
        done.push(
            push_one(
                inner,
                &repository,
                &reference,
                &entry,
                options.compression,
                progress,
            )
            .await?,
        );
    }
    Ok(done)
}

/// The images and their names: one, or every tag of the repository.
fn targets(state: &State, reference: &Reference) -> Result<Vec<(Reference, Entry)>> {
    let name = reference.name();
    let mut found = Vec::new();
    let mut known = false;
    for (key, record) in state.refs.range(name.clone()..) {
        if !key.starts_with(&name) {
            break;
        }
        let Ok(one) = Reference::parse(key) else { continue };
        if one.name() != name || one.digest().is_some() {
            continue;
        }
        known = true;
        if (reference.is_name_only() || lookup_name(reference) == *key)
            && let Some(entry) = state.images.get(&record.image)
        {
            found.push((one, entry.clone()));
        }
    }
    match (found.is_empty(), known) {
        (false, _) => Ok(found),
        (true, true) => Err(Error::not_found(format!(
            "tag does not exist: {}",
            reference.familiar()
        ))),
        (true, false) => Err(Error::not_found(format!(
            "An image does not exist locally with the tag: {}",
            reference.familiar_name()
        ))),
    }
}

/// Repositories of the same registry that are known to have a blob: an image with it came from or went to there.
fn mounts(state: &State, reference: &Reference, blob: Digest) -> Vec<String> {
    let has = |entry: &Entry| {
        let record = &entry.record;
        record.layers.iter().chain(&record.packed).any(|l| l.blob == blob)
    };
    let holders = state.images.values().filter(|entry| has(entry));
    let names = holders.flat_map(|entry| state.names_of(&entry.record.id));
    let there = names.filter(|name| state.refs.get(name).is_some_and(|r| r.target.is_some()));
    let parsed = there.filter_map(|name| Reference::parse(&name).ok());
    let other = parsed.filter(|r| r.domain() == reference.domain() && r.path() != reference.path());
    let paths: BTreeSet<String> = other.map(|r| r.path().to_owned()).collect();
    paths.into_iter().take(MOUNTS_MAX).collect()
}

async fn connect(
    inner: &Arc<Inner>,
    reference: &Reference,
    options: &PushOptions,
    aim: Aim,
) -> Result<Repository> {
    let config = inner.config();
    // A mirror only ever answers questions.
    let mut endpoints = endpoints(reference.domain(), &config)?;
    endpoints.retain(|e| !e.mirror && e.can.push);
    first(inner, endpoints, reference, options.auth.as_ref(), &aim).await
}

/// The first of these addresses that answers.
async fn first(
    inner: &Inner,
    endpoints: Vec<Endpoint>,
    reference: &Reference,
    auth: Option<&Credential>,
    aim: &Aim,
) -> Result<Repository> {
    let config = inner.config();
    let mut failure = None;
    for endpoint in endpoints {
        match Repository::connect(&inner.transport, &config, endpoint, reference, auth, aim).await {
            Ok(repository) => return Ok(repository),
            Err(e) => failure = Some(e),
        }
    }
    let none = || {
        Error::new(
            Kind::Unavailable,
            format!("no address for {}", reference.domain()),
        )
    };
    Err(failure.unwrap_or_else(none))
}

/// Lists what refers to an image at its registry.
pub(super) async fn referrers(
    inner: &Inner,
    reference: &Reference,
    options: &PullOptions,
    artifact_type: Option<&str>,
) -> Result<Vec<Referrer>> {
    let mut endpoints = endpoints(reference.domain(), &inner.config())?;
    endpoints.retain(|e| !e.mirror);
    let repository = first(inner, endpoints, reference, options.auth.as_ref(), &Aim::Pull).await?;
    let subject = match reference.digest() {
        Some(digest) => Digest::parse(digest)?,
        None => {
            repository
                .manifest(reference.tag().unwrap_or("latest"))
                .await?
                .digest
        }
    };
    repository.referrers(&subject, artifact_type).await
}

async fn push_one(
    inner: &Arc<Inner>,
    repository: &Repository,
    reference: &Reference,
    entry: &Entry,
    how: Compression,
    progress: &(impl Fn(Progress) + Send + Sync),
) -> Result<Pushed> {
    let record = &entry.record;
    let layers = record.layers.iter().flat_map(|l| [l.diff_id, l.blob]);
    let lease = inner
        .lease(layers.chain([record.id]).chain(record.manifest).collect())
        .await;
    let mut item = {
        let (inner, entry) = (Arc::clone(inner), entry.clone());
        blocking(move || save::item(&inner, &entry, Vec::new())).await?
    };
    let way = Way {
        inner,
        repository,
        reference,
        entry,
        how,
    };
    let sent = push_layers(&way, &mut item, progress).await?;
    let config_size = item.config.len() as u64;
    let open = || inner.content.open_blob(&record.id);
    repository
        .push_blob(&record.id, config_size, &[], open, |_| {})
        .await?;
    let manifest = item
        .manifest
        .take()
        .unwrap_or_else(|| manifest_of(&item).to_string().into_bytes());
    let media_type = match parse(&manifest, None)? {
        Document::Manifest(m) => m.media_type,
        Document::Index(_) => OCI_MANIFEST.to_owned(),
    };
    let tag = reference.tag().unwrap_or("latest").to_owned();
    let size = manifest.len() as u64;
    let digest = repository
        .push_manifest(&tag, &media_type, manifest.clone().into())
        .await?;
    note(inner, reference, entry, manifest, sent).await?;
    drop(lease);
    progress(Progress::line(format!("{tag}: digest: {digest} size: {size}")));
    Ok(Pushed { tag, digest, size })
}

/// Brings all layers there, top first as docker shows them; the item then names what was sent.
async fn push_layers(
    way: &Way<'_>,
    item: &mut Item,
    progress: &(impl Fn(Progress) + Send + Sync),
) -> Result<Vec<BlobRef>> {
    let mut once = BTreeMap::new();
    for layer in item.layers.iter().rev() {
        if once.insert(layer.diff_id, layer.clone()).is_none() {
            progress(Progress::of(layer.diff_id.short(), "Preparing"));
        }
    }
    let order = item.layers.iter().rev().filter_map(|l| once.remove(&l.diff_id));
    let order: Vec<BlobRef> = order.collect();
    let sent: Vec<BlobRef> = stream::iter(order)
        .map(|layer| push_layer(way, layer, progress))
        .buffer_unordered(way.inner.config().max_concurrent_uploads.max(1))
        .try_collect()
        .await?;
    let by_content: BTreeMap<Digest, &BlobRef> = sent.iter().map(|l| (l.diff_id, l)).collect();
    for layer in &mut item.layers {
        if let Some(sent) = by_content.get(&layer.diff_id).filter(|s| s.blob != layer.blob) {
            *layer = (*sent).clone();
            // What it came with names the plain blob.
            item.manifest = None;
        }
    }
    Ok(sent)
}

async fn push_layer(
    way: &Way<'_>,
    layer: BlobRef,
    progress: &(impl Fn(Progress) + Send + Sync),
) -> Result<BlobRef> {
    let id = layer.diff_id.short();
    let outgoing = outgoing(way, layer).await?;
    let BlobRef { blob, size, .. } = outgoing.blob;
    let open = || -> Result<File> {
        match &outgoing.packed {
            Some(packed) => packed.draft.reader(),
            None => way.inner.content.open_blob(&blob),
        }
    };
    let tell = |done| progress(Progress::bytes(&*id, "Pushing", done, size));
    let how = way
        .repository
        .push_blob(&blob, size, &outgoing.mounts, open, tell)
        .await?;
    progress(match how {
        Uploaded::Existed => Progress::of(id, "Layer already exists"),
        Uploaded::Mounted(from) => Progress::of(id, format!("Mounted from {from}")),
        Uploaded::Sent => Progress::of(id, "Pushed"),
    });
    Ok(outgoing.blob)
}

/// A layer as it is sent: as it lies in the store, or packed. Packing is left out where the registry has what it would give.
async fn outgoing(way: &Way<'_>, layer: BlobRef) -> Result<Outgoing> {
    let Way {
        inner,
        repository,
        reference,
        entry,
        how,
    } = *way;
    let media_type = match how {
        Compression::Gzip => OCI_LAYER_GZIP,
        Compression::Zstd => OCI_LAYER_ZSTD,
    };
    let known_at = |blob: &BlobRef| mounts(&inner.state(), reference, blob.blob);
    if !is_plain(&layer) {
        let mounts = known_at(&layer);
        return Ok(Outgoing {
            blob: layer,
            packed: None,
            mounts,
        });
    }
    let fits = |p: &&BlobRef| p.diff_id == layer.diff_id && p.media_type == media_type;
    let remembered = entry.record.packed.iter().find(fits);
    if let Some(blob) = remembered
        && repository.has_blob(&blob.blob).await?
    {
        return Ok(Outgoing {
            blob: blob.clone(),
            packed: None,
            mounts: Vec::new(),
        });
    }
    let packed = pack(inner.content.open_blob(&layer.blob)?, inner.content.draft()?, how).await?;
    let blob = BlobRef {
        diff_id: layer.diff_id,
        blob: packed.digest,
        size: packed.size,
        media_type: media_type.to_owned(),
    };
    let mounts = known_at(&blob);
    Ok(Outgoing {
        blob,
        packed: Some(packed),
        mounts,
    })
}

fn is_plain(layer: &BlobRef) -> bool {
    !layer.media_type.ends_with("gzip") && !layer.media_type.ends_with("zstd")
}

/// Records where the image is now, and what its plain layers became.
async fn note(
    inner: &Arc<Inner>,
    reference: &Reference,
    entry: &Entry,
    manifest: Vec<u8>,
    sent: Vec<BlobRef>,
) -> Result<()> {
    let digest = Digest::of(&manifest);
    let name = reference.with_digest(&digest.to_string())?;
    let id = entry.record.id;
    let packed: Vec<BlobRef> = sent
        .into_iter()
        .filter(|s| {
            entry
                .record
                .layers
                .iter()
                .any(|l| l.diff_id == s.diff_id && is_plain(l))
        })
        .collect();
    let inner = Arc::clone(inner);
    blocking(move || {
        let _writer = inner.writer();
        // Removed while it was pushed: then there is nothing to note.
        let Some(record) = inner.state().images.get(&id).map(|e| e.record.clone()) else {
            return Ok(());
        };
        // What another packing gave is still true.
        let others = record
            .packed
            .iter()
            .filter(|old| packed.iter().all(|p| p.media_type != old.media_type));
        let packed: Vec<BlobRef> = others.cloned().chain(packed.iter().cloned()).collect();
        if record.packed != packed {
            let config = inner.content.read(&id, CONFIG_MAX)?;
            inner.store_image(ImageRecord { packed, ..record }, &config)?;
        }
        inner.content.put(&manifest)?;
        inner.store_ref(lookup_name(&name), id, Some(digest)).map(drop)
    })
    .await
}
