//! Layers as one tree without any mount: what overlayfs would show, told from the layers' directories (whiteouts, opaque
//! directories), and copies of it. For drivers that give each container a tree of its own.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::Result;
use crate::error::Doing;

const DIR: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
const OVERLAY: &[u8] = b"trusted.overlay.";
const OPAQUE: &str = "trusted.overlay.opaque";
/// All attributes of one file, and their names: the kernel's own limits.
const XATTRS_MAX: usize = 64 << 10;

/// One directory of the merged tree: those of the layers that contribute, top first.
#[derive(Debug)]
pub(super) struct Merged(Vec<OwnedFd>);

/// One name in it.
#[derive(Debug)]
pub(super) struct Member {
    pub stat: Stat,
    /// Which layer has it, counted from the top.
    layer: usize,
}

impl Member {
    pub fn is_dir(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == FileType::Directory
    }
}

/// Names of a directory.
pub(super) fn names(dir: BorrowedFd<'_>) -> rustix::io::Result<Vec<CString>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            found.push(entry.file_name().to_owned());
        }
    }
    Ok(found)
}

fn stat_at(dir: BorrowedFd<'_>, name: &CString) -> rustix::io::Result<Stat> {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Whether a directory hides what the layers below have of its name.
pub(super) fn is_opaque(dir: BorrowedFd<'_>) -> bool {
    let mut value = [0; 1];
    matches!(rustix::fs::fgetxattr(dir, OPAQUE, &mut value), Ok(1) if value == *b"y")
}

/// Whether a directory is one of the layers below, by another name.
pub(super) fn is_redirected(dir: BorrowedFd<'_>) -> bool {
    rustix::fs::fgetxattr(dir, "trusted.overlay.redirect", &mut [0; 0]).is_ok()
}

impl Merged {
    /// The root of these layers, bottom first.
    pub fn root(layers: &[PathBuf]) -> Result<Self> {
        let open = |path: &PathBuf| {
            rustix::fs::open(path, DIR, Mode::empty()).doing(|| format!("open {}", path.display()))
        };
        layers.iter().rev().map(open).collect::<Result<_>>().map(Self)
    }

    /// One that holds nothing.
    pub fn empty() -> Self {
        Self(Vec::new())
    }

    /// What it holds.
    pub fn members(&self) -> Result<BTreeMap<CString, Member>> {
        let doing = || "list a layer";
        let mut found: BTreeMap<CString, Option<Member>> = BTreeMap::new();
        for (layer, dir) in self.0.iter().enumerate() {
            for name in names(dir.as_fd()).doing(doing)? {
                if found.contains_key(&name) {
                    continue;
                }
                let stat = stat_at(dir.as_fd(), &name).doing(doing)?;
                found.insert(name, (!is_whiteout(&stat)).then_some(Member { stat, layer }));
            }
        }
        Ok(found
            .into_iter()
            .filter_map(|(name, member)| Some((name, member?)))
            .collect())
    }

    /// A directory in it: the layers' of this name, down to one that hides those below.
    pub fn enter(&self, name: &CString, member: &Member) -> Result<Self> {
        let mut dirs = Vec::new();
        for dir in &self.0[member.layer..] {
            match rustix::fs::openat(dir, name, DIR, Mode::empty()) {
                Ok(inner) => {
                    let last = is_opaque(inner.as_fd());
                    dirs.push(inner);
                    if last {
                        break;
                    }
                }
                Err(Errno::NOENT) => {}
                // Something else of this name: a whiteout, or what the directory above replaced.
                Err(Errno::NOTDIR | Errno::LOOP) => break,
                Err(e) => return Err(e).doing(|| "open a layer's directory"),
            }
        }
        Ok(Self(dirs))
    }

    /// Copies all of it into an empty directory. Data is shared where the file system can.
    pub fn copy_to(&self, target: BorrowedFd<'_>) -> Result<()> {
        let mut copy = Copy {
            links: HashMap::new(),
            root: target,
        };
        copy.dir(self, target, Path::new(""))
    }
}

/// One copy of a tree.
struct Copy<'a> {
    /// Where the first name of an inode with several went.
    links: HashMap<(u64, u64), PathBuf>,
    root: BorrowedFd<'a>,
}

impl Copy<'_> {
    fn dir(&mut self, from: &Merged, to: BorrowedFd<'_>, at: &Path) -> Result<()> {
        for (name, member) in from.members()? {
            let path = at.join(OsStr::from_bytes(name.to_bytes()));
            let doing = || format!("copy {}", path.display());
            if member.is_dir() {
                rustix::fs::mkdirat(to, &name, Mode::from_raw_mode(0o700)).doing(doing)?;
                let inner = rustix::fs::openat(to, &name, DIR, Mode::empty()).doing(doing)?;
                self.dir(&from.enter(&name, &member)?, inner.as_fd(), &path)?;
            } else {
                let source = &from.0[member.layer];
                self.other(source.as_fd(), &member.stat, &name, to, &path)
                    .doing(doing)?;
            }
        }
        // Last: writing into it changes its time.
        match from.0.first() {
            Some(top) => copy_attributes(top.as_fd(), to).doing(|| format!("copy {}", at.display())),
            None => Ok(()),
        }
    }

    fn other(
        &mut self,
        from: BorrowedFd<'_>,
        stat: &Stat,
        name: &CString,
        to: BorrowedFd<'_>,
        path: &Path,
    ) -> Result<()> {
        if stat.st_nlink > 1 {
            let first = self
                .links
                .entry((stat.st_dev, stat.st_ino))
                .or_insert_with(|| path.to_owned());
            if first != path {
                return rustix::fs::linkat(self.root, &*first, to, name, AtFlags::empty())
                    .doing(|| "link it");
            }
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let source = rustix::fs::openat(from, name, flags, Mode::empty()).doing(|| "open it")?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let target =
                    rustix::fs::openat(to, name, flags, Mode::from_raw_mode(0o600)).doing(|| "make it")?;
                let (source, target) = (File::from(source), File::from(target));
                copy_data(&source, &target, stat).doing(|| "copy its data")?;
                return copy_attributes(source.as_fd(), target.as_fd());
            }
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(from, name, Vec::new()).doing(|| "read it")?;
                rustix::fs::symlinkat(&link, to, name).doing(|| "make it")?;
            }
            kind => {
                rustix::fs::mknodat(to, name, kind, Mode::from_raw_mode(0o600), stat.st_rdev)
                    .doing(|| "make it")?;
            }
        }
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .doing(|| "set its owner")?;
        if kind != FileType::Symlink {
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            rustix::fs::chmodat(to, name, mode, AtFlags::empty()).doing(|| "set its mode")?;
        }
        let (old, new) = (through_fd(from, name), through_fd(to, name));
        let found = xattrs(
            |names| rustix::fs::llistxattr(&old, names),
            |name, value| rustix::fs::lgetxattr(&old, name, value),
        );
        for (key, value) in found? {
            rustix::fs::lsetxattr(&new, &key, &value, XattrFlags::empty()).doing(|| "set its attributes")?;
        }
        rustix::fs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW).doing(|| "set its time")
    }
}

/// A path for the calls that take no descriptor and do not follow its last name.
fn through_fd(dir: BorrowedFd<'_>, name: &CString) -> PathBuf {
    Path::new("/proc/self/fd")
        .join(dir.as_raw_fd().to_string())
        .join(OsStr::from_bytes(name.to_bytes()))
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanos: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanos).unwrap_or(0),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Shares the data where the file system can, else copies what is not a hole.
fn copy_data(from: &File, to: &File, stat: &Stat) -> std::io::Result<()> {
    if stat.st_size == 0 || rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    use rustix::fs::SeekFrom::{Data, Hole};
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let mut at = 0;
    while at < size {
        at = match rustix::fs::seek(from, Data(at)) {
            Ok(at) => at,
            // Only a hole is left.
            Err(Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(from, Hole(at))?.min(size);
        let (mut read, mut write) = (at, at);
        while read < end {
            let rest = usize::try_from(end - read).unwrap_or(usize::MAX);
            if rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut write), rest)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        at = end;
    }
    to.set_len(size)
}

fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let stat = rustix::fs::fstat(from).doing(|| "look at it")?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(to, Some(uid), Some(gid)).doing(|| "set its owner")?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777)).doing(|| "set its mode")?;
    let found = xattrs(
        |names| rustix::fs::flistxattr(from, names),
        |name, value| rustix::fs::fgetxattr(from, name, value),
    );
    for (key, value) in found? {
        rustix::fs::fsetxattr(to, &key, &value, XattrFlags::empty()).doing(|| "set its attributes")?;
    }
    rustix::fs::futimens(to, &times(&stat)).doing(|| "set its time")
}

/// All attributes but those by which overlayfs finds its way.
fn xattrs(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&OsStr, &mut [u8]) -> rustix::io::Result<usize>,
) -> Result<Vec<(OsString, Vec<u8>)>> {
    let mut names = vec![0; XATTRS_MAX];
    let length = match list(&mut names) {
        Err(Errno::NOTSUP) => 0,
        other => other.doing(|| "list its attributes")?,
    };
    let mut found = Vec::new();
    for name in names[..length].split(|b| *b == 0) {
        if name.is_empty() || name.starts_with(OVERLAY) {
            continue;
        }
        let name = OsStr::from_bytes(name);
        let mut value = vec![0; XATTRS_MAX];
        let length = get(name, &mut value).doing(|| "read its attributes")?;
        value.truncate(length);
        found.push((name.to_owned(), value));
    }
    Ok(found)
}
