//! A tar of what lies at one place of a root file system: `docker cp` and `docker export` read it, and `commit` makes a layer of it.
//!
//! Everything is opened below descriptors and no link is followed. The tree may change meanwhile, as it belongs to a running
//! container: what vanishes is left out, what shrinks is filled up with zeros, as every tar does.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

use crate::error::Doing;
use crate::{Error, Kind, Result};

/// Directories deeper than this are an error: each level holds a descriptor, and PATH_MAX ends before.
const DEPTH_MAX: usize = 1000;
/// The kernel's bound on one attribute, and on a list of names.
const XATTR_MAX: usize = 64 << 10;
/// What a name takes in a header without an extension.
const NAME_FIELD: usize = 100;
/// Eleven octal digits of `size` and `mtime`, seven of the ids.
const LARGEST_OCTAL: u64 = 0o77_777_777_777;
const LARGEST_ID: u32 = 0o7_777_777;

/// File systems that have no content of their own. `f_type` of statfs(2).
const KERNELS_OWN: [i64; 9] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x1cd1,      // devpts
    0x1980_0202, // mqueue
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
];

/// Writes one tree.
pub(crate) struct TreeWriter<W: Write> {
    tar: Builder<W>,
    /// First names of files with several links.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl<W: Write> TreeWriter<W> {
    pub fn new(out: W) -> Self {
        Self {
            tar: Builder::new(out),
            links: HashMap::new(),
        }
    }

    /// Adds the entry `base` of `parent` and all below it, called `name` in the archive.
    ///
    /// # Errors
    /// `NotFound` when it is not there; `Internal` when it cannot be read, or the receiver refuses.
    pub fn add(&mut self, parent: BorrowedFd<'_>, base: &CStr, name: &[u8]) -> Result<()> {
        match self.entry(parent, base, name, Some(0))? {
            true => Ok(()),
            false => Err(Error::not_found(format!(
                "{} is not there any more",
                String::from_utf8_lossy(name)
            ))),
        }
    }

    /// Adds what is in a directory, without the directory itself.
    pub fn add_children(&mut self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        self.children(dir, name, 0)
    }

    /// Adds the entry `base` of `parent`, of a directory nothing that is in it. Whether it was there.
    pub fn add_one(&mut self, parent: BorrowedFd<'_>, base: &CStr, name: &[u8]) -> Result<bool> {
        self.entry(parent, base, name, None)
    }

    /// Adds an empty file that says something by its name: a whiteout. Nothing in it depends on when it was made.
    pub fn add_mark(&mut self, name: &[u8]) -> Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        for set in [
            Header::set_size,
            Header::set_mtime,
            Header::set_uid,
            Header::set_gid,
        ] {
            set(&mut header, 0);
        }
        header.set_mode(0);
        self.put(header, name, None, Vec::new())
    }

    /// Writes the end of the archive.
    pub fn finish(mut self) -> Result<()> {
        self.tar.finish().map_err(failed)
    }

    /// Whether the entry was there. Without a depth what is in a directory is left out.
    fn entry(
        &mut self,
        parent: BorrowedFd<'_>,
        base: &CStr,
        name: &[u8],
        depth: Option<usize>,
    ) -> Result<bool> {
        let doing = || format!("read {}", String::from_utf8_lossy(name));
        let stat = match rustix::fs::statat(parent, base, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(false),
            other => other.doing(doing)?,
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => self.directory(parent, base, name, depth),
            FileType::RegularFile => self.file(parent, base, name),
            FileType::Symlink => {
                let target = match rustix::fs::readlinkat(parent, base, Vec::new()) {
                    Err(Errno::NOENT | Errno::INVAL) => return Ok(false),
                    other => other.doing(doing)?,
                };
                self.header(name, EntryType::Symlink, &stat, 0, Some(target.to_bytes()), &[])?;
                Ok(true)
            }
            FileType::Fifo => self.plain(name, EntryType::Fifo, &stat),
            FileType::CharacterDevice => self.plain(name, EntryType::Char, &stat),
            FileType::BlockDevice => self.plain(name, EntryType::Block, &stat),
            // A socket means nothing without its process.
            FileType::Socket | FileType::Unknown => Ok(true),
        }
    }

    fn plain(&mut self, name: &[u8], kind: EntryType, stat: &Stat) -> Result<bool> {
        self.header(name, kind, stat, 0, None, &[]).map(|()| true)
    }

    fn directory(
        &mut self,
        parent: BorrowedFd<'_>,
        base: &CStr,
        name: &[u8],
        depth: Option<usize>,
    ) -> Result<bool> {
        let doing = || format!("read {}", String::from_utf8_lossy(name));
        if depth.is_some_and(|depth| depth > DEPTH_MAX) {
            return Err(Error::invalid(format!(
                "{}: more than {DEPTH_MAX} directories deep",
                String::from_utf8_lossy(name)
            )));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = match rustix::fs::openat(parent, base, flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(false),
            other => other.doing(doing)?,
        };
        let stat = rustix::fs::fstat(&dir).doing(doing)?;
        let slashed = below(name, b"");
        self.header(
            &slashed,
            EntryType::Directory,
            &stat,
            0,
            None,
            &xattrs(dir.as_fd()),
        )?;
        match depth {
            Some(depth) => self.children(dir.as_fd(), name, depth + 1).map(|()| true),
            None => Ok(true),
        }
    }

    fn children(&mut self, dir: BorrowedFd<'_>, name: &[u8], depth: usize) -> Result<()> {
        let doing = || format!("list {}", String::from_utf8_lossy(name));
        let kind = rustix::fs::fstatfs(dir).doing(doing)?.f_type;
        if KERNELS_OWN.contains(&kind) {
            return Ok(());
        }
        let mut names: Vec<CString> = Vec::new();
        for entry in Dir::read_from(dir).doing(doing)? {
            let entry = entry.doing(doing)?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        // The same tree gives the same archive.
        names.sort_unstable();
        for base in names {
            let path = below(name, base.to_bytes());
            self.entry(dir, &base, &path, Some(depth))?;
        }
        Ok(())
    }

    fn file(&mut self, parent: BorrowedFd<'_>, base: &CStr, name: &[u8]) -> Result<bool> {
        let doing = || format!("read {}", String::from_utf8_lossy(name));
        // Non-blocking, should a fifo have taken its place.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(parent, base, flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(false),
            other => other.doing(doing)?,
        };
        let stat = rustix::fs::fstat(&file).doing(doing)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(false);
        }
        if stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&key).cloned() {
                self.header(name, EntryType::Link, &stat, 0, Some(&first), &[])?;
                return Ok(true);
            }
            self.links.insert(key, name.to_vec());
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.header(name, EntryType::Regular, &stat, size, None, &xattrs(file.as_fd()))?;
        self.data(file, size, doing)?;
        Ok(true)
    }

    fn data(&mut self, file: OwnedFd, size: u64, doing: impl Fn() -> String) -> Result<()> {
        let out = self.tar.get_mut();
        let copied = std::io::copy(&mut File::from(file).take(size), out).doing(doing)?;
        let padding = (512 - size % 512) % 512;
        std::io::copy(&mut std::io::repeat(0).take(size - copied + padding), out).map_err(failed)?;
        Ok(())
    }

    /// A header, with a PAX one before it for what does not fit (POSIX pax, "pax Extended Header").
    fn header(
        &mut self,
        name: &[u8],
        kind: EntryType,
        stat: &Stat,
        size: u64,
        link: Option<&[u8]>,
        xattrs: &[(String, Vec<u8>)],
    ) -> Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(stat.st_mode & 0o7777);
        header.set_size(size.min(LARGEST_OCTAL));
        header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0).min(LARGEST_OCTAL));
        let (uid, gid) = (stat.st_uid, stat.st_gid);
        header.set_uid(uid.min(LARGEST_ID).into());
        header.set_gid(gid.min(LARGEST_ID).into());
        if matches!(kind, EntryType::Char | EntryType::Block) {
            let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
            header
                .set_device_major(major)
                .and_then(|()| header.set_device_minor(minor))
                .map_err(failed)?;
        }
        let numbers = [
            ("size", size > LARGEST_OCTAL, size.to_string()),
            ("uid", uid > LARGEST_ID, uid.to_string()),
            ("gid", gid > LARGEST_ID, gid.to_string()),
            ("mtime", stat.st_mtime < 0 || stat.st_mtime_nsec != 0, time(stat)),
        ];
        let large = numbers.into_iter().filter(|(_, large, _)| *large);
        let large = large.map(|(key, _, value)| (key, value.into_bytes()));
        let xattrs = xattrs.iter().map(|(key, value)| (key.as_str(), value.clone()));
        self.put(header, name, link, large.chain(xattrs).collect())
    }

    fn put(
        &mut self,
        mut header: Header,
        name: &[u8],
        link: Option<&[u8]>,
        rest: Vec<(&str, Vec<u8>)>,
    ) -> Result<()> {
        let mut more: Vec<(&str, Vec<u8>)> = Vec::new();
        if field(&mut header.as_old_mut().name, name) {
            more.push(("path", name.to_vec()));
        }
        if let Some(link) = link
            && field(&mut header.as_old_mut().linkname, link)
        {
            more.push(("linkpath", link.to_vec()));
        }
        more.extend(rest);
        if !more.is_empty() {
            let records = more.iter().map(|(key, value)| (*key, value.as_slice()));
            self.tar.append_pax_extensions(records).map_err(failed)?;
        }
        header.set_cksum();
        self.tar.get_mut().write_all(header.as_bytes()).map_err(failed)
    }
}

/// A name in a directory, which may be the root or, in an export, nothing.
fn below(dir: &[u8], base: &[u8]) -> Vec<u8> {
    match dir {
        b"" => base.to_vec(),
        dir if dir.ends_with(b"/") => [dir, base].concat(),
        dir => [dir, b"/", base].concat(),
    }
}

fn failed(e: std::io::Error) -> Error {
    Error::new(Kind::Internal, "write the archive").caused_by(e)
}

/// Fills a field with as much as it takes; whether that was not all, or not plain ASCII.
fn field(field: &mut [u8; NAME_FIELD], text: &[u8]) -> bool {
    let n = text.len().min(NAME_FIELD);
    field[..n].copy_from_slice(&text[..n]);
    text.len() > NAME_FIELD || !text.is_ascii()
}

fn time(stat: &Stat) -> String {
    match stat.st_mtime_nsec {
        0 => stat.st_mtime.to_string(),
        nanos => format!("{}.{nanos:09}", stat.st_mtime),
    }
}

/// The attributes that are the file's own: capabilities of programs, and what users set.
fn xattrs(file: BorrowedFd<'_>) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0u8; XATTR_MAX];
    let Ok(n @ 1..) = rustix::fs::flistxattr(file, &mut names) else {
        return Vec::new();
    };
    let names = names[..n].split(|b| *b == 0);
    let wanted = names.filter_map(|name| std::str::from_utf8(name).ok());
    let wanted = wanted.filter(|n| *n == "security.capability" || n.starts_with("user."));
    let read = wanted.filter_map(|name| {
        let mut value = vec![0u8; XATTR_MAX];
        let n = rustix::fs::fgetxattr(file, name, &mut value).ok()?;
        value.truncate(n);
        Some((format!("SCHILY.xattr.{name}"), value))
    });
    let mut found: Vec<_> = read.collect();
    // The file system's order is its own.
    found.sort();
    found
}

/// A name for the calls that want one ended by a zero byte.
///
/// # Errors
/// `Invalid` for a name with a zero byte inside.
pub(crate) fn c_name(name: &Path) -> Result<CString> {
    CString::new(name.as_os_str().as_bytes())
        .map_err(|_| Error::invalid(format!("{name:?}: a path holds no zero byte")))
}
