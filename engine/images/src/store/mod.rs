//! The image store: its public face.

mod check;
mod commit;
mod flight;
mod inner;
mod load;
mod pull;
mod push;
mod rebuild;
mod remote;
mod roots;
mod save;
mod state;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use kelson_formats::Reference;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::config::{ImagesConfig, Platform, PullOptions, PushOptions};
use crate::digest::{Digest, ImageId};
use crate::files;
use crate::image::{HistoryEntry, Image};
use crate::progress::Progress;
use crate::registry::referrers::Referrer;
use crate::remove::{self, Request};
use crate::remove::{InUse, Removed};
use crate::{Error, Result};
pub use check::{Finding, Repair};
pub use commit::CommitOptions;
use inner::Inner;
pub(crate) use inner::blocking;
pub use remote::RemoteManifest;
pub(crate) use state::BlobRef;

/// The image store. Cheap to clone; all clones are one store.
#[derive(Debug, Clone)]
pub struct Images {
    inner: Arc<Inner>,
}

/// What a pull brought.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// The image.
    pub image: Image,
    /// Digest of the manifest or index the registry gave.
    pub digest: Digest,
    /// Whether the name pointed elsewhere before, or nowhere ("Downloaded newer image").
    pub newer: bool,
}

/// One name a push gave an image at its registry.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// The tag.
    pub tag: String,
    /// Digest of the manifest.
    pub digest: Digest,
    /// Bytes of the manifest.
    pub size: u64,
}

/// One image of a loaded archive.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The names it was given; none for an archive without names.
    pub references: Vec<Reference>,
    /// Its id.
    pub id: ImageId,
}

/// How to make an image of a root file system.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The name it gets.
    pub reference: Option<Reference>,
    /// Dockerfile instructions: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR.
    pub changes: Vec<String>,
    /// Text for the history.
    pub message: String,
    /// The platform it is said to be for; the host's without.
    pub platform: Option<Platform>,
}

/// An image of one static program, carried by the daemon itself.
#[derive(Debug, Clone)]
pub struct EmbeddedImage<'a> {
    /// Its name, e.g. `kelson/hello:latest`.
    pub name: &'a str,
    /// Absolute path of the program inside.
    pub path: &'a str,
    /// The program.
    pub binary: &'a [u8],
    /// Arguments after the program.
    pub cmd: &'a [&'a str],
    /// `80/tcp`.
    pub exposed_ports: &'a [&'a str],
    /// What `stop` sends first.
    pub stop_signal: &'a str,
    /// Labels.
    pub labels: &'a [(&'a str, &'a str)],
    /// When the program was released, RFC 3339: part of the image, so that its digest depends on nothing else.
    pub created: &'a str,
}

/// What a prune removed.
#[derive(Debug, Clone, Default)]
pub struct Pruned {
    /// In docker's order.
    pub removed: Vec<Removed>,
    /// Bytes given back to the disk.
    pub reclaimed: u64,
}

/// Bytes on disk, by owner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Unpacked layers, each counted once.
    pub layers: u64,
    /// Blobs.
    pub content: u64,
}

impl Images {
    /// Opens (or makes) the store below `root` (DATA_ROOT). Reads every record, removes what a crash left half made.
    ///
    /// # Errors
    /// `Internal` when the directories cannot be made or read; `Invalid` for a root that overlay mounts cannot name;
    /// `Unsupported` for records of a newer build.
    pub fn open(root: &Path, config: ImagesConfig) -> Result<Self> {
        Inner::open(root, config).map(|inner| Self { inner })
    }

    /// Replaces the registry settings (daemon reload); running pulls keep the old ones.
    pub fn reconfigure(&self, config: ImagesConfig) {
        *self.inner.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    /// Pulls an image. The reference gets `latest` when it has neither tag nor digest. Dropping the future ends the pull.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `Unavailable` with docker's sentences; `Invalid` for content that does not match its digest.
    /// Nothing is stored then.
    pub async fn pull(
        &self,
        reference: &Reference,
        options: PullOptions,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<Pulled> {
        self.pull_image(reference, options, &progress).await
    }

    /// Pushes an image under its name; all tags of a repository when the reference has none. What the registry has already is
    /// not sent; layers that lie unpacked in the store are packed first, always to the same bytes.
    ///
    /// # Errors
    /// `NotFound` for a name we do not have, `Denied` and `Unavailable` with docker's sentences.
    pub async fn push(
        &self,
        reference: &Reference,
        options: PushOptions,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<Vec<Pushed>> {
        push::push(&self.inner, reference, &options, &progress).await
    }

    /// Lists what refers to an image at its registry: signatures, attestations, lists of contents. `options` say who we are.
    ///
    /// # Errors
    /// As [`Images::pull`].
    pub async fn referrers(
        &self,
        reference: &Reference,
        options: &PullOptions,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Referrer>> {
        push::referrers(&self.inner, reference, options, artifact_type).await
    }

    /// Loads `docker save`'s archive or an OCI layout in a tar, plain or compressed.
    ///
    /// # Errors
    /// `Invalid` for a malformed archive; nothing is stored then.
    pub async fn load(
        &self,
        archive: impl AsyncRead + Send + Unpin + 'static,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<Vec<Loaded>> {
        let loaded = load::load(&self.inner, archive).await?;
        self.inner.sync_soon();
        for image in &loaded {
            if image.references.is_empty() {
                progress(Progress::line(format!("Loaded image ID: {}", image.id)));
            }
            for reference in &image.references {
                progress(Progress::line(format!("Loaded image: {}", reference.familiar())));
            }
        }
        Ok(loaded)
    }

    /// Writes images as `docker save` does: one tar that is an OCI layout and docker's archive at once. The same images give the
    /// same bytes.
    ///
    /// # Errors
    /// As [`Images::resolve`]; `Internal` when the receiver refuses.
    pub async fn save(&self, names: &[String], out: impl AsyncWrite + Send + Unpin + 'static) -> Result<()> {
        save::save(&self.inner, names, out).await
    }

    /// Makes an image of one layer from a root file system's tar, plain or compressed.
    ///
    /// # Errors
    /// `Invalid` for a malformed tar or change.
    pub async fn import(
        &self,
        rootfs: impl AsyncRead + Send + Unpin + 'static,
        options: ImportOptions,
    ) -> Result<ImageId> {
        let id = load::import(&self.inner, rootfs, options).await?;
        self.inner.sync_soon();
        Ok(id)
    }

    /// Makes the embedded image if it is not there. The same binary gives the same id everywhere.
    ///
    /// # Errors
    /// `Internal` when the disk refuses.
    pub async fn ensure_embedded(&self, image: EmbeddedImage<'_>) -> Result<Image> {
        let id = load::ensure_embedded(&self.inner, image).await?;
        self.resolve(&id.to_string())
    }

    /// All images, newest first. Reads memory only.
    #[must_use]
    pub fn list(&self) -> Vec<Image> {
        let mut images: Vec<Image> = {
            let state = self.inner.state();
            state.images.values().map(|entry| state.view(entry)).collect()
        };
        images.sort_by_cached_key(|image| (std::cmp::Reverse(image.created_unix()), *image.id()));
        images
    }

    /// Finds an image by name, id, or the beginning of an id. Reads memory only.
    ///
    /// # Errors
    /// `NotFound` ("No such image: x:latest"), `Invalid` for a name out of grammar or an ambiguous beginning.
    pub fn resolve(&self, name: &str) -> Result<Image> {
        let state = self.inner.state();
        state.find(name).map(|entry| state.view(entry))
    }

    /// Notes that a container was made from the image now. Blocking, one small write.
    pub fn touch(&self, id: &ImageId) {
        if let Err(e) = self.inner.touch(id) {
            tracing::warn!(image = %id, error = %e, "last use not recorded");
        }
    }

    /// When a container was last made from the image, or it was stored; seconds since the epoch.
    #[must_use]
    pub fn last_used(&self, id: &ImageId) -> Option<i64> {
        self.inner
            .state()
            .images
            .get(id)
            .map(|entry| entry.record.last_used)
    }

    /// Of each image the bytes of those layers that another image has, too. Reads memory only.
    #[must_use]
    pub fn shared_sizes(&self) -> HashMap<ImageId, u64> {
        let state = self.inner.state();
        let mut uses: HashMap<Digest, usize> = HashMap::new();
        let layers = state.images.values().flat_map(|e| &e.data.layers);
        layers.for_each(|l| *uses.entry(l.chain_id).or_default() += 1);
        let size = |l: &crate::Layer| state.layers.get(&l.diff_id).map_or(0, |layer| layer.size);
        let shared = |e: &state::Entry| {
            let shared = e.data.layers.iter().filter(|l| uses[&l.chain_id] > 1);
            shared.map(size).sum()
        };
        state.images.values().map(|e| (e.record.id, shared(e))).collect()
    }

    /// Rows of `docker history`, newest first.
    ///
    /// # Errors
    /// As [`Images::resolve`].
    pub fn history(&self, name: &str) -> Result<Vec<HistoryEntry>> {
        let image = self.resolve(name)?;
        let sizes: Vec<u64> = {
            let state = self.inner.state();
            image
                .layers()
                .iter()
                .map(|l| state.layers.get(&l.diff_id).map_or(0, |layer| layer.size))
                .collect()
        };
        let mut rows = image.history_rows(&sizes);
        let state = self.inner.state();
        for (row, id) in rows.iter_mut().skip(1).zip(state.ancestors(image.id())) {
            row.id = Some(id);
            row.tags = state
                .images
                .get(&id)
                .map(|e| state.view(e).repo_tags)
                .unwrap_or_default();
        }
        Ok(rows)
    }

    /// Gives an image a further name; moves the name if it was taken.
    ///
    /// # Errors
    /// As [`Images::resolve`]; `Invalid` for a target with a digest.
    pub async fn tag(&self, source: &str, target: &Reference) -> Result<Image> {
        if target.digest().is_some() {
            return Err(Error::invalid("refusing to create a tag with a digest reference"));
        }
        let inner = Arc::clone(&self.inner);
        let source = source.to_owned();
        let name = state::lookup_name(target);
        let id = blocking(move || {
            let _writer = inner.writer();
            let id = inner.state().find(&source)?.record.id;
            inner.store_ref(name, id, None)?;
            Ok(id)
        })
        .await?;
        self.resolve(&id.to_string())
    }

    /// Removes a name, and the image with its last name; with `parents` also those that it was committed on, while they have no
    /// name and no other use.
    ///
    /// # Errors
    /// `NotFound`, or `Conflict` with docker's sentences.
    pub async fn remove(
        &self,
        name: &str,
        force: bool,
        parents: bool,
        in_use: &(dyn Fn(&ImageId) -> Option<InUse> + Send + Sync),
    ) -> Result<Vec<Removed>> {
        let (id, by_name, ancestors) = {
            let state = self.inner.state();
            let id = state.find(name)?.record.id;
            let by_name = Reference::parse(name).ok().map(|r| state::lookup_name(&r));
            (
                id,
                by_name.filter(|n| state.refs.get(n).is_some_and(|r| r.image == id)),
                if parents { state.ancestors(&id) } else { Vec::new() },
            )
        };
        // Asked before the writer's turn: the answer comes from another part of the daemon.
        let unused: Vec<ImageId> = ancestors
            .into_iter()
            .take_while(|parent| in_use(parent).is_none())
            .collect();
        let in_use = in_use(&id);
        let inner = Arc::clone(&self.inner);
        let name = name.to_owned();
        blocking(move || {
            let writer = inner.writer();
            let (names, has_children) = {
                let state = inner.state();
                // Somebody was faster: the image has gone, or its name is another's now and not ours to take.
                let gone = !state.images.contains_key(&id);
                let names = state.names_of(&id);
                if gone || by_name.as_ref().is_some_and(|n| !names.contains(n)) {
                    return Err(state::no_such(&name));
                }
                (names, state.has_children(&id))
            };
            let request = Request {
                name: &name,
                by_name,
                id,
                names,
                force,
                in_use,
                has_children,
            };
            let plan = remove::plan(&request)?;
            let (mut removed, mut needed) = carry_out(&inner, &id, &plan)?;
            if plan.delete {
                remove_parents(&inner, &unused, &mut removed, &mut needed)?;
            }
            drop(writer);
            inner.collect(&needed)?;
            Ok(removed)
        })
        .await
    }

    /// Removes images no container and no other image uses: those without a name, or `all`; only those that are `wanted`, and not
    /// used for `unused_for` where given. What they were committed on goes too, when it has no name.
    ///
    /// # Errors
    /// `Internal` when the disk refuses.
    pub async fn prune(
        &self,
        all: bool,
        unused_for: Option<Duration>,
        wanted: &(dyn Fn(&Image) -> bool + Send + Sync),
        in_use: &(dyn Fn(&ImageId) -> Option<InUse> + Send + Sync),
    ) -> Result<Pruned> {
        let oldest =
            unused_for.map(|d| files::now().saturating_sub(i64::try_from(d.as_secs()).unwrap_or(i64::MAX)));
        let candidates: Vec<Image> = {
            let state = self.inner.state();
            let old = |entry: &state::Entry| oldest.is_none_or(|oldest| entry.record.last_used <= oldest);
            state
                .images
                .values()
                .filter(|e| old(e) && (all || !state.is_tagged(&e.record.id)))
                .map(|e| state.view(e))
                .collect()
        };
        let candidates = candidates
            .iter()
            .filter(|image| wanted(image))
            .map(|image| *image.id());
        let mut unused: Vec<ImageId> = candidates.filter(|id| in_use(id).is_none()).collect();
        {
            // Those that were committed last come first: what they were committed on is free then.
            let state = self.inner.state();
            unused.sort_by_cached_key(|id| std::cmp::Reverse(state.ancestors(id).len()));
        }
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let mut pruned = Pruned::default();
            for id in unused {
                let writer = inner.writer();
                let untag = {
                    let state = inner.state();
                    // Looked at again in our turn: it may have got a tag since, or gone.
                    let tagged = !all && state.is_tagged(&id);
                    if !state.images.contains_key(&id) || tagged || state.has_children(&id) {
                        continue;
                    }
                    state.names_of(&id)
                };
                let plan = remove::Plan { untag, delete: true };
                let (removed, needed) = carry_out(&inner, &id, &plan)?;
                drop(writer);
                pruned.removed.extend(removed);
                pruned.reclaimed += inner.collect(&needed)?;
            }
            // What broken pulls left is of no image, so no filter speaks for it but the age.
            pruned.reclaimed += inner.forget_pulls(oldest.unwrap_or(i64::MAX))?;
            Ok(pruned)
        })
        .await
    }

    /// Compares the disk with the records; empty when they agree.
    ///
    /// # Errors
    /// `Internal` when a directory cannot be listed.
    pub async fn check(&self) -> Result<Vec<Finding>> {
        let inner = Arc::clone(&self.inner);
        blocking(move || check::check(&inner)).await
    }

    /// Compares, and repairs what can be repaired.
    ///
    /// # Errors
    /// As [`Images::check`].
    pub async fn repair(&self) -> Result<Vec<Repair>> {
        let inner = Arc::clone(&self.inner);
        blocking(move || check::repair(&inner)).await
    }

    /// Bytes on disk. Reads memory only.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let layers = self.inner.state().layers.values().map(|l| l.size).sum();
        Usage {
            layers,
            content: self.inner.content.bytes(),
        }
    }
}

/// Removes what a removed image was committed on, nearest first, up to one that has a name or another child. The caller has the
/// writer's turn.
fn remove_parents(
    inner: &Arc<Inner>,
    unused: &[ImageId],
    removed: &mut Vec<Removed>,
    needed: &mut Vec<Digest>,
) -> Result<()> {
    for id in unused {
        let alone = {
            let state = inner.state();
            state.images.contains_key(id) && state.names_of(id).is_empty() && !state.has_children(id)
        };
        if !alone {
            break;
        }
        let plan = remove::Plan {
            untag: Vec::new(),
            delete: true,
        };
        let (lines, more) = carry_out(inner, id, &plan)?;
        removed.extend(lines);
        needed.extend(more);
    }
    Ok(())
}

/// Does what a removal decided, in the records; the lines to show, and what was needed for it, to be collected when the turn to
/// write records is another's again.
fn carry_out(inner: &Arc<Inner>, id: &ImageId, plan: &remove::Plan) -> Result<(Vec<Removed>, Vec<Digest>)> {
    let mut removed = Vec::new();
    let mut needed = Vec::new();
    for name in &plan.untag {
        if let Some(record) = inner.drop_ref(name)? {
            needed.extend(record.target);
            let familiar = Reference::parse(name).map_or_else(|_| name.clone(), |r| r.familiar());
            removed.push(Removed::Untagged(familiar));
        }
    }
    if plan.delete {
        let chains: Vec<Digest> = {
            let state = inner.state();
            let layers = |e: &state::Entry| e.data.layers.iter().map(|l| l.chain_id).collect::<Vec<_>>();
            let others = state
                .images
                .iter()
                .filter(|(other, _)| *other != id)
                .flat_map(|(_, e)| layers(e));
            let others: BTreeSet<Digest> = others.collect();
            let mine = state.images.get(id).map(layers).unwrap_or_default();
            mine.into_iter()
                .rev()
                .filter(|chain| !others.contains(chain))
                .collect()
        };
        needed.extend(inner.drop_image(id)?);
        removed.push(Removed::Deleted(*id));
        removed.extend(chains.into_iter().map(Removed::DeletedLayer));
    }
    Ok((removed, needed))
}
