//! What refers to an image at its registry: signatures, attestations, descriptions (distribution-spec 1.1, "Referrers").

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::LINK;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

use super::client::Repository;
use super::manifest::OCI_INDEX;
use super::transport::{parse_url, read_body, resolve, same_origin};
use crate::digest::Digest;
use crate::limits::{INDEX_ENTRIES_MAX, MANIFEST_MAX};
use crate::{Error, Kind, Result};

/// Pages of an answer we follow.
const PAGES_MAX: usize = 16;

/// A document that refers to an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Referrer {
    /// What kind of manifest it is.
    pub media_type: String,
    /// Its digest; it can be pulled by it.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// What it is about: the type of the artifact, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// What its writer added.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    manifests: Vec<Referrer>,
}

impl Repository {
    /// Lists what refers to a manifest; by the fallback tag at a registry that does not know the question.
    ///
    /// # Errors
    /// `Denied`, `Unavailable`; `Invalid` for an answer that is none.
    pub async fn referrers(&self, subject: &Digest, artifact_type: Option<&str>) -> Result<Vec<Referrer>> {
        let mut found = match self.by_api(subject, artifact_type).await? {
            Some(found) => found,
            None => self.by_tag(subject).await?,
        };
        // A registry may leave the filter to us.
        found.retain(|r| artifact_type.is_none_or(|want| r.artifact_type.as_deref() == Some(want)));
        Ok(found)
    }

    async fn by_api(&self, subject: &Digest, artifact_type: Option<&str>) -> Result<Option<Vec<Referrer>>> {
        use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
        let mut url = self.url("referrers", &subject.to_string());
        if let Some(wanted) = artifact_type {
            let join = if url.contains('?') { '&' } else { '?' };
            url.push_str(&format!(
                "{join}artifactType={}",
                utf8_percent_encode(wanted, NON_ALPHANUMERIC)
            ));
        }
        let mut found = Vec::new();
        for page in 0..PAGES_MAX {
            let base = parse_url(&url)?;
            let answer = self.ask(url, HeaderMap::new()).await?;
            let is_index = |h: &HeaderMap| {
                let kind = h
                    .get("content-type")
                    .and_then(|v| v.to_str().ok())
                    .unwrap_or_default();
                kind.split(';').next().unwrap_or_default().trim() == OCI_INDEX
            };
            // Older registries take the path for something of theirs, or for nothing.
            if page == 0
                && (matches!(
                    answer.status(),
                    StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED
                ) || answer.status().is_success() && !is_index(answer.headers()))
            {
                return Ok(None);
            }
            let answer = self.judge(answer, &subject.to_string()).await?;
            let link = answer
                .headers()
                .get(LINK)
                .and_then(|l| l.to_str().ok())
                .map(str::to_owned);
            let bytes = read_body(answer.into_body(), MANIFEST_MAX, "the list of referrers").await?;
            found.extend(parse(&bytes)?.manifests);
            if found.len() > INDEX_ENTRIES_MAX {
                return Err(Error::invalid(format!(
                    "more than {INDEX_ENTRIES_MAX} referrers of {subject}"
                )));
            }
            let next = link
                .as_deref()
                .and_then(next_page)
                .map(|to| resolve(&base, to))
                .transpose()?;
            match next.filter(|to| same_origin(to, &base)) {
                Some(next) => url = next.to_string(),
                None => break,
            }
        }
        Ok(Some(found))
    }

    async fn by_tag(&self, subject: &Digest) -> Result<Vec<Referrer>> {
        match self.manifest(&fallback_tag(subject)).await {
            Ok(index) => Ok(parse(&index.bytes)?.manifests),
            Err(e) if e.kind() == Kind::NotFound => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }

    /// Adds a manifest to the list of its subject at a registry that keeps none itself (distribution-spec, "Pushing Manifests with
    /// Subject"). Two that do so at the same time may lose one entry; the specification has no better way.
    ///
    /// # Errors
    /// As [`Repository::referrers`], and those of a push.
    pub async fn add_referrer(&self, subject: &Digest, new: Referrer) -> Result<()> {
        let mut manifests = self.by_tag(subject).await?;
        if manifests.iter().any(|r| r.digest == new.digest) {
            return Ok(());
        }
        manifests.push(new);
        let index = Index {
            schema_version: 2,
            media_type: Some(OCI_INDEX.to_owned()),
            manifests,
        };
        let internal = |e| Error::new(Kind::Internal, "encode a list of referrers").caused_by(e);
        let bytes: Bytes = serde_json::to_vec(&index).map_err(internal)?.into();
        self.push_manifest(&fallback_tag(subject), OCI_INDEX, bytes)
            .await
            .map(drop)
    }
}

/// `sha256-HEX`, where registries without the API keep the list.
fn fallback_tag(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}

fn parse(bytes: &[u8]) -> Result<Index> {
    serde_json::from_slice(bytes).map_err(|e| Error::invalid("malformed list of referrers").caused_by(e))
}

/// The target of `<...>; rel="next"` (RFC 8288).
fn next_page(link: &str) -> Option<&str> {
    link.split(',').find_map(|one| {
        let (target, parameters) = one.trim().strip_prefix('<')?.split_once('>')?;
        let next = parameters
            .split(';')
            .any(|p| matches!(p.trim(), "rel=next" | "rel=\"next\""));
        next.then_some(target)
    })
}

/// The subject of a manifest, and the manifest as its referrer; `None` for one that refers to nothing.
pub(crate) fn referrer_of(bytes: &[u8]) -> Option<(Digest, Referrer)> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Manifest {
        media_type: String,
        artifact_type: Option<String>,
        subject: Option<Subject>,
        config: Option<Config>,
        #[serde(default)]
        annotations: BTreeMap<String, String>,
    }
    #[derive(Deserialize)]
    struct Subject {
        digest: Digest,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Config {
        media_type: String,
    }
    let manifest: Manifest = serde_json::from_slice(bytes).ok()?;
    let subject = manifest.subject?.digest;
    let referrer = Referrer {
        media_type: manifest.media_type,
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        artifact_type: manifest.artifact_type.or(manifest.config.map(|c| c.media_type)),
        annotations: manifest.annotations,
    };
    Some((subject, referrer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links() {
        assert_eq!(next_page("</v2/x?n=2>; rel=\"next\""), Some("/v2/x?n=2"));
        assert_eq!(next_page("<a>; rel=prev, <b>; title=x; rel=next"), Some("b"));
        assert_eq!(next_page("<a>; rel=prev"), None);
        assert_eq!(next_page(""), None);
    }

    #[test]
    fn who_refers_to_what() {
        let subject = Digest::of(b"image");
        let bytes = serde_json::json!({"schemaVersion": 2, "mediaType": "m", "artifactType": "sbom",
            "subject": {"mediaType": "m", "digest": subject, "size": 1}, "annotations": {"a": "b"}})
        .to_string();
        let (to, referrer) = referrer_of(bytes.as_bytes()).unwrap();
        assert_eq!((to, referrer.artifact_type.as_deref()), (subject, Some("sbom")));
        assert_eq!(referrer.digest, Digest::of(bytes.as_bytes()));
        assert_eq!(referrer_of(b"{\"mediaType\":\"m\"}"), None);
    }
}
