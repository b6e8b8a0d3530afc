//! Saving: which images, under which names, from which blobs.

use std::sync::Arc;

use kelson_formats::Reference;
use tokio::io::AsyncWrite;
use tokio_util::io::SyncIoBridge;

use super::inner::{Inner, blocking};
use super::state::{Entry, lookup_name};
use crate::archive::save::{Item, write};
use crate::digest::Digest;
use crate::limits::{CONFIG_MAX, MANIFEST_MAX};
use crate::registry::manifest::{DescriptorPlatform, Document, parse};
use crate::{Error, Result};

pub(super) async fn save(
    inner: &Arc<Inner>,
    names: &[String],
    out: impl AsyncWrite + Send + Unpin + 'static,
) -> Result<()> {
    let mut wanted: Vec<(Entry, Vec<Reference>)> = Vec::new();
    for name in names {
        let state = inner.state();
        let entry = state.find(name)?.clone();
        let by_name = Reference::parse(name)
            .ok()
            .filter(|r| state.refs.contains_key(&lookup_name(r)));
        let by_name = by_name.map(Reference::with_default_tag);
        // A repository alone means all its tags in docker's `save`; by id an image has no name.
        match wanted.iter_mut().find(|(e, _)| e.record.id == entry.record.id) {
            Some((_, references)) => references.extend(by_name.filter(|r| r.digest().is_none())),
            None => wanted.push((
                entry,
                by_name.into_iter().filter(|r| r.digest().is_none()).collect(),
            )),
        }
    }
    let digests = wanted.iter().flat_map(|(entry, _)| {
        let layers = entry.record.layers.iter().flat_map(|l| [l.diff_id, l.blob]);
        layers
            .chain([entry.record.id])
            .chain(entry.record.manifest)
            .collect::<Vec<Digest>>()
    });
    let lease = inner.lease(digests.collect()).await;
    let mut out = SyncIoBridge::new(out);
    let inner = Arc::clone(inner);
    blocking(move || {
        let items = wanted
            .into_iter()
            .map(|(entry, references)| item(&inner, &entry, references));
        let items = items.collect::<Result<Vec<_>>>()?;
        write(items, &inner.content, &mut out)?;
        let ended = out.shutdown();
        ended.map_err(|e| Error::new(crate::Kind::Internal, "write the archive").caused_by(e))?;
        drop(lease);
        Ok(())
    })
    .await
}

/// An image with what describes it: its own manifest only where that names the blobs we have.
pub(super) fn item(inner: &Inner, entry: &Entry, references: Vec<Reference>) -> Result<Item> {
    let record = &entry.record;
    let layers = record.layers.clone();
    let manifest = match record.manifest {
        Some(digest) => inner.content.read(&digest, MANIFEST_MAX).ok(),
        None => None,
    };
    // Another image may have brought a layer in another packing (see `Inner::blob_on_disk`); then the manifest that came does
    // not describe what we have.
    let fits = |bytes: &Vec<u8>| match parse(bytes, None) {
        Ok(Document::Manifest(m)) => m
            .layers
            .iter()
            .map(|l| l.digest)
            .eq(layers.iter().map(|l| l.blob)),
        _ => false,
    };
    let config = &entry.data.config;
    Ok(Item {
        references,
        id: record.id,
        config: inner.content.read(&record.id, CONFIG_MAX)?,
        platform: DescriptorPlatform {
            architecture: config.architecture().to_string(),
            os: config.os().to_string(),
            variant: config.variant().clone(),
        },
        manifest: manifest.filter(fits),
        layers,
    })
}
