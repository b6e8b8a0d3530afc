//! Taking an image archive in: every file goes to the content store's drafts and is hashed on its way, since what a file is
//! for stands in a manifest that usually comes last.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};

use ::tar::EntryType;

use super::tar::TarReader;
use crate::content::{BlobDraft, Content};
use crate::digest::{Digest, Hasher};
use crate::error::Doing;
use crate::unpack::inflate::{Inflate, Packing, sniff};
use crate::unpack::name::{clean, split};
use crate::{Error, Result};

/// Files in an image archive: three for each layer of old archives, and some.
const FILES_MAX: usize = 20_000;
/// Links followed from one name (old `docker save` links equal layers to each other).
const LINKS_MAX: usize = 8;
const BUFFER: usize = 128 << 10;

/// A file of the archive.
#[derive(Debug)]
pub(crate) struct Spooled {
    pub draft: BlobDraft,
    pub digest: Digest,
    pub size: u64,
    pub packing: Packing,
}

/// The files of an archive by clean path.
#[derive(Debug, Default)]
pub(crate) struct Spool {
    files: HashMap<Vec<u8>, Spooled>,
    links: HashMap<Vec<u8>, Vec<u8>>,
}

impl Spool {
    /// Reads the whole archive, plain or compressed.
    ///
    /// # Errors
    /// `Invalid` for a broken one.
    pub fn read(input: impl Read, content: &Content) -> Result<Self> {
        let (inflate, _) = Inflate::new(BufReader::with_capacity(BUFFER, input))?;
        let mut tar = TarReader::new(BufReader::with_capacity(BUFFER, inflate));
        let mut spool = Self::default();
        while let Some(entry) = tar.next_entry()? {
            if spool.files.len() + spool.links.len() >= FILES_MAX {
                return Err(Error::invalid(format!(
                    "the archive has more than {FILES_MAX} files"
                )));
            }
            let path = clean(&entry.path)?;
            match entry.kind {
                EntryType::Regular if entry.sparse.is_none() => {
                    let file = take(&mut tar, content)?;
                    spool.files.insert(path, file);
                }
                EntryType::Symlink => {
                    let (dir, _) = split(&path);
                    let target = clean(&[dir, b"/", entry.link.as_slice()].concat())?;
                    spool.links.insert(path, target);
                }
                EntryType::Link => {
                    spool.links.insert(path, clean(&entry.link)?);
                }
                _ => {}
            }
        }
        tar.drain()?;
        Ok(spool)
    }

    /// The file of this path, through links.
    pub fn get(&self, path: &str) -> Option<&Spooled> {
        let mut path = clean(path.as_bytes()).ok()?;
        for _ in 0..LINKS_MAX {
            if let Some(file) = self.files.get(&path) {
                return Some(file);
            }
            path.clone_from(self.links.get(&path)?);
        }
        None
    }

    /// The blob of an OCI layout with this digest. Its content is what counts, not only its name.
    pub fn blob(&self, digest: &Digest) -> Result<&Spooled> {
        let file = self.get(&format!("blobs/sha256/{}", digest.hex()));
        let file = file.ok_or_else(|| Error::invalid(format!("the archive lacks blob {digest}")))?;
        if file.digest != *digest {
            return Err(Error::invalid(format!(
                "blob {digest} of the archive holds {}",
                file.digest
            )));
        }
        Ok(file)
    }

    /// Reads a small file.
    ///
    /// # Errors
    /// `Invalid` when it is larger than `limit`.
    pub fn bytes(file: &Spooled, limit: u64) -> Result<Vec<u8>> {
        if file.size > limit {
            return Err(Error::invalid(format!(
                "a file of the archive has {} bytes, more than {limit}",
                file.size
            )));
        }
        let mut bytes = Vec::new();
        file.draft
            .reader()?
            .read_to_end(&mut bytes)
            .doing(|| "read a file of the archive")?;
        Ok(bytes)
    }

    /// All files by digest.
    pub fn by_digest(&self) -> HashMap<Digest, &Spooled> {
        self.files.values().map(|file| (file.digest, file)).collect()
    }

    /// Gives out all files by digest, for storing.
    pub fn into_drafts(self) -> HashMap<Digest, BlobDraft> {
        self.files
            .into_values()
            .map(|file| (file.digest, file.draft))
            .collect()
    }
}

fn take<R: BufRead>(tar: &mut TarReader<R>, content: &Content) -> Result<Spooled> {
    let mut draft = content.draft()?;
    let mut hasher = Hasher::new();
    let mut size = 0u64;
    let mut start = Vec::new();
    loop {
        let chunk = tar.fill()?;
        if chunk.is_empty() {
            break;
        }
        if start.len() < 6 {
            start.extend_from_slice(&chunk[..chunk.len().min(6)]);
        }
        hasher.update(chunk);
        draft.write(chunk)?;
        let n = chunk.len();
        size += n as u64;
        tar.consume(n);
    }
    Ok(Spooled {
        draft,
        digest: hasher.finish(),
        size,
        packing: sniff(&start).unwrap_or(Packing::Plain),
    })
}
