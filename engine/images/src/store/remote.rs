//! What is asked of others and not stored: who we are at a registry, what it has, and files by their URLs.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt;
use kelson_formats::Reference;
use kelson_formats::credentials::Credential;
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

use super::Images;
use crate::digest::{Digest, ImageId};
use crate::limits::{ANSWER_MAX, CONFIG_MAX};
use crate::registry::manifest::{Document, parse};
use crate::registry::{Aim, Ask, Repository, endpoints, read_body};
use crate::registry::{FoundRepository, login, search};
use crate::{Error, ImportOptions, Kind, Result};

/// A manifest or index at a registry, and the platforms it is for.
#[derive(Debug, Clone)]
pub struct RemoteManifest {
    /// As it came.
    pub bytes: Bytes,
    /// What the registry calls it.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Operating system, architecture and variant.
    pub platforms: Vec<crate::Platform>,
}

impl Images {
    /// Checks credentials at a registry, which `server` names by its address (empty: Docker Hub). What its token server gives to
    /// be kept instead of the password, if it does.
    ///
    /// # Errors
    /// `Denied` when it refuses them, `Unavailable` when it cannot be reached.
    pub async fn login(&self, server: &str, credential: &Credential) -> Result<Option<String>> {
        let inner = &self.inner;
        login(&inner.transport, &inner.config(), server, credential).await
    }

    /// Searches a registry's index: Docker Hub's, or another's that the term begins with.
    ///
    /// # Errors
    /// `NotFound` from a registry without one, `Denied`, `Unavailable`.
    pub async fn search(
        &self,
        term: &str,
        limit: u32,
        auth: Option<&Credential>,
    ) -> Result<Vec<FoundRepository>> {
        let inner = &self.inner;
        search(&inner.transport, &inner.config(), term, limit, auth).await
    }

    /// Looks at a name at its registry without pulling it.
    ///
    /// # Errors
    /// As [`Images::pull`].
    pub async fn inspect_remote(
        &self,
        reference: &Reference,
        auth: Option<&Credential>,
    ) -> Result<RemoteManifest> {
        let inner = &self.inner;
        let config = inner.config();
        let reference = reference.clone().with_default_tag();
        let what = reference
            .digest()
            .or(reference.tag())
            .unwrap_or("latest")
            .to_owned();
        let mut failure = Error::new(
            Kind::Unavailable,
            format!("no address for {}", reference.domain()),
        );
        for endpoint in endpoints(reference.domain(), &config)? {
            if !endpoint.can.resolve {
                continue;
            }
            let mirror = endpoint.mirror;
            let connected =
                Repository::connect(&inner.transport, &config, endpoint, &reference, auth, &Aim::Pull).await;
            let looked = match connected {
                Ok(place) => look(&place, &what).await,
                Err(e) => {
                    failure = e;
                    continue;
                }
            };
            match looked {
                Err(e) if mirror => failure = e,
                done => return done,
            }
        }
        Err(failure)
    }

    /// Imports a root file system from a URL; without a scheme it is `http`. `on_bytes` hears how much has come, and of how much.
    ///
    /// # Errors
    /// `Invalid` for what is no URL, `Unavailable` when it cannot be had, and as [`Images::import`].
    pub async fn import_url(
        &self,
        url: &str,
        options: ImportOptions,
        on_bytes: impl Fn(u64, Option<u64>) + Send + Sync + 'static,
    ) -> Result<ImageId> {
        let address = match url.contains("://") {
            true => url.to_owned(),
            false => format!("http://{url}"),
        };
        let input = self.open_url(&address, on_bytes).await?;
        let message = match options.message.is_empty() {
            true => format!("Imported from {url}"),
            false => options.message.clone(),
        };
        self.import(input, ImportOptions { message, ..options }).await
    }

    async fn open_url(
        &self,
        url: &str,
        on_bytes: impl Fn(u64, Option<u64>) + Send + Sync + 'static,
    ) -> Result<impl AsyncRead + Send + Unpin + 'static> {
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(Error::invalid(format!(
                "{url:?}: only http and https can be imported from"
            )));
        }
        let config = self.inner.config();
        let answer = self.inner.transport.send(Ask::get(url, false), &config).await?;
        let status = answer.status();
        if !status.is_success() {
            let said = read_body(answer.into_body(), ANSWER_MAX, "an error")
                .await
                .unwrap_or_default();
            let said = String::from_utf8_lossy(&said).trim().to_owned();
            return Err(Error::new(
                Kind::Unavailable,
                format!("failed to GET {url} with status {status}: {said}"),
            ));
        }
        let length = answer.headers().get(http::header::CONTENT_LENGTH);
        let total: Option<u64> = length.and_then(|v| v.to_str().ok()?.parse().ok());
        let patience = config.patience;
        let seed = (answer.into_body(), 0_u64, Arc::new(on_bytes));
        let pieces = stream::try_unfold(seed, move |(mut body, mut sent, on_bytes)| async move {
            loop {
                let Ok(frame) = tokio::time::timeout(patience, body.frame()).await else {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "context deadline exceeded",
                    ));
                };
                match frame.transpose().map_err(io::Error::other)? {
                    None => return Ok(None),
                    Some(frame) => {
                        if let Ok(piece) = frame.into_data() {
                            sent += piece.len() as u64;
                            on_bytes(sent, total);
                            return Ok(Some((piece, (body, sent, on_bytes))));
                        }
                    }
                }
            }
        });
        Ok(StreamReader::new(Box::pin(pieces)))
    }
}

async fn look(place: &Repository, what: &str) -> Result<RemoteManifest> {
    let fetched = place.manifest(what).await?;
    let (media_type, platforms) = match parse(&fetched.bytes, fetched.media_type.as_deref())? {
        Document::Index(entries) => {
            let platforms = entries
                .into_iter()
                .filter_map(|entry| entry.platform)
                .map(|p| crate::Platform {
                    os: p.os,
                    architecture: p.architecture,
                    variant: p.variant,
                });
            (
                fetched.media_type.clone().unwrap_or_default(),
                platforms.collect(),
            )
        }
        Document::Manifest(manifest) => {
            let bytes = place.small_blob(&manifest.config, CONFIG_MAX).await?;
            let config: serde_json::Value = serde_json::from_slice(&bytes)
                .map_err(|e| Error::invalid("parse the image configuration").caused_by(e))?;
            let text = |key: &str| {
                config
                    .get(key)
                    .and_then(|v| v.as_str())
                    .unwrap_or_default()
                    .to_owned()
            };
            let platform = crate::Platform {
                os: text("os"),
                architecture: text("architecture"),
                variant: Some(text("variant")).filter(|v| !v.is_empty()),
            };
            (manifest.media_type, vec![platform])
        }
    };
    Ok(RemoteManifest {
        bytes: fetched.bytes,
        media_type,
        digest: fetched.digest,
        platforms,
    })
}
