//! What the store knows, in memory: read from the records at open, changed only after its record is on disk.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use kelson_formats::{Named, Reference};
use serde::{Deserialize, Serialize};

use crate::digest::{Digest, ImageId};
use crate::image::{Image, ImageData};
use crate::snapshots::{Container, Layer};
use crate::{Error, Result};

/// `images/refs/<name>.json`: what a name points to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RefRecord {
    pub format: u32,
    /// In canonical form, with tag or digest.
    pub reference: String,
    pub image: ImageId,
    /// The manifest or index the registry gave for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Digest>,
    /// Seconds since the epoch.
    pub updated: i64,
}

/// `images/ids/<hex>.json`: an image, named or not.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub format: u32,
    pub id: ImageId,
    /// The image's own manifest, where it came with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    /// The image it was committed on. Lost with the record, and nothing depends on it: the layers are its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ImageId>,
    /// Bottom first.
    pub layers: Vec<BlobRef>,
    /// What layers that lie here unpacked become when they are pushed: packing gives the same bytes each time, so it need
    /// not be done again for a registry that has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packed: Vec<BlobRef>,
    /// Seconds since the epoch.
    pub stored: i64,
    pub last_used: i64,
}

/// `images/pulls/<hex>.json`: a pull that was begun. What it has fetched stays for the next one, whatever ends it, until that
/// one is done, the content turns out to be wrong, or [`PULL_KEPT`] is over.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PullRecord {
    pub format: u32,
    /// The image's own manifest.
    pub manifest: Digest,
    /// For people.
    pub reference: String,
    /// All blobs and layers it needs.
    pub needs: Vec<Digest>,
    /// Seconds since the epoch.
    pub begun: i64,
}

/// How long what a broken pull left is kept, in seconds.
pub(crate) const PULL_KEPT: i64 = 24 * 60 * 60;

/// A layer's blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlobRef {
    pub diff_id: Digest,
    pub blob: Digest,
    pub size: u64,
    pub media_type: String,
}

/// An image with its record.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub record: ImageRecord,
    pub data: Arc<ImageData>,
}

impl Entry {
    /// Everything on disk that must stay while the image does.
    fn holds(&self) -> impl Iterator<Item = Digest> + '_ {
        let layers = self.record.layers.iter().flat_map(|l| {
            // A plain layer's blob has the DiffID's digest; it is counted once for each use, in or out alike.
            [l.diff_id, l.blob]
        });
        layers.chain([self.record.id]).chain(self.record.manifest)
    }
}

/// The maps. Held under a lock that no I/O happens under.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub refs: BTreeMap<String, RefRecord>,
    pub images: BTreeMap<ImageId, Entry>,
    pub layers: HashMap<Digest, Layer>,
    pub containers: HashMap<String, Container>,
    pub pulls: HashMap<Digest, PullRecord>,
    /// Canonical names of each image, with people's form: a list of ten thousand images parses none of them.
    names: HashMap<ImageId, BTreeMap<String, String>>,
    /// How many images, names and containers need a blob or layer.
    uses: HashMap<Digest, usize>,
    /// How many images were committed on an image.
    children: HashMap<ImageId, usize>,
    /// How many pulls and loads under way need it.
    leases: HashMap<Digest, usize>,
    /// Being removed from the disk right now: whoever wants to lease it waits.
    pub deleting: HashSet<Digest>,
}

fn familiar(name: &str) -> String {
    Reference::parse(name).map_or_else(|_| name.to_owned(), |r| r.familiar())
}

fn add(counts: &mut HashMap<Digest, usize>, digest: Digest) {
    *counts.entry(digest).or_default() += 1;
}

fn sub(counts: &mut HashMap<Digest, usize>, digest: Digest) {
    if let Some(count) = counts.get_mut(&digest) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&digest);
        }
    }
}

impl State {
    pub fn put_image(&mut self, entry: Entry) {
        entry.holds().for_each(|d| add(&mut self.uses, d));
        entry
            .record
            .parent
            .iter()
            .for_each(|p| add(&mut self.children, *p));
        if let Some(old) = self.images.insert(entry.record.id, entry) {
            self.forget(&old);
        }
    }

    fn forget(&mut self, old: &Entry) {
        old.holds().for_each(|d| sub(&mut self.uses, d));
        old.record.parent.iter().for_each(|p| sub(&mut self.children, *p));
    }

    pub fn take_image(&mut self, id: &ImageId) -> Option<Entry> {
        let entry = self.images.remove(id)?;
        self.forget(&entry);
        Some(entry)
    }

    /// Sets a name; what it pointed to before.
    pub fn put_ref(&mut self, record: RefRecord) -> Option<RefRecord> {
        let old = self.take_ref(&record.reference);
        record.target.into_iter().for_each(|d| add(&mut self.uses, d));
        self.names
            .entry(record.image)
            .or_default()
            .insert(record.reference.clone(), familiar(&record.reference));
        self.refs.insert(record.reference.clone(), record);
        old
    }

    pub fn take_ref(&mut self, name: &str) -> Option<RefRecord> {
        let record = self.refs.remove(name)?;
        record.target.into_iter().for_each(|d| sub(&mut self.uses, d));
        if let Some(names) = self.names.get_mut(&record.image) {
            names.remove(name);
            if names.is_empty() {
                self.names.remove(&record.image);
            }
        }
        Some(record)
    }

    pub fn put_container(&mut self, container: Container) {
        container.layers.iter().for_each(|d| add(&mut self.uses, *d));
        self.containers.insert(container.container.clone(), container);
    }

    pub fn take_container(&mut self, id: &str) -> Option<Container> {
        let container = self.containers.remove(id)?;
        container.layers.iter().for_each(|d| sub(&mut self.uses, *d));
        Some(container)
    }

    pub fn put_pull(&mut self, record: PullRecord) {
        record.needs.iter().for_each(|d| add(&mut self.uses, *d));
        if let Some(old) = self.pulls.insert(record.manifest, record) {
            old.needs.iter().for_each(|d| sub(&mut self.uses, *d));
        }
    }

    pub fn take_pull(&mut self, manifest: &Digest) -> Option<PullRecord> {
        let record = self.pulls.remove(manifest)?;
        record.needs.iter().for_each(|d| sub(&mut self.uses, *d));
        Some(record)
    }

    /// Whether a pull or load is working with it now.
    pub fn is_leased(&self, digest: &Digest) -> bool {
        self.leases.contains_key(digest)
    }

    /// Leases all or none: none while one of them is being removed.
    pub fn lease(&mut self, digests: &[Digest]) -> bool {
        if digests.iter().any(|d| self.deleting.contains(d)) {
            return false;
        }
        digests.iter().for_each(|d| add(&mut self.leases, *d));
        true
    }

    pub fn unlease(&mut self, digests: &[Digest]) {
        digests.iter().for_each(|d| sub(&mut self.leases, *d));
    }

    /// Whether an image, a name, a container or a pull needs it.
    pub fn is_needed(&self, digest: &Digest) -> bool {
        self.uses.contains_key(digest) || self.leases.contains_key(digest)
    }

    /// The names of an image, canonical.
    pub fn names_of(&self, id: &ImageId) -> Vec<String> {
        self.names
            .get(id)
            .map(|n| n.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// Whether other images were committed on this one.
    pub fn has_children(&self, id: &ImageId) -> bool {
        self.children.contains_key(id)
    }

    /// The images this one was committed on, nearest first, as far as they are there.
    pub fn ancestors(&self, id: &ImageId) -> Vec<ImageId> {
        let parent = |id: &ImageId| {
            self.images
                .get(id)?
                .record
                .parent
                .filter(|p| self.images.contains_key(p))
        };
        std::iter::successors(parent(id), parent)
            .take(self.images.len())
            .collect()
    }

    /// Whether an image has a name other than by digest.
    pub fn is_tagged(&self, id: &ImageId) -> bool {
        self.names
            .get(id)
            .is_some_and(|n| n.keys().any(|n| !n.contains('@')))
    }

    /// The image as the outside sees it.
    pub fn view(&self, entry: &Entry) -> Image {
        let (mut repo_tags, mut repo_digests) = (Vec::new(), Vec::new());
        for (name, familiar) in self.names.get(&entry.record.id).into_iter().flatten() {
            let list = if name.contains('@') {
                &mut repo_digests
            } else {
                &mut repo_tags
            };
            list.push(familiar.clone());
        }
        repo_tags.sort();
        repo_digests.sort();
        Image {
            data: Arc::clone(&entry.data),
            parent: entry.record.parent.filter(|p| self.images.contains_key(p)),
            repo_tags,
            repo_digests,
        }
    }

    /// Numbers of an image's layer directories, bottom first; the DiffID of one that is missing.
    pub fn numbers(&self, layers: &[Digest]) -> std::result::Result<Vec<u64>, Digest> {
        layers
            .iter()
            .map(|d| self.layers.get(d).map(|l| l.number).ok_or(*d))
            .collect()
    }

    /// Finds an image by name, id, or the beginning of an id, in docker's order.
    pub fn find(&self, text: &str) -> Result<&Entry> {
        let named = Named::parse(text);
        match &named {
            Ok(Named::Id(id)) => {
                if let Some(entry) = Digest::parse(id).ok().and_then(|id| self.images.get(&id)) {
                    return Ok(entry);
                }
            }
            Ok(Named::Name(reference)) => {
                if let Some(record) = self.refs.get(&lookup_name(reference)) {
                    return self.images.get(&record.image).ok_or_else(|| no_such(text));
                }
            }
            Err(_) => {}
        }
        let prefix = text.strip_prefix("sha256:").unwrap_or(text);
        if !prefix.is_empty()
            && prefix.len() < 64
            && prefix.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        {
            let low = Digest::from_hex(&format!("{prefix:0<64}"));
            let mut found = low.into_iter().flat_map(|low| self.images.range(low..));
            let mut fitting = found.by_ref().take_while(|(id, _)| id.hex().starts_with(prefix));
            match (fitting.next(), fitting.next()) {
                (Some((_, entry)), None) => return Ok(entry),
                (Some(_), Some(_)) => {
                    return Err(Error::invalid(format!(
                        "ambiguous image id {text}: more than one image begins with it"
                    )));
                }
                _ => {}
            }
        }
        match named {
            Ok(Named::Name(reference)) => Err(no_such(&reference.with_default_tag().familiar())),
            Ok(Named::Id(_)) => Err(no_such(text)),
            Err(e) => Err(e.into()),
        }
    }
}

pub(crate) fn no_such(name: &str) -> Error {
    Error::not_found(format!("No such image: {name}"))
}

/// The key of a name in the map: by digest if it has one (the tag beside it is only for people), else by tag.
pub(crate) fn lookup_name(reference: &Reference) -> String {
    match reference.digest() {
        Some(digest) => format!("{}@{digest}", reference.name()),
        None => reference.clone().with_default_tag().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_and_uses() {
        let mut state = State::default();
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        assert!(state.lease(&[a, b]) && state.lease(&[a]));
        state.unlease(&[a, b]);
        assert!(state.is_needed(&a) && !state.is_needed(&b));
        state.deleting.insert(b);
        assert!(!state.lease(&[a, b]), "not while it is removed");
        state.unlease(&[a]);
        assert!(!state.is_needed(&a));
    }

    #[test]
    fn names_follow_the_image() {
        let mut state = State::default();
        let record = |name: &str, image: &[u8], target: &[u8]| RefRecord {
            format: 1,
            reference: name.into(),
            image: Digest::of(image),
            target: Some(Digest::of(target)),
            updated: 0,
        };
        state.put_ref(record("docker.io/library/a:1", b"x", b"t"));
        let old = state
            .put_ref(record("docker.io/library/a:1", b"y", b"u"))
            .unwrap();
        assert_eq!(old.image, Digest::of(b"x"));
        assert!(state.names_of(&Digest::of(b"x")).is_empty());
        assert_eq!(state.names_of(&Digest::of(b"y")), ["docker.io/library/a:1"]);
        assert!(state.is_needed(&Digest::of(b"u")) && !state.is_needed(&Digest::of(b"t")));
        let error = state.find("nosuch").unwrap_err();
        assert_eq!(error.to_string(), "No such image: nosuch:latest");
        assert_eq!(state.find("Bad Name").unwrap_err().kind(), crate::Kind::Invalid);
    }
}
