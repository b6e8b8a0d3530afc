//! Pulling: name → manifest → configuration → layers side by side → records.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join_all;
use kelson_formats::Reference;

use super::flight::Stage;
use super::inner::{Inner, blocking};
use super::state::{BlobRef, ImageRecord, PULL_KEPT, PullRecord, lookup_name};
use super::{Images, Pulled};
use crate::config::{ImagesConfig, Platform, PullOptions};
use crate::digest::Digest;
use crate::files;
use crate::image::{layers_of, parse_config};
use crate::limits::{CONFIG_MAX, INDEX_DEPTH_MAX};
use crate::progress::Progress;
use crate::registry::manifest::{Descriptor, Document, Manifest, choose, parse};
use crate::registry::{Aim, Fetched, Repository, endpoints};
use crate::{Error, Kind, Result};

/// What a name leads to at the registry, verified down to the configuration.
#[derive(Debug)]
struct Resolved {
    /// The manifest or index the name points to.
    target: Fetched,
    /// The image's own manifest; the same unless the target is an index.
    own: Fetched,
    manifest: Manifest,
    config: Bytes,
    layers: Vec<BlobRef>,
}

impl Images {
    /// See [`Images::pull`].
    pub(super) async fn pull_image(
        &self,
        reference: &Reference,
        options: PullOptions,
        progress: &(impl Fn(Progress) + Send + Sync),
    ) -> Result<Pulled> {
        let inner = &self.inner;
        let reference = reference.clone().with_default_tag();
        let what = reference
            .digest()
            .or(reference.tag())
            .unwrap_or("latest")
            .to_owned();
        let platform = options.platform.clone().unwrap_or_else(Platform::host);
        let config: Arc<ImagesConfig> = inner.config();
        let mut failure = None;
        for endpoint in endpoints(reference.domain(), &config)? {
            if !endpoint.can.pull || !endpoint.can.resolve && reference.digest().is_none() {
                continue;
            }
            // A mirror that has not got it, or is broken, is no reason not to ask the registry itself; nor is a registry
            // without TLS where that is allowed.
            let mirror = endpoint.mirror;
            let auth = options.auth.as_ref();
            let place =
                match Repository::connect(&inner.transport, &config, endpoint, &reference, auth, &Aim::Pull)
                    .await
                {
                    Ok(place) => Arc::new(place),
                    Err(e) => {
                        failure = Some(e);
                        continue;
                    }
                };
            match resolve(&place, &reference, &what, &platform).await {
                Ok(resolved) => {
                    progress(Progress::of(&*what, format!("Pulling from {}", reference.path())));
                    return self.pull_resolved(&reference, &place, resolved, progress).await;
                }
                Err(e) if mirror => failure = Some(e),
                Err(e) => return Err(e),
            }
        }
        Err(failure.unwrap_or_else(|| {
            Error::new(
                Kind::Unavailable,
                format!("no address for {}", reference.domain()),
            )
        }))
    }

    async fn pull_resolved(
        &self,
        reference: &Reference,
        repository: &Arc<Repository>,
        resolved: Resolved,
        progress: &(impl Fn(Progress) + Send + Sync),
    ) -> Result<Pulled> {
        let inner = &self.inner;
        let mut digests: Vec<Digest> = resolved.layers.iter().flat_map(|l| [l.diff_id, l.blob]).collect();
        digests.extend([
            resolved.target.digest,
            resolved.own.digest,
            resolved.manifest.config.digest,
        ]);
        let lease = inner.lease(digests.clone()).await;
        let own = resolved.own.digest;
        let record = PullRecord {
            format: files::FORMAT,
            manifest: own,
            reference: reference.to_string(),
            needs: digests,
            begun: files::now(),
        };
        let work = Arc::clone(inner);
        blocking(move || {
            let _writer = work.writer();
            work.begin_pull(record)
        })
        .await?;
        let fetched = fetch_layers(inner, repository, &resolved.layers, progress).await;
        let stored = match fetched {
            Ok(()) => self.store_pulled(reference, &resolved).await,
            Err(e) => Err(e),
        };
        // A connection that failed may come back, and so may this pull. Of all else that no record needs, nothing is left
        // before the caller hears of it.
        let goes_on = matches!(&stored, Err(e) if matches!(e.kind(), Kind::Unavailable | Kind::Denied));
        let work = Arc::clone(inner);
        blocking(move || {
            if !goes_on {
                let _writer = work.writer();
                work.end_pull(&own)?;
            }
            lease.end()?;
            work.forget_pulls(files::now() - PULL_KEPT).map(drop)
        })
        .await?;
        let newer = stored?;
        inner.sync_soon();
        progress(Progress::line(format!("Digest: {}", resolved.target.digest)));
        let familiar = reference.familiar();
        progress(Progress::line(if newer {
            format!("Status: Downloaded newer image for {familiar}")
        } else {
            format!("Status: Image is up to date for {familiar}")
        }));
        let image = self.resolve(&resolved.manifest.config.digest.to_string())?;
        Ok(Pulled {
            image,
            digest: resolved.target.digest,
            newer,
        })
    }

    /// Blobs, then the image's record, then its names: each step leads only to what is on the disk.
    async fn store_pulled(&self, reference: &Reference, resolved: &Resolved) -> Result<bool> {
        let inner = Arc::clone(&self.inner);
        let record = ImageRecord {
            format: files::FORMAT,
            id: resolved.manifest.config.digest,
            manifest: Some(resolved.own.digest),
            layers: resolved.layers.clone(),
            packed: Vec::new(),
            parent: None,
            stored: files::now(),
            last_used: files::now(),
        };
        let blobs = [
            resolved.config.clone(),
            resolved.own.bytes.clone(),
            resolved.target.bytes.clone(),
        ];
        let target = resolved.target.digest;
        let mut names = vec![reference.with_digest(&target.to_string())?.to_string()];
        if reference.tag().is_some() && reference.digest().is_none() {
            names.push(lookup_name(reference));
        }
        blocking(move || {
            let _writer = inner.writer();
            for blob in &blobs {
                inner.content.put(blob)?;
            }
            let id = record.id;
            inner.store_image(record, &blobs[0])?;
            // By digest first: the tag's is the news.
            names
                .into_iter()
                .try_fold(false, |_, name| inner.store_ref(name, id, Some(target)))
        })
        .await
    }
}

async fn resolve(
    repository: &Repository,
    reference: &Reference,
    what: &str,
    platform: &Platform,
) -> Result<Resolved> {
    let target = repository.manifest(what).await?;
    let mut own = target.clone();
    let mut depth = 0;
    let manifest = loop {
        match parse(&own.bytes, own.media_type.as_deref())? {
            Document::Manifest(manifest) => break manifest,
            Document::Index(_) if depth == INDEX_DEPTH_MAX => {
                return Err(Error::invalid(format!(
                    "{}: indexes nested too deep",
                    reference.familiar()
                )));
            }
            Document::Index(entries) => {
                let Some(entry) = choose(&entries, platform) else {
                    let text = format!("no matching manifest for {platform} in the manifest list entries");
                    return Err(Error::not_found(text));
                };
                own = repository.manifest(&entry.digest.to_string()).await?;
                if own.bytes.len() as u64 != entry.size {
                    return Err(Error::invalid(format!(
                        "manifest {} has not the size its index says",
                        entry.digest
                    )));
                }
            }
        }
        depth += 1;
    };
    let config = repository.small_blob(&manifest.config, CONFIG_MAX).await?;
    let layers = layers(&manifest.layers, &config)?;
    Ok(Resolved {
        target,
        own,
        manifest,
        config,
        layers,
    })
}

/// Pairs the manifest's blobs with the configuration's DiffIDs.
pub(super) fn layers(blobs: &[Descriptor], config: &[u8]) -> Result<Vec<BlobRef>> {
    let (config, _) = parse_config(config)?;
    let diff_ids = layers_of(&config)?;
    if config.os().to_string() != "linux" {
        let text = format!(
            "image operating system {:?} cannot be used on this platform: linux",
            config.os().to_string()
        );
        return Err(Error::new(Kind::Unsupported, text));
    }
    if diff_ids.len() != blobs.len() {
        let text = format!(
            "the manifest has {} layers, the configuration {}",
            blobs.len(),
            diff_ids.len()
        );
        return Err(Error::invalid(text));
    }
    let pair = |(blob, layer): (&Descriptor, &crate::image::Layer)| BlobRef {
        diff_id: layer.diff_id,
        blob: blob.digest,
        size: blob.size,
        media_type: blob.media_type.clone(),
    };
    Ok(blobs.iter().zip(&diff_ids).map(pair).collect())
}

async fn fetch_layers(
    inner: &Arc<Inner>,
    repository: &Arc<Repository>,
    layers: &[BlobRef],
    progress: &(impl Fn(Progress) + Send + Sync),
) -> Result<()> {
    let mut flights = Vec::new();
    for layer in layers {
        let id = layer.blob.short();
        if inner.state().layers.contains_key(&layer.diff_id) {
            progress(Progress::of(id, "Already exists"));
        } else {
            progress(Progress::of(&*id, "Pulling fs layer"));
            flights.push((layer, inner.flights.join(inner, layer, repository)));
        }
    }
    // The first that fails ends the others: their flights are dropped with this future.
    try_join_all(flights.iter().map(|(layer, flight)| {
        let mut shown = Stage::Waiting;
        let mut waiting = false;
        flight.follow(move |stage| {
            let id = layer.blob.short();
            for line in lines(&id, layer.size, &mut shown, stage, &mut waiting) {
                progress(line);
            }
        })
    }))
    .await
    .map(|_| ())
}

/// The lines docker shows when a layer goes from one stage to the next. Stages in between may have been too short to be seen.
fn lines(id: &str, size: u64, shown: &mut Stage, now: &Stage, waiting: &mut bool) -> Vec<Progress> {
    let mut out = Vec::new();
    let rank = |stage: &Stage| match stage {
        Stage::Waiting => 0,
        Stage::Downloading(_) => 1,
        Stage::Verifying => 2,
        Stage::Extracting => 3,
        Stage::Complete => 4,
        Stage::Failed(..) => 5,
    };
    let (from, to) = (rank(shown), rank(now));
    match now {
        Stage::Waiting if !*waiting => {
            *waiting = true;
            out.push(Progress::of(id, "Waiting"));
        }
        Stage::Downloading(done) => out.push(Progress::bytes(id, "Downloading", *done, size)),
        Stage::Waiting | Stage::Failed(..) => {}
        Stage::Verifying | Stage::Extracting | Stage::Complete => {
            if from < 2 {
                out.push(Progress::of(id, "Verifying Checksum"));
                out.push(Progress::of(id, "Download complete"));
            }
            if from < 3 && to >= 3 {
                out.push(Progress::bytes(id, "Extracting", size, size));
            }
            if to == 4 {
                out.push(Progress::of(id, "Pull complete"));
            }
        }
    }
    *shown = now.clone();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_ends_with_the_same_lines() {
        let mut shown = Stage::Waiting;
        let mut waiting = false;
        let mut all = Vec::new();
        for stage in [
            Stage::Waiting,
            Stage::Waiting,
            Stage::Downloading(5),
            Stage::Extracting,
            Stage::Complete,
        ] {
            all.extend(
                lines("a", 10, &mut shown, &stage, &mut waiting)
                    .into_iter()
                    .map(|p| p.status),
            );
        }
        let want = [
            "Waiting",
            "Downloading",
            "Verifying Checksum",
            "Download complete",
            "Extracting",
            "Pull complete",
        ];
        assert_eq!(all, want);
    }
}
