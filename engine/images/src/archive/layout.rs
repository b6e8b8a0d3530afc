//! What an image archive says it holds: `docker save`'s `manifest.json`, or an OCI layout's `index.json`.

use kelson_formats::Reference;
use serde::Deserialize;

use super::spool::{Spool, Spooled};
use crate::config::Platform;
use crate::digest::Digest;
use crate::image::{layers_of, parse_config};
use crate::limits::{CONFIG_MAX, INDEX_DEPTH_MAX, MANIFEST_MAX};
use crate::registry::manifest::{
    Descriptor, Document, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, choose, parse,
};
use crate::store::BlobRef;
use crate::unpack::inflate::Packing;
use crate::{Error, Result};

/// Images in one archive.
const IMAGES_MAX: usize = 1000;

/// One image of an archive.
#[derive(Debug)]
pub(crate) struct Found {
    pub references: Vec<Reference>,
    pub config: Vec<u8>,
    pub id: Digest,
    /// Its manifest, in an OCI layout.
    pub manifest: Option<Digest>,
    pub layers: Vec<FoundLayer>,
}

/// One layer and how it lies in the archive.
#[derive(Debug, Clone)]
pub(crate) struct FoundLayer {
    pub blob: BlobRef,
    pub packing: Packing,
}

pub(crate) fn media_type(packing: Packing) -> &'static str {
    match packing {
        Packing::Plain => OCI_LAYER,
        Packing::Gzip => OCI_LAYER_GZIP,
        Packing::Zstd => OCI_LAYER_ZSTD,
    }
}

/// Reads what the archive holds. An archive of both kinds (docker 25 and later) is read as docker's: it has the names.
///
/// # Errors
/// `Invalid` when it is neither, or says what it has not got.
pub(crate) fn read(spool: &Spool) -> Result<Vec<Found>> {
    if let Some(file) = spool.get("manifest.json") {
        return docker(spool, &Spool::bytes(file, MANIFEST_MAX)?);
    }
    if let Some(file) = spool.get("index.json") {
        return oci(spool, &Spool::bytes(file, MANIFEST_MAX)?);
    }
    Err(Error::invalid(
        "the archive holds no image: neither manifest.json nor index.json is in it",
    ))
}

fn docker(spool: &Spool, bytes: &[u8]) -> Result<Vec<Found>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct One {
        config: String,
        #[serde(default)]
        repo_tags: Option<Vec<String>>,
        #[serde(default)]
        layers: Option<Vec<String>>,
    }
    let ones: Vec<One> =
        serde_json::from_slice(bytes).map_err(|e| Error::invalid("malformed manifest.json").caused_by(e))?;
    bounded(ones.len())?;
    let file = |name: &str| {
        spool
            .get(name)
            .ok_or_else(|| Error::invalid(format!("manifest.json names {name:?}, which the archive lacks")))
    };
    let mut found = Vec::new();
    for one in ones {
        let config = Spool::bytes(file(&one.config)?, CONFIG_MAX)?;
        let names = one.layers.unwrap_or_default();
        let layers = names.iter().map(|name| file(name)).collect::<Result<Vec<_>>>()?;
        let tags = one.repo_tags.unwrap_or_default();
        let references = tags.iter().map(|tag| tagged(tag)).collect::<Result<_>>()?;
        found.push(image(references, config, None, &layers)?);
    }
    Ok(found)
}

fn oci(spool: &Spool, bytes: &[u8]) -> Result<Vec<Found>> {
    let Document::Index(entries) = parse(bytes, None)? else {
        return Err(Error::invalid("index.json is no index"));
    };
    bounded(entries.len())?;
    let mut found = Vec::new();
    for entry in &entries {
        let mut digest = entry.digest;
        let mut depth = 0;
        let manifest = loop {
            let bytes = Spool::bytes(spool.blob(&digest)?, MANIFEST_MAX)?;
            match parse(&bytes, None)? {
                Document::Manifest(manifest) => break manifest,
                Document::Index(_) if depth == INDEX_DEPTH_MAX => {
                    return Err(Error::invalid("indexes nested too deep"));
                }
                Document::Index(inner) => {
                    let want = Platform::host();
                    let chosen = choose(&inner, &want);
                    let none = || Error::not_found(format!("the archive has no image for {want}"));
                    digest = chosen.ok_or_else(none)?.digest;
                }
            }
            depth += 1;
        };
        let config = Spool::bytes(spool.blob(&manifest.config.digest)?, CONFIG_MAX)?;
        let layers = manifest
            .layers
            .iter()
            .map(|l| spool.blob(&l.digest))
            .collect::<Result<Vec<_>>>()?;
        found.push(image(name_of(entry)?, config, Some(digest), &layers)?);
    }
    Ok(found)
}

/// containerd's annotation holds a whole name; the standard one often only a tag, which names nothing by itself.
fn name_of(entry: &Descriptor) -> Result<Vec<Reference>> {
    let whole = entry.annotations.get("io.containerd.image.name");
    let standard = entry
        .annotations
        .get("org.opencontainers.image.ref.name")
        .filter(|n| n.contains([':', '/']));
    // An annotation may hold any text; one that is no name names nothing.
    let name = whole.or(standard).filter(|n| Reference::parse(n).is_ok());
    name.map(|n| tagged(n))
        .transpose()
        .map(|n| n.into_iter().collect())
}

/// A name as an archive may give one. A digest vouches for what a registry sent; from an archive it would let any content
/// pass for an image pinned by digest. Docker refuses it too.
fn tagged(name: &str) -> Result<Reference> {
    let reference = Reference::parse(name)?.with_default_tag();
    if reference.digest().is_some() {
        return Err(Error::invalid(format!("invalid tag {name:?}")));
    }
    Ok(reference)
}

fn image(
    references: Vec<Reference>,
    config: Vec<u8>,
    manifest: Option<Digest>,
    files: &[&Spooled],
) -> Result<Found> {
    let (parsed, _) = parse_config(&config)?;
    let diff_ids = layers_of(&parsed)?;
    if diff_ids.len() != files.len() {
        let text = format!(
            "the archive lists {} layers, the configuration {}",
            files.len(),
            diff_ids.len()
        );
        return Err(Error::invalid(text));
    }
    let layer = |(file, layer): (&&Spooled, &crate::image::Layer)| FoundLayer {
        blob: BlobRef {
            diff_id: layer.diff_id,
            blob: file.digest,
            size: file.size,
            media_type: media_type(file.packing).to_owned(),
        },
        packing: file.packing,
    };
    let layers = files.iter().zip(&diff_ids).map(layer).collect();
    Ok(Found {
        references,
        id: Digest::of(&config),
        config,
        manifest,
        layers,
    })
}

fn bounded(images: usize) -> Result<()> {
    if images > IMAGES_MAX {
        Err(Error::invalid(format!(
            "the archive has more than {IMAGES_MAX} images"
        )))
    } else {
        Ok(())
    }
}
