//! Manifests and indexes of both families, reduced to what a pull decides by. The bytes themselves are kept as they came.

use serde::{Deserialize, Serialize};

use crate::config::Platform;
use crate::digest::Digest;
use crate::limits::{INDEX_ENTRIES_MAX, LAYERS_MAX};
use crate::{Error, Kind, Result};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// What we ask a registry for, best first.
pub(crate) const ACCEPT: [&str; 4] = [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST];

/// A pointer to content (image-spec, "descriptor.md").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<DescriptorPlatform>,
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// The platform of an index entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DescriptorPlatform {
    pub architecture: String,
    pub os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// A manifest of one image.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub schema_version: u32,
    pub media_type: String,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

/// Either kind of document behind a tag.
#[derive(Debug)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Vec<Descriptor>),
}

/// Parses a manifest or index. `media_type` is what the registry said it is; a `mediaType` inside must agree
/// (CVE-2021-41190: one document read as two kinds).
///
/// # Errors
/// `Unsupported` for schema 1, artifacts and foreign layers; `Invalid` for anything malformed or beyond the bounds.
pub(crate) fn parse(bytes: &[u8], media_type: Option<&str>) -> Result<Document> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Any {
        schema_version: u32,
        media_type: Option<String>,
        config: Option<Descriptor>,
        layers: Option<Vec<Descriptor>>,
        manifests: Option<Vec<Descriptor>>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        schema_version: u32,
    }
    let invalid = |e: serde_json::Error| Error::invalid("malformed manifest").caused_by(e);
    // The version first: a schema 1 document has other shapes altogether.
    let version: Version = serde_json::from_slice(bytes).map_err(invalid)?;
    if version.schema_version == 1
        || media_type.is_some_and(|m| m.contains("manifest.v1+")) && version.schema_version != 2
    {
        return Err(unsupported(
            "image manifest version 2, schema 1 is no longer supported; push the image again",
        ));
    }
    let any: Any = serde_json::from_slice(bytes).map_err(invalid)?;
    if any.schema_version != 2 {
        return Err(Error::invalid(format!(
            "manifest schema version {} is not known",
            any.schema_version
        )));
    }
    // A registry that knows nothing of the type says octet-stream or JSON.
    let said = media_type.map(|m| m.split(';').next().unwrap_or(m).trim());
    let said = said.filter(|m| ACCEPT.contains(m));
    let kind = match (any.media_type.as_deref(), said) {
        (Some(inner), Some(outer)) if inner != outer => {
            return Err(Error::invalid(format!(
                "manifest says it is {inner:?}, the registry says {outer:?}"
            )));
        }
        (Some(inner), _) => inner.to_owned(),
        (None, Some(outer)) => outer.to_owned(),
        (None, None) if any.manifests.is_some() => OCI_INDEX.to_owned(),
        (None, None) => OCI_MANIFEST.to_owned(),
    };
    match (kind.as_str(), any.config, any.layers, any.manifests) {
        (OCI_INDEX | DOCKER_LIST, None, None, Some(entries)) if entries.len() <= INDEX_ENTRIES_MAX => {
            Ok(Document::Index(entries))
        }
        (OCI_MANIFEST | DOCKER_MANIFEST, Some(config), Some(layers), None) => {
            let manifest = Manifest {
                schema_version: 2,
                media_type: kind,
                config,
                layers,
            };
            check(&manifest)?;
            Ok(Document::Manifest(manifest))
        }
        (OCI_INDEX | DOCKER_LIST | OCI_MANIFEST | DOCKER_MANIFEST, ..) => Err(Error::invalid(format!(
            "malformed manifest: its fields are not those of {kind:?}"
        ))),
        _ => Err(unsupported(format!("unsupported manifest media type {kind:?}"))),
    }
}

fn unsupported(what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(Kind::Unsupported, what)
}

fn check(manifest: &Manifest) -> Result<()> {
    let config = manifest.config.media_type.as_str();
    if !matches!(config, OCI_CONFIG | DOCKER_CONFIG | "application/octet-stream") {
        return Err(unsupported(format!(
            "this is no container image: its config is {config:?}"
        )));
    }
    if manifest.config.size > crate::limits::CONFIG_MAX {
        return Err(Error::invalid(format!(
            "image configuration of {} bytes is too large",
            manifest.config.size
        )));
    }
    if manifest.layers.len() > LAYERS_MAX {
        return Err(Error::invalid(format!(
            "the image has {} layers, more than {LAYERS_MAX}",
            manifest.layers.len()
        )));
    }
    match manifest
        .layers
        .iter()
        .find(|l| l.media_type.contains("foreign") || l.media_type.contains("nondistributable"))
    {
        Some(layer) => Err(unsupported(format!(
            "foreign layers are not supported: {}",
            layer.digest
        ))),
        None => Ok(()),
    }
}

/// Chooses the entry of an index for a platform: the exact variant before a compatible one, the first before the later.
pub(crate) fn choose<'a>(entries: &'a [Descriptor], want: &Platform) -> Option<&'a Descriptor> {
    let platform = |entry: &Descriptor| {
        let p = entry.platform.as_ref()?;
        Some(Platform {
            os: p.os.clone(),
            architecture: p.architecture.clone(),
            variant: p.variant.clone(),
        })
    };
    let fits = |entry: &&Descriptor| platform(entry).is_some_and(|p| want.accepts(&p));
    let exact = entries.iter().find(|e| platform(e).is_some_and(|p| p == *want));
    exact
        .or_else(|| entries.iter().find(fits))
        .or_else(|| match entries {
            // An index of one entry that says nothing of platforms (`skopeo copy` to an OCI layout writes these).
            [only] if only.platform.is_none() => Some(only),
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(media_type: &str) -> serde_json::Value {
        serde_json::json!({"mediaType": media_type, "digest": Digest::of(b"x"), "size": 1})
    }

    fn manifest(media_type: &str, config: &str, layer: &str) -> Vec<u8> {
        serde_json::json!({"schemaVersion": 2, "mediaType": media_type, "config": descriptor(config),
            "layers": [descriptor(layer)]})
        .to_string()
        .into_bytes()
    }

    #[test]
    fn kinds() {
        let good = manifest(OCI_MANIFEST, OCI_CONFIG, OCI_LAYER_GZIP);
        assert!(matches!(parse(&good, None), Ok(Document::Manifest(_))));
        assert!(matches!(
            parse(&good, Some("application/json; charset=utf-8")),
            Ok(Document::Manifest(_))
        ));
        assert_eq!(
            parse(&good, Some(DOCKER_MANIFEST)).unwrap_err().kind(),
            Kind::Invalid
        );
        let index =
            serde_json::json!({"schemaVersion": 2, "manifests": [descriptor(OCI_MANIFEST)]}).to_string();
        assert!(matches!(parse(index.as_bytes(), None), Ok(Document::Index(_))));
        let both = serde_json::json!({"schemaVersion": 2, "manifests": [], "config": descriptor(OCI_CONFIG), "layers": []});
        assert_eq!(
            parse(both.to_string().as_bytes(), None).unwrap_err().kind(),
            Kind::Invalid
        );
        for (bytes, kind) in [
            (
                br#"{"schemaVersion":1,"fsLayers":[]}"#.to_vec(),
                Kind::Unsupported,
            ),
            (
                manifest(OCI_MANIFEST, "application/vnd.helm.config", OCI_LAYER),
                Kind::Unsupported,
            ),
            (
                manifest(
                    OCI_MANIFEST,
                    OCI_CONFIG,
                    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                ),
                Kind::Unsupported,
            ),
            (manifest("text/plain", OCI_CONFIG, OCI_LAYER), Kind::Unsupported),
            (b"{}".to_vec(), Kind::Invalid),
            (b"<html>".to_vec(), Kind::Invalid),
            (br#"{"schemaVersion":2}"#.to_vec(), Kind::Invalid),
        ] {
            assert_eq!(
                parse(&bytes, None).unwrap_err().kind(),
                kind,
                "{}",
                String::from_utf8_lossy(&bytes)
            );
        }
        let many = serde_json::json!({"schemaVersion": 2, "config": descriptor(OCI_CONFIG),
            "layers": vec![descriptor(OCI_LAYER); LAYERS_MAX + 1]});
        assert!(
            parse(many.to_string().as_bytes(), None)
                .unwrap_err()
                .to_string()
                .contains("128 layers")
        );
    }

    #[test]
    fn platform_choice() {
        let entry = |platform: Option<&str>, n: u64| {
            let platform = platform.map(|p| p.parse::<Platform>().unwrap());
            Descriptor {
                media_type: OCI_MANIFEST.into(),
                digest: Digest::of(b""),
                size: n,
                platform: platform.map(|p| DescriptorPlatform {
                    architecture: p.architecture,
                    os: p.os,
                    variant: p.variant,
                }),
                annotations: Default::default(),
            }
        };
        let entries = [
            entry(Some("linux/arm/v6"), 1),
            entry(Some("linux/arm/v7"), 2),
            entry(Some("linux/amd64"), 3),
            entry(Some("linux/arm64/v8"), 4),
            entry(Some("windows/amd64"), 5),
        ];
        let pick = |want: &str| choose(&entries, &want.parse().unwrap()).map(|e| e.size);
        assert_eq!(pick("linux/amd64"), Some(3));
        assert_eq!(pick("linux/arm/v7"), Some(2));
        assert_eq!(pick("linux/arm64"), Some(4));
        assert_eq!(pick("linux/s390x"), None);
        assert_eq!(
            choose(&[entry(None, 9)], &Platform::host()).map(|e| e.size),
            Some(9)
        );
        assert_eq!(choose(&[entry(None, 9), entry(None, 8)], &Platform::host()), None);
    }
}
