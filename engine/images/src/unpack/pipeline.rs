//! One layer, one pass, one stage for each kind of work:
//!
//! ```text
//! chunks ─► digest + write the blob ─► inflate ─► DiffID ─► extract
//! ```
//!
//! SHA-256 is slower than inflate (see `dependencies.md`), so the two hashes and inflate each get a thread; extraction runs on
//! the caller's. Between stages lie short bounded queues: a slow disk slows the download, and memory does not grow.

use std::io::{self, BufRead, Read};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use bytes::Bytes;

use super::extract::{Extracted, extract};
use super::inflate::{Inflate, Packing};
use crate::content::BlobDraft;
use crate::digest::{Digest, Hasher};
use crate::{Error, Kind, Result};

/// Chunks between two stages.
pub(crate) const QUEUE: usize = 8;
/// Bytes inflated at a time. Under the allocator's mmap threshold, so that buffers are reused and not mapped anew.
const INFLATED_CHUNK: usize = 96 << 10;

/// What a blob has to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expect {
    /// Digest of the blob, where it is known beforehand.
    pub blob: Option<(Digest, u64)>,
    /// Digest of the tar inside, where it is known.
    pub diff_id: Option<Digest>,
    /// What was hashed on the way in and need not be again.
    pub trust: Trust,
}

/// How far a blob's digest is known to be right: one that `load` has spooled was hashed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    Nothing,
    /// The blob is what [`Expect::blob`] says.
    Blob,
    /// And it is a plain tar, so its digest is the DiffID as well.
    Tar,
}

/// What a blob was.
#[derive(Debug)]
pub(crate) struct Unpacked {
    pub blob: Digest,
    pub blob_size: u64,
    pub diff_id: Digest,
    pub packing: Packing,
    pub extracted: Extracted,
}

/// Where chunks come from: the network's queue or a file.
pub(crate) trait Chunks {
    /// The next chunk; `None` at the end. An error ends everything.
    fn next(&mut self) -> Option<Result<Bytes>>;
}

/// A blob that is on the disk already.
#[derive(Debug)]
pub(crate) struct FileChunks<R>(pub R);

impl<R: Read> Chunks for FileChunks<R> {
    fn next(&mut self) -> Option<Result<Bytes>> {
        let mut buffer = vec![0; INFLATED_CHUNK];
        match self.0.read(&mut buffer) {
            Ok(0) => None,
            Ok(n) => {
                buffer.truncate(n);
                Some(Ok(buffer.into()))
            }
            Err(e) => Some(Err(crate::archive::tar::input_error(e))),
        }
    }
}

/// Runs a blob through all stages. Verified when it returns `Ok`: size, digest and DiffID are as expected.
///
/// # Errors
/// `Invalid` when the content is not what was expected, or not a layer. A wrong digest is told rather than the garbage it led to.
pub(crate) fn run(
    chunks: impl Chunks + Send,
    blob: Option<&mut BlobDraft>,
    expect: Expect,
    root: OwnedFd,
) -> Result<Unpacked> {
    thread::scope(|scope| {
        let (to_inflate, from_digest) = sync_channel(QUEUE);
        let (to_diff, from_inflate) = sync_channel(QUEUE);
        let (to_extract, from_diff) = sync_channel(QUEUE);
        let spawn_error =
            |e: io::Error| Error::new(Kind::Unavailable, "start an unpacking thread").caused_by(e);
        let named = |name: &str| thread::Builder::new().name(name.to_owned());
        let digest = named("layer-digest")
            .spawn_scoped(scope, move || digest_stage(chunks, blob, expect, &to_inflate));
        let digest = digest.map_err(spawn_error)?;
        let inflate =
            named("layer-inflate").spawn_scoped(scope, move || inflate_stage(from_digest, &to_diff));
        let inflate = inflate.map_err(spawn_error)?;
        let diff =
            named("layer-diffid").spawn_scoped(scope, move || diff_stage(&from_inflate, &to_extract, expect));
        let diff = diff.map_err(spawn_error)?;
        let extracted = extract(QueueReader::new(from_diff), root);
        let panicked = || Error::new(Kind::Internal, "an unpacking thread panicked");
        let diff_id = diff.join().map_err(|_| panicked())?;
        let packing = inflate.join().map_err(|_| panicked())?;
        // In this order: a damaged download explains everything after it, and bad packing explains a bad tar.
        let (blob, blob_size) = digest.join().map_err(|_| panicked())??;
        let packing = packing?;
        let extracted = extracted?;
        if let Some(want) = expect.diff_id
            && want != diff_id
        {
            let text =
                format!("layer content {diff_id} is not the {want} that the image's configuration names");
            return Err(Error::invalid(text));
        }
        Ok(Unpacked {
            blob,
            blob_size,
            diff_id,
            packing,
            extracted,
        })
    })
}

/// Hashes and stores the blob. Goes on when a later stage gave up: only the digest tells a damaged blob from a bad layer.
fn digest_stage(
    mut chunks: impl Chunks,
    mut blob: Option<&mut BlobDraft>,
    expect: Expect,
    next: &SyncSender<Result<Bytes>>,
) -> Result<(Digest, u64)> {
    let mut hasher = Hasher::new();
    let mut size = 0u64;
    while let Some(chunk) = chunks.next() {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(e) => {
                // The stages behind must not take the break for the end.
                let _ = next.send(Err(Error::invalid("the layer is incomplete")));
                return Err(e);
            }
        };
        size += chunk.len() as u64;
        if let Some((digest, want)) = expect.blob
            && size > want
        {
            let _ = next.send(Err(Error::invalid("the layer is too long")));
            return Err(Error::invalid(format!(
                "blob {digest} is longer than the {want} bytes its manifest says"
            )));
        }
        if expect.trust == Trust::Nothing {
            hasher.update(&chunk);
        }
        if let Some(blob) = blob.as_deref_mut() {
            blob.write(&chunk)?;
        }
        let _ = next.send(Ok(chunk));
    }
    let trusted = expect.blob.filter(|_| expect.trust != Trust::Nothing);
    let digest = trusted.map_or_else(|| hasher.finish(), |(digest, _)| digest);
    if let Some((want, want_size)) = expect.blob {
        let wrong = if size != want_size {
            Some(format!("blob {want} is truncated: {size} bytes of {want_size}"))
        } else if digest != want {
            Some(format!(
                "filesystem layer verification failed for digest {want}: the content is {digest}"
            ))
        } else {
            None
        };
        if let Some(wrong) = wrong {
            let _ = next.send(Err(Error::invalid("the layer is not what was asked for")));
            return Err(Error::invalid(wrong));
        }
    }
    Ok((digest, size))
}

fn inflate_stage(input: Receiver<Result<Bytes>>, next: &SyncSender<Result<Bytes>>) -> Result<Packing> {
    let run = || -> Result<Packing> {
        let (mut inflate, packing) = Inflate::new(QueueReader::new(input))?;
        loop {
            let mut buffer = vec![0; INFLATED_CHUNK];
            let mut filled = 0;
            while filled < buffer.len() {
                match inflate.read(&mut buffer[filled..]) {
                    Ok(0) => break,
                    Ok(n) => filled += n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(crate::archive::tar::input_error(e)),
                }
            }
            buffer.truncate(filled);
            if filled == 0 || next.send(Ok(buffer.into())).is_err() {
                return Ok(packing);
            }
        }
    };
    run().inspect_err(|e| {
        let _ = next.send(Err(Error::new(e.kind(), "unpack the layer")));
    })
}

/// Hashes what was inflated. When extraction gave up, the hash is of no use and the error is known.
fn diff_stage(input: &Receiver<Result<Bytes>>, next: &SyncSender<Result<Bytes>>, expect: Expect) -> Digest {
    let known = expect
        .blob
        .map(|(digest, _)| digest)
        .filter(|_| expect.trust == Trust::Tar);
    let mut hasher = Hasher::new();
    for chunk in input {
        if let (Ok(bytes), None) = (&chunk, known) {
            hasher.update(bytes);
        }
        if next.send(chunk).is_err() {
            break;
        }
    }
    known.unwrap_or_else(|| hasher.finish())
}

/// A queue as a buffered reader, without copying.
struct QueueReader {
    queue: Receiver<Result<Bytes>>,
    chunk: Bytes,
    broken: bool,
}

impl QueueReader {
    fn new(queue: Receiver<Result<Bytes>>) -> Self {
        Self {
            queue,
            chunk: Bytes::new(),
            broken: false,
        }
    }
}

impl BufRead for QueueReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.chunk.is_empty() {
            match self.queue.recv() {
                Ok(Ok(chunk)) => self.chunk = chunk,
                Ok(Err(e)) => {
                    self.broken = true;
                    return Err(io::Error::other(e));
                }
                Err(_) if self.broken => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(_) => break,
            }
        }
        Ok(&self.chunk)
    }

    fn consume(&mut self, n: usize) {
        bytes::Buf::advance(&mut self.chunk, n);
    }
}

impl Read for QueueReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let chunk = self.fill_buf()?;
        let n = chunk.len().min(into.len());
        into[..n].copy_from_slice(&chunk[..n]);
        self.consume(n);
        Ok(n)
    }
}
