//! Writing images out: one tar that is both an OCI layout and `docker save`'s archive, as docker itself writes since 25.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use kelson_formats::Reference;
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use crate::content::Content;
use crate::digest::Digest;
use crate::registry::manifest::{
    Descriptor, DescriptorPlatform, Manifest, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD, OCI_MANIFEST,
};
use crate::store::BlobRef;
use crate::{Error, Kind, Result};

/// One image to write.
#[derive(Debug)]
pub(crate) struct Item {
    pub references: Vec<Reference>,
    pub id: Digest,
    pub config: Vec<u8>,
    pub platform: DescriptorPlatform,
    /// Its own manifest, if these are the blobs it names.
    pub manifest: Option<Vec<u8>>,
    pub layers: Vec<BlobRef>,
}

/// Writes the archive. The same images give the same bytes: sorted names, no times, no owners.
///
/// # Errors
/// `Internal` when the disk or the receiver refuses.
pub(crate) fn write(items: Vec<Item>, content: &Content, out: impl Write) -> Result<()> {
    let mut small: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut large: BTreeMap<String, (Digest, u64)> = BTreeMap::new();
    let (mut index, mut docker) = (Vec::new(), Vec::new());
    for item in items {
        let manifest = item
            .manifest
            .clone()
            .unwrap_or_else(|| manifest_of(&item).to_string().into_bytes());
        let digest = Digest::of(&manifest);
        index.extend(entries(&item, digest, &manifest));
        docker.push(json!({
            "Config": blob(&item.id),
            "RepoTags": item.references.iter().map(Reference::familiar).collect::<Vec<_>>(),
            "Layers": item.layers.iter().map(|l| blob(&l.blob)).collect::<Vec<_>>(),
        }));
        small.insert(blob(&digest), manifest);
        small.insert(blob(&item.id), item.config);
        large.extend(item.layers.iter().map(|l| (blob(&l.blob), (l.blob, l.size))));
    }
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": index});
    small.insert("index.json".to_owned(), index.to_string().into_bytes());
    small.insert(
        "manifest.json".to_owned(),
        Value::Array(docker).to_string().into_bytes(),
    );
    small.insert(
        "oci-layout".to_owned(),
        br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
    );

    let mut tar = Builder::new(out);
    for dir in ["blobs/", "blobs/sha256/"] {
        add(&mut tar, dir, EntryType::Directory, 0, std::io::empty())?;
    }
    // What says what is in it comes first, so that a reader of a stream knows early.
    for (name, bytes) in &small {
        add(
            &mut tar,
            name,
            EntryType::Regular,
            bytes.len() as u64,
            bytes.as_slice(),
        )?;
    }
    for (name, (digest, size)) in &large {
        add(
            &mut tar,
            name,
            EntryType::Regular,
            *size,
            content.open_blob(digest)?,
        )?;
    }
    tar.finish().map_err(failed)
}

fn failed(e: std::io::Error) -> Error {
    Error::new(Kind::Internal, "write the archive").caused_by(e)
}

fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn add<W: Write>(
    tar: &mut Builder<W>,
    name: &str,
    kind: EntryType,
    size: u64,
    data: impl Read,
) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(if kind == EntryType::Directory {
        0o755
    } else {
        0o644
    });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    // A blob that is shorter or longer than its record says would shift everything after it.
    let mut data = data.take(size + 1);
    tar.append_data(&mut header, name, &mut data).map_err(failed)?;
    if data.limit() != 1 {
        return Err(Error::new(
            Kind::Internal,
            format!("write the archive: {name} has not its {size} bytes"),
        ));
    }
    Ok(())
}

/// A manifest for an image that came without one, or whose layers lie here in another packing.
pub(crate) fn manifest_of(item: &Item) -> Value {
    let descriptor = |media_type: &str, digest: Digest, size: u64| Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
        platform: None,
        annotations: BTreeMap::new(),
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: OCI_MANIFEST.to_owned(),
        config: descriptor(OCI_CONFIG, item.id, item.config.len() as u64),
        layers: item
            .layers
            .iter()
            .map(|l| descriptor(oci_layer(&l.media_type), l.blob, l.size))
            .collect(),
    };
    json!(manifest)
}

/// The OCI name of a layer's packing, whichever family named it.
fn oci_layer(media_type: &str) -> &'static str {
    match media_type {
        t if t.ends_with("gzip") => OCI_LAYER_GZIP,
        t if t.ends_with("zstd") => OCI_LAYER_ZSTD,
        _ => OCI_LAYER,
    }
}

/// One index entry for each name, as containerd reads and writes them; one without a name for an image that has none.
fn entries(item: &Item, digest: Digest, manifest: &[u8]) -> Vec<Value> {
    let own: Value = serde_json::from_slice(manifest).unwrap_or_default();
    // An image of docker's family keeps its manifest, and the index must call that what it is.
    let media_type = own["mediaType"].as_str().unwrap_or(OCI_MANIFEST);
    let entry = |annotations: BTreeMap<String, String>| {
        json!(Descriptor {
            media_type: media_type.to_owned(),
            digest,
            size: manifest.len() as u64,
            platform: Some(item.platform.clone()),
            annotations,
        })
    };
    if item.references.is_empty() {
        return vec![entry(BTreeMap::new())];
    }
    let named = item.references.iter().map(|reference| {
        let mut annotations =
            BTreeMap::from([("io.containerd.image.name".to_owned(), reference.to_string())]);
        if let Some(tag) = reference.tag() {
            annotations.insert("org.opencontainers.image.ref.name".to_owned(), tag.to_owned());
        }
        entry(annotations)
    });
    named.collect()
}
