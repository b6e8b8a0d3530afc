//! `/images`, but for what streams (see `pull.rs`).

use super::times;
use crate::server::body::{Reply, json, status};
use crate::server::call::Call;
use crate::server::errors::ApiError;
use crate::server::versions::ApiVersion;
use http::StatusCode;
use kelson_api::{
    Filters, GraphDriver, HistoryItem, ImageConfig, ImageDeleteItem, ImageInspect, ImageMetadata,
    ImageSummary, ImagesPruneReport, Map, RootFs, ZERO_TIME,
};
use kelson_core::Engine;
use kelson_formats::Reference;
use kelson_formats::duration::go_duration;
use kelson_images::{Image, ImageId, Removed};
use std::collections::{HashMap, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};

/// What `info` and `inspect` call the storage driver. Clients know this name.
pub const STORAGE_DRIVER: &str = "overlay2";

/// One image as the list shows it.
pub fn summary(image: &Image, version: ApiVersion) -> ImageSummary {
    let size = i64::try_from(image.size()).unwrap_or(i64::MAX);
    let (mut repo_tags, mut repo_digests) = (image.repo_tags().to_vec(), image.repo_digests().to_vec());
    // Before 1.43 an image without a name was listed under this one.
    if version < ApiVersion(43) && repo_tags.is_empty() {
        if repo_digests.is_empty() {
            repo_digests.push("<none>@<none>".to_owned());
        }
        repo_tags.push("<none>:<none>".to_owned());
    }
    ImageSummary {
        id: image.id().to_string(),
        parent_id: image.parent().map(ToString::to_string).unwrap_or_default(),
        repo_tags,
        repo_digests,
        created: image.created_unix(),
        size,
        shared_size: -1,
        virtual_size: if version < ApiVersion(44) { size } else { 0 },
        labels: labels(image),
        containers: -1,
    }
}

fn run_config(image: &Image) -> ImageConfig {
    serde_json::from_value(image.run_config().clone()).unwrap_or_default()
}

fn labels(image: &Image) -> Option<Map<String>> {
    run_config(image).labels
}

/// `GET /images/json`.
pub async fn list(call: Call) -> Result<Reply, ApiError> {
    let filters = call.query.filters()?;
    filters.only(&["dangling", "label", "before", "since", "reference", "until"])?;
    let mut filters = filters;
    // The oldest clients pass the name as a parameter of its own.
    if let Some(name) = call.query.some("filter") {
        filters.add("reference", name);
    }
    let engine = call.app.engine().await?;
    let wanted = Wanted::read(&engine, &filters)?;
    let images = engine.images().list();
    let shared = match call.query.flag("shared-size") {
        true => engine.images().shared_sizes(),
        false => HashMap::new(),
    };
    // What others were committed on, and nobody has named, is shown to those only who want all.
    let parents: HashSet<&ImageId> = match call.query.flag("all") {
        true => HashSet::new(),
        false => images.iter().filter_map(Image::parent).collect(),
    };
    let is_named = |image: &Image| !(image.repo_tags().is_empty() && image.repo_digests().is_empty());
    let shown: Vec<ImageSummary> = images
        .iter()
        .filter(|image| is_named(image) || !parents.contains(image.id()))
        .filter(|image| wanted.takes(image))
        .map(|image| {
            let mut summary = summary(image, call.version);
            if let Some(bytes) = shared.get(image.id()) {
                summary.shared_size = i64::try_from(*bytes).unwrap_or(i64::MAX);
            }
            wanted.trim(summary)
        })
        .collect();
    json(StatusCode::OK, &shown)
}

/// The filters of the list, decided once.
struct Wanted<'a> {
    filters: &'a Filters,
    dangling: Option<bool>,
    /// Nanoseconds since 1970.
    before: Option<i128>,
    since: Option<i128>,
    /// Seconds since 1970.
    until: Option<i64>,
}

impl<'a> Wanted<'a> {
    fn read(engine: &Engine, filters: &'a Filters) -> Result<Self, ApiError> {
        let created = |key: &str| -> Result<Vec<i128>, ApiError> {
            let created = |name| Ok(engine.images().resolve(name)?.created_nanos());
            filters.get(key).map(created).collect()
        };
        let until = match filters.get("until").next() {
            None => None,
            Some(text) => Some(until(text, now())?),
        };
        Ok(Wanted {
            filters,
            dangling: filters.boolean("dangling")?,
            // Of several the one that says most: all of them are meant.
            before: created("before")?.into_iter().min(),
            since: created("since")?.into_iter().max(),
            until,
        })
    }

    fn takes(&self, image: &Image) -> bool {
        let created = image.created_nanos();
        let named = || {
            image
                .repo_tags()
                .iter()
                .chain(image.repo_digests())
                .any(|n| self.names(n))
        };
        self.dangling
            .is_none_or(|wanted| wanted == image.repo_tags().is_empty())
            && self.before.is_none_or(|at| created < at)
            && self.since.is_none_or(|at| created > at)
            && self.until.is_none_or(|at| image.created_unix() < at)
            && (!self.filters.has("label")
                || self
                    .filters
                    .labels_match("label", &labels(image).unwrap_or_default()))
            && (!self.filters.has("reference") || named())
    }

    fn names(&self, name: &str) -> bool {
        !self.filters.has("reference")
            || self
                .filters
                .get("reference")
                .any(|pattern| reference_matches(pattern, name))
    }

    /// With a reference filter only the names that matched are shown.
    fn trim(&self, mut summary: ImageSummary) -> ImageSummary {
        if self.filters.has("reference") {
            summary.repo_tags.retain(|n| self.names(n));
            summary.repo_digests.retain(|n| self.names(n));
        }
        summary
    }
}

/// Go's `reference.FamiliarMatch`: the pattern against the whole name, or the name without tag and digest.
fn reference_matches(pattern: &str, name: &str) -> bool {
    let bare = match name.split_once('@') {
        Some((bare, _)) => bare,
        None => match name.rsplit_once(':') {
            Some((bare, tag)) if !tag.contains('/') => bare,
            _ => name,
        },
    };
    let pattern = pattern.as_bytes();
    glob(pattern, name.as_bytes()) || glob(pattern, bare.as_bytes())
}

/// Go's `path.Match` without character classes: `*` and `?` do not match a slash.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            let run = text.iter().position(|b| *b == b'/').unwrap_or(text.len());
            (0..=run).any(|skip| glob(rest, &text[skip..]))
        }
        (Some((b'?', rest)), Some((c, tail))) => *c != b'/' && glob(rest, tail),
        (Some((p, rest)), Some((c, tail))) => p == c && glob(rest, tail),
        (None, Some(_)) | (Some(_), None) => false,
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// `until`: a point in time, or a Go duration (`24h`, `1h30m`) before now. Seconds since 1970.
fn until(text: &str, now: i64) -> Result<i64, ApiError> {
    if let Some(duration) = go_duration(text) {
        return Ok(now.saturating_sub(i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)));
    }
    let nanos = times::parse(text)?.unwrap_or_default();
    i64::try_from(nanos.div_euclid(1_000_000_000))
        .map_err(|_| ApiError::invalid(format!("invalid time {text:?}")))
}

/// `GET /images/{name}/json`.
pub async fn inspect(call: Call) -> Result<Reply, ApiError> {
    let engine = call.app.engine().await?;
    crate::wiring::ensure_hello(&engine, call.var("name")).await;
    let image = engine.images().resolve(call.var("name"))?;
    let config = image.config();
    let raw = |key: &str| {
        image
            .raw_config()
            .get(key)
            .and_then(|v| v.as_str())
            .unwrap_or_default()
            .to_owned()
    };
    let size = i64::try_from(image.size()).unwrap_or(i64::MAX);
    let layers: Vec<String> = image.layers().iter().map(|l| l.diff_id.to_string()).collect();
    let shown = ImageInspect {
        id: image.id().to_string(),
        repo_tags: image.repo_tags().to_vec(),
        repo_digests: image.repo_digests().to_vec(),
        parent: image.parent().map(ToString::to_string).unwrap_or_default(),
        comment: config
            .history()
            .iter()
            .flatten()
            .last()
            .and_then(|h| h.comment().clone())
            .unwrap_or_default(),
        created: image.created().unwrap_or_default().to_owned(),
        docker_version: raw("docker_version"),
        author: raw("author"),
        config: Some(run_config(&image)),
        architecture: raw("architecture"),
        variant: raw("variant"),
        os: raw("os"),
        os_version: raw("os.version"),
        size,
        virtual_size: if call.version < ApiVersion(44) { size } else { 0 },
        graph_driver: GraphDriver {
            data: None,
            name: STORAGE_DRIVER.to_owned(),
        },
        root_fs: RootFs {
            r#type: "layers".to_owned(),
            layers: Some(layers),
        },
        metadata: ImageMetadata {
            last_tag_time: ZERO_TIME.to_owned(),
        },
    };
    if call.version >= ApiVersion(50) {
        return json(StatusCode::OK, &shown);
    }
    // Before 1.50 `Config` had a container's whole configuration, empty fields and all.
    let mut value = serde_json::to_value(&shown).map_err(|e| ApiError::internal(e.to_string()))?;
    let whole: kelson_api::ContainerConfig =
        serde_json::from_value(image.run_config().clone()).unwrap_or_default();
    value["Config"] = serde_json::to_value(whole).map_err(|e| ApiError::internal(e.to_string()))?;
    json(StatusCode::OK, &value)
}

/// `GET /images/{name}/history`.
pub async fn history(call: Call) -> Result<Reply, ApiError> {
    let rows = call.app.engine().await?.images().history(call.var("name"))?;
    let shown: Vec<HistoryItem> = rows
        .into_iter()
        .map(|row| HistoryItem {
            id: row.id.map_or_else(|| "<missing>".to_owned(), |id| id.to_string()),
            created: row.created_unix,
            created_by: row.created_by,
            tags: Some(row.tags).filter(|t| !t.is_empty()),
            size: i64::try_from(row.size).unwrap_or(i64::MAX),
            comment: row.comment,
        })
        .collect();
    json(StatusCode::OK, &shown)
}

/// A repository and a tag as two parameters; `None` when there is no repository.
///
/// # Errors
/// 400 for a name out of grammar, or one that has a digest.
pub fn repo_and_tag(repo: &str, tag: &str) -> Result<Option<Reference>, ApiError> {
    if repo.is_empty() {
        return Ok(None);
    }
    let reference = Reference::parse(repo)?;
    if reference.digest().is_some() {
        return Err(ApiError::invalid("cannot import digest reference"));
    }
    Ok(Some(if tag.is_empty() {
        reference.with_default_tag()
    } else {
        reference.with_tag(tag)?
    }))
}

/// `POST /images/{name}/tag`.
pub async fn tag(call: Call) -> Result<Reply, ApiError> {
    let Some(target) = repo_and_tag(call.query.get("repo"), call.query.get("tag"))? else {
        return Err(ApiError::invalid("invalid reference format"));
    };
    let engine = call.app.engine().await?;
    let image = engine.images().tag(call.var("name"), &target).await?;
    engine.image_event("tag", &image.id().to_string(), &[("name", &target.familiar())]);
    Ok(status(StatusCode::CREATED))
}

fn deleted(removed: Vec<Removed>) -> Vec<ImageDeleteItem> {
    let one = |item| match item {
        Removed::Untagged(name) => ImageDeleteItem {
            untagged: name,
            ..ImageDeleteItem::default()
        },
        Removed::Deleted(id) | Removed::DeletedLayer(id) => ImageDeleteItem {
            deleted: id.to_string(),
            ..ImageDeleteItem::default()
        },
    };
    removed.into_iter().map(one).collect()
}

/// `DELETE /images/{name}`.
pub async fn remove(call: Call) -> Result<Reply, ApiError> {
    let name = call.var("name");
    let removed = call
        .app
        .engine()
        .await?
        .image_remove(name, call.query.flag("force"), !call.query.flag("noprune"))
        .await?;
    json(StatusCode::OK, &deleted(removed))
}

/// `POST /images/prune`.
pub async fn prune(call: Call) -> Result<Reply, ApiError> {
    let filters = call.query.filters()?;
    filters.only(&["dangling", "label", "label!", "until", "unused-for"])?;
    let all = filters.boolean("dangling")? == Some(false);
    let created_before = filters
        .get("until")
        .next()
        .map(|text| until(text, now()))
        .transpose()?;
    let unused_for = filters.get("unused-for").next().map(|text| {
        go_duration(text).ok_or_else(|| {
            ApiError::invalid(format!(
                "invalid filter 'unused-for={text}': not a duration like 336h"
            ))
        })
    });
    let unused_for = unused_for.transpose()?;
    let wanted = |image: &Image| {
        let labels = labels(image).unwrap_or_default();
        created_before.is_none_or(|at| image.created_unix() < at)
            && filters.labels_match("label", &labels)
            && !(filters.has("label!") && filters.labels_match("label!", &labels))
    };
    let pruned = call
        .app
        .engine()
        .await?
        .image_prune(all, unused_for, &wanted)
        .await?;
    let images_deleted = Some(deleted(pruned.removed)).filter(|d| !d.is_empty());
    json(
        StatusCode::OK,
        &ImagesPruneReport {
            images_deleted,
            space_reclaimed: pruned.reclaimed,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_match_as_in_go() {
        let yes = |p, n| assert!(reference_matches(p, n), "{p} {n}");
        let no = |p, n| assert!(!reference_matches(p, n), "{p} {n}");
        yes("busybox", "busybox:latest");
        yes("busy*", "busybox:1.2");
        yes("busybox:latest", "busybox:latest");
        yes("*/*", "a/b:1");
        yes("a/b", "a/b@sha256:00");
        yes("host:5000/x", "host:5000/x:1");
        yes("b?sybox", "busybox:latest");
        no("busy", "busybox:latest");
        no("*", "a/b:1");
        no("busybox:1", "busybox:2");
    }

    #[test]
    fn until_is_a_duration_or_a_time() {
        assert_eq!(until("1h30m", 10_000).unwrap(), 4600);
        assert_eq!(until("12.5", 10_000).unwrap(), 12);
        assert_eq!(until("1970-01-01T00:00:09Z", 0).unwrap(), 9);
        assert!(until("x", 0).is_err());
        assert!(until("-1h", 0).is_err());
    }

    #[test]
    fn names_in_two_parameters() {
        assert_eq!(repo_and_tag("", "x").unwrap(), None);
        assert_eq!(repo_and_tag("a", "").unwrap().unwrap().familiar(), "a:latest");
        assert_eq!(
            repo_and_tag("h:5000/a", "t").unwrap().unwrap().familiar(),
            "h:5000/a:t"
        );
        assert_eq!(repo_and_tag("A", "").unwrap_err().status, StatusCode::BAD_REQUEST);
    }
}
