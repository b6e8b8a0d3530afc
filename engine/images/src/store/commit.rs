//! `docker commit`: an image of what a container's root has that its image has not.

use std::collections::HashSet;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::Bytes;
use kelson_formats::Reference;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde_json::{Value, json};

use super::inner::{Inner, Lease, blocking};
use super::load::{new_record, take_layer};
use super::roots::lost;
use super::state::{BlobRef, Entry, lookup_name};
use crate::archive::tree::{TreeWriter, c_name};
use crate::digest::{Digest, ImageId};
use crate::error::Doing;
use crate::snapshots::{Access, Change, ChangeKind, Difference};
use crate::unpack::pipeline::{Chunks, QUEUE};
use crate::{Error, Kind, Result};

/// Before a name: this was deleted. As a name: of this directory nothing of the layers below shows (OCI image-spec, layer.md).
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// The tar goes from the writer to the digest in pieces of this size.
const PIECE: usize = 96 << 10;

/// How to make an image of a container.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// The name it gets.
    pub reference: Option<Reference>,
    /// Its run parameters: docker's `Config`.
    pub config: Value,
    /// Who made it.
    pub author: String,
    /// Text for the history.
    pub comment: String,
    /// What ran in the container, for the history.
    pub created_by: String,
}

/// Makes the image. Nothing is visible before all of it is there.
pub(super) async fn commit(inner: &Arc<Inner>, container: &str, options: CommitOptions) -> Result<ImageId> {
    if options.reference.as_ref().is_some_and(|r| r.digest().is_some()) {
        return Err(Error::invalid("refusing to create a tag with a digest reference"));
    }
    let (parent, found, numbers, needed) = {
        let state = inner.state();
        let none = || Error::not_found(format!("container {container} has no root file system"));
        let found = state.containers.get(container).ok_or_else(none)?.clone();
        let gone = || {
            Error::not_found(format!(
                "No such image: {} (hint: the image of the container was removed by force; export and import still work)",
                found.image
            ))
        };
        let parent = state.images.get(&found.image).ok_or_else(gone)?.clone();
        let numbers = state.numbers(&found.layers).map_err(|d| lost(&d))?;
        let layers = parent.record.layers.iter().flat_map(|l| [l.diff_id, l.blob]);
        let needed: Vec<Digest> = layers.chain([parent.record.id]).collect();
        (parent, found, numbers, needed)
    };
    let lease = inner.lease(needed).await;
    let work = Arc::clone(inner);
    blocking(move || {
        let difference = work.snapshots.changes(&found, &numbers)?;
        let layer = match difference.changes.is_empty() {
            true => None,
            false => {
                let root = work
                    .snapshots
                    .view_container(&found, &numbers, Access::ReadOnly)?;
                Some(pack(&work, root, &difference)?)
            }
        };
        let (layer, fresh) = layer.unzip();
        let id = store(&work, &parent, layer, options)?;
        fresh.map_or(Ok(0), Lease::end)?;
        lease.end()?;
        work.sync_soon();
        Ok(id)
    })
    .await
}

/// The layer, unpacked and stored as it is written.
fn pack(inner: &Arc<Inner>, root: OwnedFd, difference: &Difference) -> Result<(BlobRef, Lease)> {
    let (send, receive) = sync_channel(QUEUE);
    std::thread::scope(|scope| {
        let write = move || {
            let mut out = ToChunks {
                send,
                piece: Vec::with_capacity(PIECE),
            };
            let result =
                write_layer(&root, difference, &mut out).and_then(|()| out.flush().doing(|| "write a layer"));
            if let Err(e) = result {
                // Or a break would pass for the end. Nobody listens when the other side has failed first.
                let _ = out.send.send(Err(e));
            }
        };
        let writer = std::thread::Builder::new().name("layer-tar".into());
        writer
            .spawn_scoped(scope, write)
            .map_err(|e| Error::new(Kind::Unavailable, "start a packing thread").caused_by(e))?;
        take_layer(inner, FromWriter(receive))
    })
}

struct ToChunks {
    send: SyncSender<Result<Bytes>>,
    piece: Vec<u8>,
}

impl Write for ToChunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.send
            .send(Ok(piece.into()))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

struct FromWriter(Receiver<Result<Bytes>>);

impl Chunks for FromWriter {
    fn next(&mut self) -> Option<Result<Bytes>> {
        self.0.recv().ok()
    }
}

/// Writes a layer's tar: the same difference gives the same bytes.
fn write_layer(root: &OwnedFd, difference: &Difference, out: &mut impl Write) -> Result<()> {
    let opaque: HashSet<&Path> = difference.opaque.iter().map(PathBuf::as_path).collect();
    let mut tar = TreeWriter::new(out);
    let mut at: Option<(&Path, OwnedFd)> = None;
    for Change { path, kind } in &difference.changes {
        let (Some(parent), Some(base)) = (path.parent(), path.file_name()) else {
            continue;
        };
        let name = path.as_os_str().as_bytes();
        let name = name.strip_prefix(b"/").unwrap_or(name);
        if base.as_bytes().starts_with(WHITEOUT) {
            return Err(Error::invalid(format!(
                "{} cannot be part of an image: names that begin with .wh. stand for what is deleted",
                path.display()
            )));
        }
        if *kind == ChangeKind::Deleted {
            if !opaque.contains(parent) {
                let folder = &name[..name.len() - base.len()];
                tar.add_mark(&[folder, WHITEOUT, base.as_bytes()].concat())?;
            }
            continue;
        }
        if at.as_ref().is_none_or(|(open, _)| *open != parent) {
            at = open(root, parent)?.map(|dir| (parent, dir));
        }
        // What vanished since is not part of the image.
        let Some((_, dir)) = &at else { continue };
        let is_there = tar.add_one(dir.as_fd(), &c_name(Path::new(base))?, name)?;
        if is_there && opaque.contains(path.as_path()) {
            tar.add_mark(&[name, b"/", OPAQUE].concat())?;
        }
    }
    tar.finish()
}

/// A directory in the root, reached by directories only.
fn open(root: &OwnedFd, path: &Path) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
        Ok(dir) => Ok(Some(dir)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(e) => Err(e).doing(|| format!("open {} of the container", path.display())),
    }
}

/// The configuration, the record, and the name at last.
fn store(inner: &Inner, parent: &Entry, layer: Option<BlobRef>, options: CommitOptions) -> Result<ImageId> {
    let created = jiff::Timestamp::now().to_string();
    let old = &parent.data.raw;
    let mut config = json!({"created": created, "config": options.config});
    for key in ["architecture", "os", "variant", "os.version", "os.features"] {
        if let Some(value) = old.get(key).filter(|v| !v.is_null()) {
            config[key] = value.clone();
        }
    }
    if !options.author.is_empty() {
        config["author"] = json!(options.author);
    }
    let mut entry = json!({"created": created});
    let texts = [
        ("author", options.author),
        ("created_by", options.created_by),
        ("comment", options.comment),
    ];
    for (key, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        entry[key] = json!(text);
    }
    if layer.is_none() {
        entry["empty_layer"] = json!(true);
    }
    let mut history = old
        .get("history")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    history.push(entry);
    config["history"] = json!(history);
    let layers: Vec<BlobRef> = parent.record.layers.iter().cloned().chain(layer).collect();
    let diff_ids: Vec<Digest> = layers.iter().map(|l| l.diff_id).collect();
    config["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
    let bytes = config.to_string().into_bytes();
    let _writer = inner.writer();
    let id = inner.content.put(&bytes)?;
    let mut record = new_record(id, None, layers);
    record.parent = Some(parent.record.id);
    inner.store_image(record, &bytes)?;
    if let Some(reference) = options.reference {
        inner.store_ref(lookup_name(&reference), id, None)?;
    }
    Ok(id)
}
