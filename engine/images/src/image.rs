//! An image as the rest of the daemon sees it: an immutable view, taken at one moment, cheap to clone.

use std::sync::Arc;

use oci_spec::image::ImageConfiguration;
use serde_json::Value;

use crate::digest::{Digest, ImageId};
use crate::{Error, Result};

/// An image with the names it had when it was looked up.
#[derive(Debug, Clone)]
pub struct Image {
    pub(crate) data: Arc<ImageData>,
    pub(crate) parent: Option<ImageId>,
    pub(crate) repo_tags: Vec<String>,
    pub(crate) repo_digests: Vec<String>,
}

/// What never changes about an image.
#[derive(Debug)]
pub(crate) struct ImageData {
    pub id: ImageId,
    pub config: ImageConfiguration,
    pub raw: Value,
    pub layers: Vec<Layer>,
    /// Bytes of the unpacked layers.
    pub size: u64,
}

/// One layer of an image, bottom first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Digest of this layer and all below it.
    pub chain_id: Digest,
}

impl Image {
    /// The id: the digest of the configuration.
    #[must_use]
    pub fn id(&self) -> &ImageId {
        &self.data.id
    }

    /// The image it was committed on, while that is there.
    #[must_use]
    pub fn parent(&self) -> Option<&ImageId> {
        self.parent.as_ref()
    }

    /// The configuration by the image-spec. A key that was `null` is absent.
    #[must_use]
    pub fn config(&self) -> &ImageConfiguration {
        &self.data.config
    }

    /// The configuration as it was written, with Docker's own fields (`docker_version`, `container_config`, ...).
    #[must_use]
    pub fn raw_config(&self) -> &Value {
        &self.data.raw
    }

    /// The run parameters as they were written (`Config` in inspect), with Docker's own fields: `Healthcheck`, `OnBuild`,
    /// `Shell`, `ArgsEscaped`, `StopSignal`. `Null` when the image has none.
    #[must_use]
    pub fn run_config(&self) -> &Value {
        self.data.raw.get("config").unwrap_or(&Value::Null)
    }

    /// Names with a tag, in people's form (`nginx:latest`), sorted.
    #[must_use]
    pub fn repo_tags(&self) -> &[String] {
        &self.repo_tags
    }

    /// Names with a digest, in people's form (`nginx@sha256:...`), sorted.
    #[must_use]
    pub fn repo_digests(&self) -> &[String] {
        &self.repo_digests
    }

    /// Bytes of all layers, unpacked.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.data.size
    }

    /// When it was built, as written (RFC 3339), if it says so.
    #[must_use]
    pub fn created(&self) -> Option<&str> {
        self.data.config.created().as_deref()
    }

    /// When it was built, seconds since the epoch; 0 when it does not say.
    #[must_use]
    pub fn created_unix(&self) -> i64 {
        self.created().map_or(0, unix_seconds)
    }

    /// When it was built, nanoseconds since the epoch; 0 when it does not say.
    #[must_use]
    pub fn created_nanos(&self) -> i128 {
        let parsed = self
            .created()
            .and_then(|text| text.parse::<jiff::Timestamp>().ok());
        parsed.map_or(0, jiff::Timestamp::as_nanosecond)
    }

    /// The layers, bottom first.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.data.layers
    }

    /// One row per history entry, newest first, as `docker history` shows them. `sizes` come from [`crate::Images::history`].
    pub(crate) fn history_rows(&self, sizes: &[u64]) -> Vec<HistoryEntry> {
        let mut sizes = sizes.iter().copied();
        let entries = self.data.config.history().as_deref().unwrap_or_default();
        let mut rows: Vec<HistoryEntry> = entries
            .iter()
            .map(|entry| HistoryEntry {
                id: None,
                created_unix: entry.created().as_deref().map_or(0, unix_seconds),
                created_by: entry.created_by().clone().unwrap_or_default(),
                comment: entry.comment().clone().unwrap_or_default(),
                size: if entry.empty_layer().unwrap_or(false) {
                    0
                } else {
                    sizes.next().unwrap_or(0)
                },
                tags: Vec::new(),
            })
            .collect();
        if let Some(last) = rows.last_mut() {
            last.id = Some(*self.id());
            last.tags.clone_from(&self.repo_tags);
        }
        rows.reverse();
        rows
    }
}

/// A row of `docker history`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The image's id on the newest row, `<missing>` elsewhere.
    pub id: Option<ImageId>,
    /// Seconds since the epoch.
    pub created_unix: i64,
    /// The instruction.
    pub created_by: String,
    /// Names, on the newest row.
    pub tags: Vec<String>,
    /// Unpacked bytes of its layer.
    pub size: u64,
    /// Free text.
    pub comment: String,
}

fn unix_seconds(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>()
        .map_or(0, jiff::Timestamp::as_second)
}

/// Parses a configuration. `null` counts as absent: docker writes it for most empty fields, the typed form knows none.
///
/// # Errors
/// `Invalid` when it is not an image configuration.
pub(crate) fn parse_config(bytes: &[u8]) -> Result<(ImageConfiguration, Value)> {
    let invalid = |e: serde_json::Error| Error::invalid("parse the image configuration").caused_by(e);
    let raw: Value = serde_json::from_slice(bytes).map_err(invalid)?;
    let mut clean = raw.clone();
    drop_nulls(&mut clean);
    let config = serde_json::from_value(clean).map_err(invalid)?;
    Ok((config, raw))
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// The layers of a configuration with their chain ids.
///
/// # Errors
/// `Invalid` for a digest out of grammar, and for more layers than an overlay mount takes.
pub(crate) fn layers_of(config: &ImageConfiguration) -> Result<Vec<Layer>> {
    let diff_ids = config.rootfs().diff_ids();
    if diff_ids.len() > crate::limits::LAYERS_MAX {
        return Err(Error::invalid(format!(
            "the image has {} layers, more than {}",
            diff_ids.len(),
            crate::limits::LAYERS_MAX
        )));
    }
    let mut chain = None;
    let mut layers = Vec::with_capacity(diff_ids.len());
    for text in diff_ids {
        let diff_id = Digest::parse(text)?;
        let chain_id = Digest::chain(chain, diff_id);
        chain = Some(chain_id);
        layers.push(Layer { diff_id, chain_id });
    }
    Ok(layers)
}
