//! Writing a layer's members into its directory, and nowhere else.
//!
//! Every parent directory is resolved by `openat2` with the layer's directory as `/`, so a link of the layer can lead
//! anywhere inside and nowhere outside; the last name is only ever used with calls that do not follow links. Whiteouts become
//! overlayfs' own (a 0/0 character device, `trusted.overlay.opaque`).

use std::ffi::OsStr;
use std::io::BufRead;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, fchmod, fchown, fsetxattr,
    futimens,
};
use rustix::io::Errno;
use tar::EntryType;

use super::name::{Target, clean, refuse, split, target};
use crate::archive::tar::{Entry, TarReader};
use crate::error::Doing;
use crate::limits::{DIR_NAMES_MAX, ENTRIES_MAX};
use crate::snapshots::open_in_root;
use crate::{Error, Kind, Result};

/// Attributes by which overlayfs finds its way: from an image they could point a directory at another layer's.
const OVERLAY_XATTRS: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
const OPAQUE: &str = "trusted.overlay.opaque";

/// What an extraction made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Extracted {
    /// Bytes of regular files.
    pub size: u64,
    /// Whether the layer sets its root directory's attributes.
    pub has_root: bool,
}

/// Extracting into a root that is in use, rather than into a layer: names have no second meaning there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Into {
    /// The directory that members go to, clean, from the root.
    pub prefix: Vec<u8>,
    /// A directory is never replaced by something else, nor the other way round.
    pub keep_kinds: bool,
    /// Everything belongs to this user and group.
    pub owner: Option<(u32, u32)>,
}

struct Extractor {
    root: OwnedFd,
    into: Option<Into>,
    /// The directory the last member went to: members of one directory follow each other.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Directories get their times last; writing into them changes these.
    dir_times: Vec<(Vec<u8>, (i64, u32))>,
    /// Bytes of the names in `dir_times`.
    dir_names: usize,
    made: Extracted,
}

fn os(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

/// Extracts a whole tar into the (empty) directory, to the end of the input.
///
/// # Errors
/// `Invalid` for what a layer may not hold, `Internal` when the disk refuses. What was made stays; the caller removes it.
pub(crate) fn extract(input: impl BufRead, root: OwnedFd) -> Result<Extracted> {
    run(input, root, None)
}

/// Extracts into a directory of a mounted root. Links on the way are followed inside the root, as its processes would.
///
/// # Errors
/// As [`extract`], and `Invalid` for what [`Into::keep_kinds`] forbids. What was made before stays.
pub(crate) fn extract_into(input: impl BufRead, root: OwnedFd, into: Into) -> Result<()> {
    run(input, root, Some(into)).map(drop)
}

fn run(input: impl BufRead, root: OwnedFd, into: Option<Into>) -> Result<Extracted> {
    let mut tar = TarReader::new(input);
    let mut extractor = Extractor {
        root,
        into,
        parent: None,
        dir_times: Vec::new(),
        dir_names: 0,
        made: Extracted::default(),
    };
    let mut entries = 0u64;
    while let Some(entry) = tar.next_entry()? {
        entries += 1;
        if entries > ENTRIES_MAX {
            return Err(Error::invalid(format!(
                "the layer has more than {ENTRIES_MAX} entries"
            )));
        }
        match extractor.into.is_some() {
            true => extractor.foreign(entry, &mut tar)?,
            false => extractor.entry(&entry, &mut tar)?,
        }
    }
    tar.drain()?;
    extractor.finish()
}

impl Extractor {
    fn entry<R: BufRead>(&mut self, entry: &Entry, tar: &mut TarReader<R>) -> Result<()> {
        let target = target(&entry.path)?;
        let path = match &target {
            Target::Skip => return Ok(()),
            Target::Entry(path) | Target::Whiteout(path) | Target::Opaque(path) => path.as_slice(),
        };
        let doing = || format!("extract {:?}", String::from_utf8_lossy(path));
        match &target {
            Target::Skip => Ok(()),
            Target::Opaque(dir) => self.opaque(dir),
            Target::Whiteout(path) => self.whiteout(path),
            Target::Entry(path) if path.is_empty() => self.root_entry(entry),
            Target::Entry(path) => self.place(path, entry, tar),
        }
        .doing(doing)
    }

    /// A member of an archive that is no layer.
    fn foreign<R: BufRead>(&mut self, mut entry: Entry, tar: &mut TarReader<R>) -> Result<()> {
        let Some(into) = &self.into else { return Ok(()) };
        let inside = |name: &[u8]| match into.prefix.as_slice() {
            b"" => name.to_vec(),
            prefix => [prefix, b"/", name].concat(),
        };
        let path = clean(&entry.path)?;
        if path.is_empty() {
            return Ok(());
        }
        let path = inside(&path);
        if entry.kind == EntryType::Link {
            entry.link = inside(&clean(&entry.link)?);
        }
        if let Some((uid, gid)) = into.owner {
            (entry.uid, entry.gid) = (uid, gid);
        }
        if into.keep_kinds {
            self.check_kind(&path, &entry)?;
        }
        let doing = || format!("extract {:?}", String::from_utf8_lossy(&path));
        self.place(&path, &entry, tar).doing(doing)
    }

    fn check_kind(&self, path: &[u8], entry: &Entry) -> Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(there) = open_in_root(self.root.as_fd(), os(path), flags, Mode::empty()) else {
            return Ok(());
        };
        let stat = rustix::fs::fstat(&there).doing(|| "look at what is there")?;
        let (was, is) = (
            FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
            entry.kind == EntryType::Directory,
        );
        let named = || String::from_utf8_lossy(path).into_owned();
        match (was, is) {
            (true, false) => Err(Error::invalid(format!(
                "cannot overwrite directory \"/{}\" with non-directory",
                named()
            ))),
            (false, true) => Err(Error::invalid(format!(
                "cannot overwrite non-directory \"/{}\" with directory",
                named()
            ))),
            _ => Ok(()),
        }
    }

    fn root_entry(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != EntryType::Directory {
            return Err(refuse(&entry.path, "would replace the layer's root"));
        }
        self.made.has_root = true;
        set_attributes(self.root.as_fd(), entry)?;
        self.dir_times.push((Vec::new(), entry.mtime));
        Ok(())
    }

    fn place<R: BufRead>(&mut self, path: &[u8], entry: &Entry, tar: &mut TarReader<R>) -> Result<()> {
        let (dir, base) = split(path);
        let base = os(base);
        if entry.kind == EntryType::Directory {
            let made = self.directory(dir, base)?;
            set_attributes(made.as_fd(), entry)?;
            self.dir_names += path.len();
            if self.dir_names > DIR_NAMES_MAX {
                return Err(Error::invalid(format!(
                    "the layer's directory names take more than {DIR_NAMES_MAX} bytes"
                )));
            }
            self.dir_times.push((path.to_vec(), entry.mtime));
            // The next members most often lie in it.
            self.parent = Some((path.to_vec(), made));
            return Ok(());
        }
        // A hard link's target is found before the old entry of this name goes: it may be that very entry.
        let link = match entry.kind {
            EntryType::Link => Some(self.link_target(&entry.link)?),
            _ => None,
        };
        if link.as_ref().is_some_and(|(_, target_path)| target_path == path) {
            return Err(refuse(&entry.path, "is a hard link to itself"));
        }
        let parent = self.parent(dir)?;
        let create = || match entry.kind {
            EntryType::Regular => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(parent, base, flags, Mode::from_raw_mode(0o600)).map(Some)
            }
            EntryType::Symlink => rustix::fs::symlinkat(os(&entry.link), parent, base).map(|()| None),
            EntryType::Char => make_node(parent, base, FileType::CharacterDevice, entry).map(|()| None),
            EntryType::Block => make_node(parent, base, FileType::BlockDevice, entry).map(|()| None),
            EntryType::Fifo => make_node(parent, base, FileType::Fifo, entry).map(|()| None),
            EntryType::Link => {
                let Some((target_dir, target_path)) = &link else {
                    return Err(Errno::NOENT);
                };
                let target = os(split(target_path).1);
                rustix::fs::linkat(target_dir, target, parent, base, AtFlags::empty()).map(|()| None)
            }
            _ => Err(Errno::NOSYS),
        };
        let made = match create() {
            Err(Errno::EXIST) => {
                remove(parent, base).doing(|| "replace it")?;
                let made = create();
                // Through a link the cached directory may be reached by a name that now means something else.
                self.parent = None;
                made
            }
            made => made,
        };
        let file = match made {
            Err(Errno::NOSYS) => {
                let what = format!(
                    "member type {:?} is not supported",
                    char::from(entry.kind.as_byte())
                );
                return Err(Error::new(Kind::Unsupported, what));
            }
            Err(Errno::NOENT | Errno::PERM | Errno::NOTDIR) if entry.kind == EntryType::Link => {
                return Err(refuse(&entry.link, "is no file of this layer to link to"));
            }
            made => made.doing(|| "make it")?,
        };
        match file {
            Some(file) => {
                self.made.size += write_data(file.as_fd(), entry, tar)?;
                set_attributes(file.as_fd(), entry)?;
                futimens(&file, &times(entry.mtime)).doing(|| "set its time")
            }
            None if entry.kind == EntryType::Link => Ok(()),
            None => {
                let parent = self.parent(dir)?;
                set_attributes_at(parent, base, entry)
            }
        }
    }

    /// Resolves a hard link's target to its directory and clean path.
    fn link_target(&self, link: &[u8]) -> Result<(OwnedFd, Vec<u8>)> {
        let path = clean(link)?;
        if path.is_empty() {
            return Err(refuse(link, "is no file of this layer to link to"));
        }
        match open_in_root(self.root.as_fd(), os(split(&path).0), DIR, Mode::empty()) {
            Ok(dir) => Ok((dir, path)),
            Err(_) => Err(refuse(link, "is no file of this layer to link to")),
        }
    }

    /// The directory members are put in, made if the layer does not list it.
    fn parent(&mut self, dir: &[u8]) -> Result<BorrowedFd<'_>> {
        if self.parent.as_ref().is_none_or(|(path, _)| path != dir) {
            let fd = self.open_dir(dir)?;
            self.parent = Some((dir.to_vec(), fd));
        }
        Ok(self
            .parent
            .as_ref()
            .map_or(self.root.as_fd(), |(_, fd)| fd.as_fd()))
    }

    fn open_dir(&self, dir: &[u8]) -> Result<OwnedFd> {
        match open_in_root(self.root.as_fd(), os(dir), DIR, Mode::empty()) {
            Ok(fd) => Ok(fd),
            Err(Errno::NOENT | Errno::NOTDIR) => self.make_dirs(dir),
            Err(e) => Err(e).doing(|| "open its directory"),
        }
    }

    /// Makes the directories on the way that are not there, 0755 root.
    fn make_dirs(&self, dir: &[u8]) -> Result<OwnedFd> {
        let mut at =
            open_in_root(self.root.as_fd(), Path::new("."), DIR, Mode::empty()).doing(|| "open the layer")?;
        let mut end = 0;
        loop {
            let rest = &dir[end..];
            let next = rest
                .iter()
                .position(|&b| b == b'/')
                .map_or(dir.len(), |n| end + n);
            let (path, base) = (&dir[..next], os(&dir[end..next]));
            at = match open_in_root(self.root.as_fd(), os(path), DIR, Mode::empty()) {
                Ok(fd) => fd,
                Err(Errno::NOENT | Errno::NOTDIR) => {
                    let made = make_dir(at.as_fd(), base)?;
                    fchmod(&made, Mode::from_raw_mode(0o755)).doing(|| "make its directory")?;
                    made
                }
                Err(e) => return Err(e).doing(|| "open its directory"),
            };
            if next == dir.len() {
                return Ok(at);
            }
            end = next + 1;
        }
    }

    /// A directory member: kept with its content when it is there already.
    fn directory(&mut self, dir: &[u8], base: &Path) -> Result<OwnedFd> {
        let parent = self.parent(dir)?;
        match make_dir(parent, base) {
            Ok(made) => Ok(made),
            Err(e) if e.kind() != Kind::Invalid => Err(e),
            Err(_) => {
                // Something else has the name: the later member of an archive counts.
                remove(parent, base).doing(|| "replace it")?;
                make_dir(parent, base)
            }
        }
    }

    /// Hides a path of the layers below. If this layer has it, it hides already; a directory must then not let them through.
    fn whiteout(&mut self, path: &[u8]) -> Result<()> {
        if path.is_empty() {
            return Err(refuse(path, "would hide the layer's root"));
        }
        let (dir, base) = split(path);
        let base = os(base);
        let parent = self.parent(dir)?;
        match rustix::fs::mknodat(parent, base, FileType::CharacterDevice, Mode::empty(), 0) {
            Err(Errno::EXIST) => {
                let stat =
                    rustix::fs::statat(parent, base, AtFlags::SYMLINK_NOFOLLOW).doing(|| "look at it")?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    let fd = rustix::fs::openat(parent, base, DIR | OFlags::NOFOLLOW, Mode::empty());
                    return set_opaque(fd.doing(|| "open it")?.as_fd());
                }
                Ok(())
            }
            made => made.doing(|| "make the whiteout"),
        }
    }

    fn opaque(&mut self, dir: &[u8]) -> Result<()> {
        let fd = self.parent(dir)?;
        set_opaque(fd)
    }

    fn finish(self) -> Result<Extracted> {
        for (path, mtime) in &self.dir_times {
            // Not every directory still is one: a later member may have replaced it.
            let opened = open_in_root(self.root.as_fd(), os(path), DIR | OFlags::NOFOLLOW, Mode::empty());
            if let Ok(dir) = opened {
                let name = || format!("set the time of {:?}", String::from_utf8_lossy(path));
                futimens(&dir, &times(*mtime)).doing(name)?;
            }
        }
        Ok(self.made)
    }
}

const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Makes or enters the directory `base`; a whiteout in its place means that it hides what the layers below have.
/// `Invalid` when something else is there.
fn make_dir(parent: BorrowedFd<'_>, base: &Path) -> Result<OwnedFd> {
    let mut hides = false;
    match rustix::fs::mkdirat(parent, base, Mode::from_raw_mode(0o700)) {
        Err(Errno::EXIST) => {
            let stat = rustix::fs::statat(parent, base, AtFlags::SYMLINK_NOFOLLOW).doing(|| "look at it")?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {}
                FileType::CharacterDevice if stat.st_rdev == 0 => {
                    rustix::fs::unlinkat(parent, base, AtFlags::empty()).doing(|| "replace the whiteout")?;
                    rustix::fs::mkdirat(parent, base, Mode::from_raw_mode(0o700)).doing(|| "make it")?;
                    hides = true;
                }
                _ => return Err(refuse(base.as_os_str().as_bytes(), "is not a directory")),
            }
        }
        made => made.doing(|| "make it")?,
    }
    let fd = rustix::fs::openat(parent, base, DIR | OFlags::NOFOLLOW, Mode::empty()).doing(|| "open it")?;
    if hides {
        set_opaque(fd.as_fd())?;
    }
    Ok(fd)
}

fn set_opaque(dir: BorrowedFd<'_>) -> Result<()> {
    fsetxattr(dir, OPAQUE, b"y", XattrFlags::empty()).doing(|| "mark it opaque")
}

fn make_node(parent: BorrowedFd<'_>, base: &Path, kind: FileType, entry: &Entry) -> rustix::io::Result<()> {
    let device = match kind {
        FileType::Fifo => 0,
        _ => rustix::fs::makedev(entry.device.0, entry.device.1),
    };
    rustix::fs::mknodat(parent, base, kind, Mode::from_raw_mode(0o600), device)
}

/// Removes whatever has this name.
fn remove(parent: BorrowedFd<'_>, base: &Path) -> std::io::Result<()> {
    match rustix::fs::unlinkat(parent, base, AtFlags::empty()) {
        Err(Errno::ISDIR) => std::fs::remove_dir_all(through_fd(parent, base)),
        other => Ok(other?),
    }
}

/// A path for the calls that take no descriptor. `/proc/self/fd/N` is the directory itself, and the last name is not
/// followed by any call this is given to.
fn through_fd(parent: BorrowedFd<'_>, base: &Path) -> PathBuf {
    Path::new("/proc/self/fd")
        .join(parent.as_raw_fd().to_string())
        .join(base)
}

fn write_data<R: BufRead>(file: BorrowedFd<'_>, entry: &Entry, tar: &mut TarReader<R>) -> Result<u64> {
    let whole = [(0, entry.size)];
    let regions = entry.sparse.as_deref().unwrap_or(&whole);
    let mut written = 0u64;
    for &(offset, length) in regions {
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let chunk = tar.fill()?;
            let n = chunk.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            if n == 0 {
                return Err(Error::invalid("malformed tar: a member is shorter than its size"));
            }
            let n = if entry.sparse.is_some() {
                rustix::io::pwrite(file, &chunk[..n], at)
            } else {
                rustix::io::write(file, &chunk[..n])
            };
            let n = match n {
                Err(Errno::INTR) => continue,
                n => n.doing(|| "write it")?,
            };
            tar.consume(n);
            at += n as u64;
        }
        written += length;
    }
    if entry.sparse.is_some() {
        rustix::fs::ftruncate(file, entry.size).doing(|| "set its size")?;
    }
    Ok(written)
}

fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanos.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Owner first: a change of owner clears the set-id bits and `security.capability`.
fn set_attributes(file: BorrowedFd<'_>, entry: &Entry) -> Result<()> {
    fchown(
        file,
        Some(Uid::from_raw(entry.uid)),
        Some(Gid::from_raw(entry.gid)),
    )
    .doing(|| "set its owner")?;
    fchmod(file, Mode::from_raw_mode(entry.mode)).doing(|| "set its mode")?;
    for (name, value) in wanted_xattrs(entry) {
        kept(fsetxattr(file, name, value, XattrFlags::empty()), name)?;
    }
    Ok(())
}

/// The same for what cannot be opened: links, devices, fifos.
fn set_attributes_at(parent: BorrowedFd<'_>, base: &Path, entry: &Entry) -> Result<()> {
    let (uid, gid) = (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
    rustix::fs::chownat(parent, base, uid, gid, AtFlags::SYMLINK_NOFOLLOW).doing(|| "set its owner")?;
    if entry.kind != EntryType::Symlink {
        // We made it a moment ago in a directory nobody else enters, and it is no link.
        rustix::fs::chmodat(parent, base, Mode::from_raw_mode(entry.mode), AtFlags::empty())
            .doing(|| "set its mode")?;
    }
    for (name, value) in wanted_xattrs(entry) {
        kept(
            rustix::fs::lsetxattr(through_fd(parent, base), name, value, XattrFlags::empty()),
            name,
        )?;
    }
    rustix::fs::utimensat(parent, base, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
        .doing(|| "set its time")
}

fn wanted_xattrs(entry: &Entry) -> impl Iterator<Item = (&OsStr, &[u8])> {
    let ours = |name: &[u8]| OVERLAY_XATTRS.iter().any(|prefix| name.starts_with(prefix));
    let wanted = entry.xattrs.iter().filter(move |(name, _)| !ours(name));
    wanted.map(|(name, value)| (OsStr::from_bytes(name), value.as_slice()))
}

/// A file system without attributes, or one that allows none of this kind on this file (`user.` on a link), is no reason
/// to refuse an image; docker decides the same.
fn kept(result: rustix::io::Result<()>, name: &OsStr) -> Result<()> {
    match result {
        Err(Errno::NOTSUP) => Ok(()),
        Err(Errno::PERM) if name.as_bytes().starts_with(b"user.") => Ok(()),
        other => other.doing(|| format!("set its attribute {}", name.display())),
    }
}

#[cfg(test)]
mod tests;
