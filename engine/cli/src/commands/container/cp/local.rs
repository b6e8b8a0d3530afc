//! This machine's side of `cp`: a tar of local files, and local files of a tar.
//!
//! A container chooses what is in the tar that comes from it. Each name is made below the landing directory by a lookup that
//! follows no link and leaves by no `..`, so nothing outside can be reached (the class of CVE-2018-15664).

use std::fs::{self, File};
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::{Context, bail};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use tar::{Archive, Builder, Entry, EntryType, Header};

use super::place::Landing;
use crate::error::Failure;

/// A local file or directory to send.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    pub is_dir: bool,
}

/// Finds what is to be sent; a link is sent as one unless it is to be followed, or a slash behind it asks for that.
pub fn find(path: &Path, follow: bool) -> anyhow::Result<Source> {
    let text = path.as_os_str().as_encoded_bytes();
    let follow = follow || text.ends_with(b"/") || text.ends_with(b"/.");
    let meta = if follow {
        fs::metadata(path)
    } else {
        fs::symlink_metadata(path)
    };
    let meta = meta.map_err(|error| {
        let text = match error.kind() {
            io::ErrorKind::NotFound => format!("lstat {}: no such file or directory", path.display()),
            _ => format!("lstat {}: {error}", path.display()),
        };
        Failure::error(text, 1)
    })?;
    let path = if follow {
        fs::canonicalize(path).with_context(|| format!("open {}", path.display()))?
    } else {
        path.to_owned()
    };
    Ok(Source {
        path,
        is_dir: meta.is_dir(),
    })
}

/// A tar that is made while it is read.
#[derive(Debug)]
pub struct Reading {
    pipe: Option<PipeReader>,
    writer: Option<JoinHandle<anyhow::Result<u64>>>,
    failed: Option<anyhow::Error>,
}

impl Reading {
    /// Begins; `name` is what the archive calls the source.
    pub fn start(source: Source, name: &str) -> Reading {
        let name = name.to_owned();
        match io::pipe() {
            Ok((reader, writer)) => Reading {
                pipe: Some(reader),
                writer: Some(std::thread::spawn(move || write_tar(&source, &name, writer))),
                failed: None,
            },
            Err(error) => Reading {
                pipe: None,
                writer: None,
                failed: Some(anyhow::Error::from(error).context("make a pipe")),
            },
        }
    }

    /// Bytes of the files that were sent.
    pub fn finish(mut self) -> anyhow::Result<u64> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        // Without a reader a writer that is still at it ends, too.
        drop(self.pipe.take());
        let Some(writer) = self.writer.take() else {
            return Ok(0);
        };
        match writer.join() {
            Ok(Err(error)) if is_broken_pipe(&error) => Ok(0),
            Ok(done) => done,
            Err(_) => bail!("reading local files was cut short"),
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|e| e.downcast_ref::<io::Error>());
    io.is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

impl Read for Reading {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.pipe {
            Some(pipe) => pipe.read(into),
            None => Err(io::Error::other("no pipe")),
        }
    }
}

fn write_tar(source: &Source, name: &str, out: impl Write) -> anyhow::Result<u64> {
    let mut tar = Builder::new(out);
    tar.follow_symlinks(false);
    let mut bytes = 0;
    add(&mut tar, &source.path, Path::new(name), &mut bytes)?;
    tar.finish().context("write an archive")?;
    Ok(bytes)
}

fn add<W: Write>(tar: &mut Builder<W>, path: &Path, name: &Path, bytes: &mut u64) -> anyhow::Result<()> {
    let doing = || format!("read {}", path.display());
    let meta = fs::symlink_metadata(path).with_context(doing)?;
    let kind = meta.file_type();
    let mut header = Header::new_gnu();
    header.set_metadata(&meta);
    header.set_mode(meta.mode() & 0o7777);
    let shown = match name.as_os_str().is_empty() {
        true => Path::new("."),
        false => name,
    };
    if kind.is_dir() {
        header.set_size(0);
        tar.append_data(&mut header, shown.join(""), io::empty())
            .with_context(doing)?;
        let mut children: Vec<PathBuf> = fs::read_dir(path)
            .with_context(doing)?
            .map(|entry| entry.map(|e| e.path()))
            .collect::<io::Result<_>>()
            .with_context(doing)?;
        children.sort();
        for child in children {
            let base = child.file_name().unwrap_or_default().to_owned();
            add(tar, &child, &shown.join(base), bytes)?;
        }
    } else if kind.is_symlink() {
        header.set_size(0);
        let target = fs::read_link(path).with_context(doing)?;
        tar.append_link(&mut header, shown, target).with_context(doing)?;
    } else if kind.is_file() {
        let size = meta.len();
        header.set_size(size);
        // A file that shrinks meanwhile is filled up: the archive has promised its size.
        let data = File::open(path)
            .with_context(doing)?
            .chain(io::repeat(0))
            .take(size);
        tar.append_data(&mut header, shown, data).with_context(doing)?;
        *bytes += size;
    } else if header.entry_type() != EntryType::Regular {
        // Devices and fifos; a socket means nothing elsewhere.
        header.set_size(0);
        tar.append_data(&mut header, shown, io::empty())
            .with_context(doing)?;
    }
    Ok(())
}

/// Unpacks what a container sent.
#[derive(Debug)]
pub struct Unpack<'a> {
    pub landing: &'a Landing,
    /// Owners as the archive says (`-a`).
    pub keep_owner: bool,
}

const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Unpack<'_> {
    /// Bytes of the files that came.
    pub fn run(&self, input: &mut impl Read) -> anyhow::Result<u64> {
        let root = rustix::fs::open(Path::new(&self.landing.dir), DIR, Mode::empty()).map_err(|errno| {
            let text = match errno {
                Errno::NOENT => format!(
                    "invalid output path: directory {:?} does not exist",
                    self.landing.dir
                ),
                errno => format!("open {}: {errno}", self.landing.dir),
            };
            Failure::error(text, 1)
        })?;
        let mut bytes = 0;
        let mut times = Vec::new();
        let mut archive = Archive::new(input);
        for entry in archive.entries().context("read the archive")? {
            let mut entry = entry.context("read the archive")?;
            let path = entry.path().context("read the archive")?.into_owned();
            let Some(name) = self.name(&path) else { continue };
            bytes += self
                .place(&root, &name, &mut entry)
                .with_context(|| format!("copy {}", path.display()))?;
            if entry.header().entry_type() == EntryType::Directory {
                times.push((name, entry.header().mtime().unwrap_or(0)));
            }
        }
        // Last: what is put into a directory changes its time.
        for (name, mtime) in times.iter().rev() {
            if let Ok(dir) = beneath(&root, name, DIR) {
                let _ = rustix::fs::futimens(dir, &timestamps(*mtime));
            }
        }
        Ok(bytes)
    }

    /// An entry's place: its first part, the source's name, becomes the landing's name. `None` for the landing directory itself.
    fn name(&self, path: &Path) -> Option<PathBuf> {
        let mut parts = path
            .components()
            .filter(|c| !matches!(c, Component::CurDir | Component::RootDir));
        let mut name = PathBuf::from(&self.landing.name);
        // `.` and `/` stand for what is copied, and are no part of a name.
        if !(path.starts_with(".") || path.starts_with("/")) {
            parts.next();
        }
        name.extend(parts);
        (!name.as_os_str().is_empty()).then_some(name)
    }

    fn place(&self, root: &OwnedFd, name: &Path, entry: &mut Entry<'_, impl Read>) -> anyhow::Result<u64> {
        let base = name.file_name().context("a name that leads out")?.to_owned();
        let parent =
            beneath(root, name.parent().unwrap_or(Path::new("")), DIR).context("open its directory")?;
        let mode = Mode::from_raw_mode(entry.header().mode().unwrap_or(0o644) & 0o7777);
        let kind = entry.header().entry_type();
        let mut written = 0;
        match kind {
            EntryType::Directory => match rustix::fs::mkdirat(&parent, &base, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {
                    let dir = rustix::fs::openat(&parent, &base, DIR | OFlags::NOFOLLOW, Mode::empty())?;
                    rustix::fs::fchmod(dir, mode)?;
                }
                Err(error) => return Err(error.into()),
            },
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                replace(&parent, &base)?;
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut file = File::from(rustix::fs::openat(
                    &parent,
                    &base,
                    flags,
                    Mode::RUSR | Mode::WUSR,
                )?);
                written = io::copy(entry, &mut file)?;
                rustix::fs::fchmod(file.as_fd(), mode)?;
            }
            EntryType::Symlink => {
                let target = entry
                    .link_name()?
                    .context("a link without a target")?
                    .into_owned();
                replace(&parent, &base)?;
                rustix::fs::symlinkat(target, &parent, &base)?;
            }
            EntryType::Link => {
                let target = entry
                    .link_name()?
                    .context("a link without a target")?
                    .into_owned();
                let target = self.name(&target).context("a link to nothing")?;
                let dir = beneath(root, target.parent().unwrap_or(Path::new("")), DIR)?;
                let target = target.file_name().context("a name that leads out")?.to_owned();
                replace(&parent, &base)?;
                rustix::fs::linkat(&dir, target, &parent, &base, AtFlags::empty())?;
                return Ok(0);
            }
            EntryType::Fifo => {
                replace(&parent, &base)?;
                rustix::fs::mknodat(&parent, &base, FileType::Fifo, mode, 0)?;
            }
            // Devices are the container's own business, and extended headers were read on the way.
            _ => return Ok(0),
        }
        self.finish(&parent, &base, entry)?;
        Ok(written)
    }

    fn finish(
        &self,
        parent: &OwnedFd,
        base: &std::ffi::OsStr,
        entry: &Entry<'_, impl Read>,
    ) -> anyhow::Result<()> {
        let header = entry.header();
        if self.keep_owner {
            let id = |n: io::Result<u64>| n.ok().and_then(|n| u32::try_from(n).ok());
            let (uid, gid) = (id(header.uid()), id(header.gid()));
            let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
            rustix::fs::chownat(parent, base, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if header.entry_type() != EntryType::Directory {
            let times = timestamps(header.mtime().unwrap_or(0));
            rustix::fs::utimensat(parent, base, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }
}

fn timestamps(mtime: u64) -> Timestamps {
    let time = Timespec {
        tv_sec: i64::try_from(mtime).unwrap_or(0),
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Opens a path below the landing directory: through no link, and never out.
fn beneath(root: &OwnedFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Makes room for a file. A directory stays, and is an error.
fn replace(parent: &OwnedFd, base: &std::ffi::OsStr) -> anyhow::Result<()> {
    match rustix::fs::unlinkat(parent, base, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => bail!("cannot overwrite directory {base:?} with non-directory"),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn landing(dir: &Path, name: &str) -> Landing {
        Landing {
            dir: dir.display().to_string(),
            name: name.to_owned(),
        }
    }

    fn tar(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
        let mut tar = Builder::new(Vec::new());
        for (kind, name, content) in entries {
            let mut header = Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            header.set_mtime(7);
            // The crate's own setters would refuse what an attacker writes.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            let data = match kind {
                EntryType::Symlink | EntryType::Link => {
                    header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
                    ""
                }
                _ => content,
            };
            header.set_size(data.len() as u64);
            header.set_cksum();
            tar.append(&header, data.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn unpack(landing: &Landing, tar: &[u8]) -> anyhow::Result<u64> {
        let unpack = Unpack {
            landing,
            keep_owner: false,
        };
        unpack.run(&mut &tar[..])
    }

    #[test]
    fn the_first_part_gets_the_landings_name() {
        let temp = tempfile::tempdir().unwrap();
        use EntryType::{Directory, Regular, Symlink};
        let bytes = tar(&[
            (Directory, "d/", ""),
            (Regular, "d/f", "hello"),
            (Symlink, "d/l", "/etc/passwd"),
        ]);
        assert_eq!(unpack(&landing(temp.path(), "new"), &bytes).unwrap(), 5);
        assert_eq!(fs::read_to_string(temp.path().join("new/f")).unwrap(), "hello");
        assert_eq!(
            fs::read_link(temp.path().join("new/l")).unwrap(),
            Path::new("/etc/passwd")
        );
        assert_eq!(fs::metadata(temp.path().join("new")).unwrap().mtime(), 7);
        // `d/.`: the content alone.
        let bytes = tar(&[(Directory, "./", ""), (Regular, "./g", "x")]);
        unpack(&landing(temp.path(), ""), &bytes).unwrap();
        assert!(temp.path().join("g").exists());
    }

    #[test]
    fn nothing_is_made_outside() {
        let temp = tempfile::tempdir().unwrap();
        let (inside, outside) = (temp.path().join("in"), temp.path().join("out"));
        fs::create_dir(&inside).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("canary"), "safe").unwrap();
        use EntryType::{Directory, Link, Regular, Symlink};
        let up = outside.display().to_string();
        let attacks = [
            tar(&[(Regular, "x/../../out/canary", "bad")]),
            tar(&[(Symlink, "d", &up), (Regular, "d/canary", "bad")]),
            tar(&[
                (Directory, "d/", ""),
                (Symlink, "d/l", &up),
                (Regular, "d/l/canary", "bad"),
            ]),
            tar(&[
                (Directory, "d/", ""),
                (Symlink, "d/l", "../../out/canary"),
                (Regular, "d/l", "ok"),
            ]),
            tar(&[
                (Directory, "d/", ""),
                (Link, "d/l", "x/../../out/canary"),
                (Regular, "d/l", "bad"),
            ]),
        ];
        for attack in &attacks {
            // Whether it is an error is not the point; what lies outside is.
            let _ = unpack(&landing(&inside, "d"), attack);
            assert_eq!(fs::read_to_string(outside.join("canary")).unwrap(), "safe");
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
            fs::remove_dir_all(&inside).unwrap();
            fs::create_dir(&inside).unwrap();
        }
    }
}
