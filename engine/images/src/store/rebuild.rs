//! `images/ids/` is an index: all of it can be had again from the blobs and the layers' own records. What cannot be had again is
//! who named an image what, which is `images/refs/`.

use std::collections::{BTreeSet, HashMap};

use super::state::{BlobRef, ImageRecord};
use crate::content::Content;
use crate::digest::{Digest, ImageId};
use crate::files;
use crate::image::{layers_of, parse_config};
use crate::limits::{CONFIG_MAX, MANIFEST_MAX};
use crate::registry::manifest::{Descriptor, Document, parse};
use crate::snapshots::Layer;
use crate::{Error, Result};

/// Which records are to be made again.
#[derive(Debug)]
pub(super) enum Lost {
    /// Those of these images.
    Some(BTreeSet<ImageId>),
    /// Those of every image that is on the disk.
    All,
}

/// Makes records again. An image of which something is gone gets none.
///
/// # Errors
/// `Internal` when the blobs cannot be listed.
pub(super) fn records(content: &Content, layers: &[Layer], lost: &Lost) -> Result<Vec<ImageRecord>> {
    let layers: HashMap<Digest, &Layer> = layers.iter().map(|l| (l.diff_id, l)).collect();
    let mut configs: HashMap<ImageId, Vec<u8>> = HashMap::new();
    let mut manifests: HashMap<ImageId, (Digest, Vec<Descriptor>)> = HashMap::new();
    for digest in content.list()?.0 {
        if content
            .size(&digest)
            .is_none_or(|size| size > MANIFEST_MAX.max(CONFIG_MAX))
        {
            continue;
        }
        let Ok(bytes) = content.read(&digest, CONFIG_MAX) else {
            continue;
        };
        if !bytes.starts_with(b"{") {
            // A small layer.
        } else if let Ok(Document::Manifest(manifest)) = parse(&bytes, None) {
            manifests.insert(manifest.config.digest, (digest, manifest.layers));
        } else if parse_config(&bytes).is_ok() {
            configs.insert(digest, bytes);
        }
    }
    let wanted: Vec<ImageId> = match lost {
        Lost::Some(ids) => ids.iter().copied().collect(),
        Lost::All => configs.keys().copied().collect(),
    };
    let mut made = Vec::new();
    for id in wanted {
        let Some(config) = configs.get(&id) else {
            tracing::warn!(image = %id, "image lost: its configuration is not on the disk");
            continue;
        };
        match record(id, config, manifests.get(&id), &layers) {
            Ok(record) => made.push(record),
            Err(e) => tracing::warn!(image = %id, error = %e, "image lost"),
        }
    }
    Ok(made)
}

fn record(
    id: ImageId,
    config: &[u8],
    manifest: Option<&(Digest, Vec<Descriptor>)>,
    known: &HashMap<Digest, &Layer>,
) -> Result<ImageRecord> {
    let diff_ids = layers_of(&parse_config(config)?.0)?;
    let descriptors = manifest
        .map(|(_, layers)| layers.as_slice())
        .filter(|l| l.len() == diff_ids.len());
    let layers = diff_ids.iter().enumerate().map(|(n, layer)| {
        let from_manifest = descriptors.map(|all| (all[n].digest, all[n].size, &all[n].media_type));
        let from_disk = known
            .get(&layer.diff_id)
            .map(|l| (l.blob, l.blob_size, &l.media_type));
        let lost = || Error::not_found(format!("its layer {} is not on the disk", layer.diff_id));
        let (blob, size, media_type) = from_manifest.or(from_disk).ok_or_else(lost)?;
        Ok(BlobRef {
            diff_id: layer.diff_id,
            blob,
            size,
            media_type: media_type.clone(),
        })
    });
    Ok(ImageRecord {
        format: files::FORMAT,
        id,
        manifest: manifest.map(|(digest, _)| *digest),
        layers: layers.collect::<Result<_>>()?,
        packed: Vec::new(),
        parent: None,
        stored: files::now(),
        last_used: files::now(),
    })
}
