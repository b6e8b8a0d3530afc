//! Blobs by digest: `content/sha256/<hex>`. That a blob is there is a stat; a name appears only after its bytes were
//! verified. Unfinished ones lie in `content/partial/`: those a pull goes on with by digest, the others by number.

pub(crate) mod partial;

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use partial::{Partial, map_path};

use crate::digest::Digest;
use crate::error::Doing;
use crate::files;
use crate::{Error, Result};

/// The blob store.
#[derive(Debug)]
pub(crate) struct Content {
    blobs: PathBuf,
    partial: PathBuf,
    next: AtomicU64,
    bytes: AtomicU64,
    /// Blobs being fetched now.
    fetching: Mutex<HashSet<Digest>>,
    /// Held by every draft.
    drafts: Arc<()>,
}

impl Content {
    /// Opens or makes the store. [`Self::sweep`] comes before any writing.
    pub fn open(root: &Path) -> Result<Self> {
        let blobs = root.join("sha256");
        let partial = root.join("partial");
        files::make_dir(&blobs, 0o700)?;
        files::make_dir(&partial, 0o700)?;
        Ok(Self {
            blobs,
            partial,
            next: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            fetching: Mutex::default(),
            drafts: Arc::default(),
        })
    }

    /// Removes what `keep` refuses, and files that are no blobs. Run once at open, before anything else.
    pub fn sweep(&self, keep: impl Fn(&Digest) -> bool) -> Result<()> {
        let doing = || format!("list {}", self.blobs.display());
        let mut bytes = 0;
        for entry in std::fs::read_dir(&self.blobs).doing(doing)? {
            let entry = entry.doing(doing)?;
            let digest = entry.file_name().to_str().and_then(Digest::from_hex);
            if digest.is_some_and(|d| keep(&d)) {
                bytes += entry.metadata().doing(doing)?.len();
            } else {
                files::remove_file(&entry.path())?;
            }
        }
        self.bytes.store(bytes, Ordering::Relaxed);
        let doing = || format!("list {}", self.partial.display());
        for entry in std::fs::read_dir(&self.partial).doing(doing)? {
            let path = entry.doing(doing)?.path();
            let digest = path.file_stem().and_then(|n| Digest::from_hex(n.to_str()?));
            if digest.is_some_and(|d| keep(&d)) {
                continue;
            }
            if path.is_dir() {
                files::remove_tree(&path)?;
            } else {
                files::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// Whether blobs are being written.
    pub fn is_busy(&self) -> bool {
        Arc::strong_count(&self.drafts) > 1
    }

    /// Digests of all blobs, and of those that are partly here. Reads the disk.
    pub fn list(&self) -> Result<(Vec<Digest>, Vec<Digest>)> {
        let list = |dir: &Path| -> Result<Vec<Digest>> {
            let doing = || format!("list {}", dir.display());
            let mut found = Vec::new();
            for entry in std::fs::read_dir(dir).doing(doing)? {
                let name = entry.doing(doing)?.file_name();
                found.extend(name.to_str().and_then(Digest::from_hex));
            }
            Ok(found)
        };
        Ok((list(&self.blobs)?, list(&self.partial)?))
    }

    /// Bytes of all blobs.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    /// The blob's size, if it is there.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        std::fs::metadata(self.path(digest)).ok().map(|m| m.len())
    }

    /// Opens a blob. Who reads it checks the digest: the disk may have lost it in a crash.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        match File::open(self.path(digest)) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                Err(Error::not_found(format!("blob {digest} is not in the store")))
            }
            other => other.doing(|| format!("open blob {digest}")),
        }
    }

    /// Reads a small blob and checks it.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_blob(digest)?
            .take(limit)
            .read_to_end(&mut bytes)
            .doing(|| format!("read blob {digest}"))?;
        if Digest::of(&bytes) != *digest {
            return Err(Error::invalid(format!("blob {digest} is damaged on disk")));
        }
        Ok(bytes)
    }

    /// Stores a small blob durably.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if self.size(&digest) == Some(bytes.len() as u64) {
            return Ok(digest);
        }
        let mut draft = self.draft()?;
        draft.write(bytes)?;
        draft.sync()?;
        self.commit(draft, &digest)?;
        Ok(digest)
    }

    /// Begins a blob.
    pub fn draft(&self) -> Result<BlobDraft> {
        let path = self
            .partial
            .join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let file = File::create_new(&path).doing(|| format!("make {}", path.display()))?;
        Ok(BlobDraft {
            file,
            path,
            len: 0,
            kept: false,
            _drafts: Arc::clone(&self.drafts),
        })
    }

    /// Gives a verified draft its name.
    pub fn commit(&self, mut draft: BlobDraft, digest: &Digest) -> Result<()> {
        let before = self.size(digest);
        std::fs::rename(&draft.path, self.path(digest)).doing(|| format!("store blob {digest}"))?;
        draft.kept = true;
        self.bytes.fetch_add(draft.len, Ordering::Relaxed);
        self.bytes.fetch_sub(before.unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }

    /// Begins to fetch a blob, or goes on where an earlier pull was cut off. `None` while another fetch of it is under way.
    pub fn fetch(self: &Arc<Self>, digest: Digest, size: u64) -> Result<Option<Fetch>> {
        let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        if fetching.contains(&digest) {
            return Ok(None);
        }
        let partial = Arc::new(Partial::open(self.partial.join(digest.hex()), size)?);
        fetching.insert(digest);
        Ok(Some(Fetch {
            content: Arc::clone(self),
            digest,
            partial,
        }))
    }

    /// Removes a blob, whole or partly here; the bytes the whole one held.
    pub fn remove(&self, digest: &Digest) -> Result<u64> {
        self.forget_partial(digest)?;
        let Some(size) = self.size(digest) else {
            return Ok(0);
        };
        files::remove_file(&self.path(digest))?;
        self.bytes.fetch_sub(size, Ordering::Relaxed);
        Ok(size)
    }

    fn forget_partial(&self, digest: &Digest) -> Result<()> {
        let path = self.partial.join(digest.hex());
        // The map first: bytes without it are worth nothing, a map without its bytes would be a lie.
        files::remove_file(&map_path(&path))?;
        files::remove_file(&path)
    }
}

/// The right to fetch one blob. Dropped, what has arrived stays for the next.
#[derive(Debug)]
pub(crate) struct Fetch {
    content: Arc<Content>,
    digest: Digest,
    pub partial: Arc<Partial>,
}

impl Fetch {
    /// Gives the verified blob its name.
    pub fn commit(self, size: u64) -> Result<()> {
        let content = &self.content;
        let path = content.partial.join(self.digest.hex());
        let before = content.size(&self.digest);
        std::fs::rename(&path, content.path(&self.digest)).doing(|| format!("store blob {}", self.digest))?;
        content.bytes.fetch_add(size, Ordering::Relaxed);
        content.bytes.fetch_sub(before.unwrap_or(0), Ordering::Relaxed);
        files::remove_file(&map_path(&path))
    }

    /// Throws away what has arrived: it is not what was asked for.
    pub fn discard(self) -> Result<()> {
        self.content.forget_partial(&self.digest)
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        let mut fetching = self
            .content
            .fetching
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        fetching.remove(&self.digest);
    }
}

/// A blob being written; dropped, it is gone.
#[derive(Debug)]
pub(crate) struct BlobDraft {
    file: File,
    path: PathBuf,
    len: u64,
    kept: bool,
    _drafts: Arc<()>,
}

impl BlobDraft {
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.len += bytes.len() as u64;
        self.file
            .write_all(bytes)
            .doing(|| format!("write {}", self.path.display()))
    }

    pub fn sync(&self) -> Result<()> {
        self.file
            .sync_data()
            .doing(|| format!("write {}", self.path.display()))
    }

    /// A second handle on the same bytes, from the start.
    pub fn reader(&self) -> Result<File> {
        File::open(&self.path).doing(|| format!("open {}", self.path.display()))
    }
}

impl Drop for BlobDraft {
    fn drop(&mut self) {
        if !self.kept {
            // The next open sweeps what cannot be removed now.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_there_only_when_committed() {
        let dir = tempfile::tempdir().unwrap();
        let content = Content::open(dir.path()).unwrap();
        let digest = Digest::of(b"hello");
        let mut draft = content.draft().unwrap();
        draft.write(b"hello").unwrap();
        assert_eq!(content.size(&digest), None);
        drop(draft);
        assert_eq!(std::fs::read_dir(dir.path().join("partial")).unwrap().count(), 0);
        assert_eq!(content.put(b"hello").unwrap(), digest);
        assert_eq!(content.read(&digest, 100).unwrap(), b"hello");
        assert_eq!(content.bytes(), 5);
        std::fs::write(content.path(&digest), b"jello").unwrap();
        assert!(
            content
                .read(&digest, 100)
                .unwrap_err()
                .to_string()
                .contains("damaged")
        );
        content.sweep(|_| false).unwrap();
        assert_eq!((content.size(&digest), content.bytes()), (None, 0));
    }
}
