//! The state directory: `ROOT/ID/` with `state.json` and, until started, `exec.fifo`.
//!
//! Making the directory reserves the id. A lock (flock) on the directory itself orders create, start and delete of
//! one container; readers take none, as the record is replaced by rename.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use super::state::{self, FORMAT, Record, Signs, Status};
use crate::error::{Doing, Error, Kind, Result};
use crate::fault;

/// How long a command waits for another command on the same container.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);
const RECORD: &str = "state.json";
const FIFO: &str = "exec.fifo";
/// A directory with the socket of [`crate::notify`]; only where that was asked for.
const NOTIFY: &str = "notify";
const TEMPORARY: &str = ".state.json";

/// `--root`: all containers.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// One container's directory.
#[derive(Debug)]
pub struct Entry {
    dir: PathBuf,
    lock: Option<OwnedFd>,
}

impl Store {
    /// Takes the directory; it is made with the first container.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where a container's own socket for readiness is.
    ///
    /// # Errors
    /// `Invalid` when it is no id.
    pub fn notify_dir(&self, id: &str) -> Result<PathBuf> {
        check_id(id)?;
        Ok(self.root.join(id).join(NOTIFY))
    }

    /// Where compiled seccomp filters are kept; ids cannot begin with a dot.
    pub fn seccomp_cache(&self) -> PathBuf {
        self.root.join(".seccomp")
    }

    /// Reserves the id and locks it.
    ///
    /// # Errors
    /// `Conflict` when it is taken, `Invalid` when it is no id.
    pub fn create(&self, id: &str) -> Result<Entry> {
        check_id(id)?;
        let dir = self.root.join(id);
        let make = |recursive, path: &Path| DirBuilder::new().recursive(recursive).mode(0o711).create(path);
        let made = match make(false, &dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                make(true, &self.root).and_then(|()| make(false, &dir))
            }
            other => other,
        };
        let mut entry = Entry { dir, lock: None };
        match made {
            // One without a record that nobody works on was left by a creation or deletion that was killed.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                if entry.dir.join(RECORD).exists() || !entry.try_lock()? {
                    return Err(entry.taken());
                }
                for name in [FIFO, TEMPORARY] {
                    let _ = fs::remove_file(entry.dir.join(name));
                }
            }
            other => {
                other.doing(|| format!("make state directory {}", entry.dir.display()))?;
                entry.lock()?;
            }
        }
        Ok(entry)
    }

    /// Finds a container.
    ///
    /// # Errors
    /// `NotFound`, or `Invalid` when it is no id.
    pub fn open(&self, id: &str) -> Result<Entry> {
        check_id(id)?;
        let dir = self.root.join(id);
        if !dir.is_dir() {
            return Err(Error::new(
                Kind::NotFound,
                format!("container {id} does not exist"),
            ));
        }
        Ok(Entry { dir, lock: None })
    }

    /// All containers that can be read, by id.
    ///
    /// # Errors
    /// What listing the root reported; a root that need not exist and does not has none.
    pub fn list(&self, must_exist: bool) -> Result<Vec<Entry>> {
        let entries = match fs::read_dir(&self.root) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && !must_exist => return Ok(Vec::new()),
            other => other.doing(|| format!("list {}", self.root.display()))?,
        };
        let mut dirs: Vec<PathBuf> = entries
            .flatten()
            .map(|e| e.path())
            .filter(|p| {
                p.file_name()
                    .is_some_and(|n| !n.as_encoded_bytes().starts_with(b"."))
                    && p.is_dir()
            })
            .collect();
        dirs.sort();
        Ok(dirs.into_iter().map(|dir| Entry { dir, lock: None }).collect())
    }
}

/// runc's rule: letters, digits and `_+-.`, but not `.` and `..`; ours is stricter about a leading dot.
fn check_id(id: &str) -> Result<()> {
    const MAX: usize = 1024;
    let good = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    if id.is_empty() {
        return Err(Error::new(Kind::Invalid, "container id cannot be empty"));
    }
    if id.starts_with('.') || id.len() > MAX || !id.chars().all(good) {
        return Err(Error::new(
            Kind::Invalid,
            format!("invalid container ID format: {id:?}"),
        ));
    }
    Ok(())
}

impl Entry {
    /// Waits for and takes the container's lock; it is held until the entry is dropped.
    ///
    /// # Errors
    /// `Conflict` when another command keeps it.
    pub fn lock(&mut self) -> Result<()> {
        let mut until = None;
        while !self.try_lock()? {
            if Instant::now() > *until.get_or_insert_with(|| Instant::now() + LOCK_PATIENCE) {
                return Err(Error::new(
                    Kind::Conflict,
                    "another command works on this container",
                ));
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Takes the container's lock if nobody has it.
    ///
    /// # Errors
    /// `NotFound` when the container has gone; otherwise what opening or locking reported.
    pub fn try_lock(&mut self) -> Result<bool> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = match rustix::fs::open(&self.dir, flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => {
                return Err(Error::new(
                    Kind::NotFound,
                    format!("container {} does not exist", self.id()),
                ));
            }
            other => other.doing(|| format!("open {}", self.dir.display()))?,
        };
        match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                self.lock = Some(fd);
                Ok(true)
            }
            Err(rustix::io::Errno::AGAIN) => Ok(false),
            Err(e) => Err(e).doing(|| format!("lock {}", self.dir.display())),
        }
    }

    fn taken(&self) -> Error {
        Error::new(
            Kind::Conflict,
            format!("container with given ID already exists: {}", self.id()),
        )
    }

    /// The lock's descriptor, for a child to close its copy of: as long as a copy is open the lock is held, also after
    /// this runtime was killed.
    pub fn lock_mut(&mut self) -> &mut Option<OwnedFd> {
        &mut self.lock
    }

    /// Whether this entry holds the lock.
    pub fn is_mine(&self) -> bool {
        self.lock.is_some()
    }

    fn is_locked(&self) -> bool {
        if self.lock.is_some() {
            return true;
        }
        let Ok(fd) = rustix::fs::open(&self.dir, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) else {
            return false;
        };
        // A shared lock is given back when the descriptor closes, here.
        flock(&fd, FlockOperation::NonBlockingLockShared).is_err()
    }

    /// The container's id.
    pub fn id(&self) -> String {
        self.dir
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    /// Makes the directory for the container's readiness socket.
    ///
    /// # Errors
    /// What making it reported.
    pub fn make_notify_dir(&self) -> Result<PathBuf> {
        let dir = self.dir.join(NOTIFY);
        DirBuilder::new()
            .mode(0o755)
            .create(&dir)
            .doing(|| format!("make {}", dir.display()))?;
        Ok(dir)
    }

    /// The same directory, if it was made.
    pub fn notify_dir(&self) -> Option<PathBuf> {
        Some(self.dir.join(NOTIFY)).filter(|d| d.is_dir())
    }

    /// The start fifo's path.
    pub fn fifo(&self) -> PathBuf {
        self.dir.join(FIFO)
    }

    /// Writes the first record, of a container that nothing has been made for yet. With it the id is taken: of two
    /// that hold the directory one after the other only one can make the file. Nobody reads it before the lock is free,
    /// so it needs no rename.
    ///
    /// # Errors
    /// `Conflict` when another was faster; otherwise what writing reported.
    pub fn write_first(&self, record: &Record) -> Result<()> {
        let path = self.dir.join(RECORD);
        let bytes = encode(record)?;
        match File::options().write(true).create_new(true).open(&path) {
            Err(e) if matches!(e.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => {
                Err(self.taken())
            }
            other => other.and_then(|mut f| f.write_all(&bytes)).or_else(|e| {
                // Nothing else will: this is before anything has an owner.
                let _ = self.remove();
                Err(e).doing(|| format!("write {}", path.display()))
            }),
        }
    }

    /// Replaces the record.
    ///
    /// # Errors
    /// What writing reported.
    pub fn write(&self, record: &Record) -> Result<()> {
        let temporary = self.dir.join(TEMPORARY);
        let bytes = encode(record)?;
        fs::write(&temporary, bytes)
            .and_then(|()| fs::rename(&temporary, self.dir.join(RECORD)))
            .doing(|| format!("replace {}", self.dir.join(RECORD).display()))
    }

    /// Reads the record.
    ///
    /// # Errors
    /// `NotFound` when the container is gone or its creation never got so far; `Unsupported` for a newer format.
    pub fn read(&self) -> Result<Record> {
        let path = self.dir.join(RECORD);
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Error::new(
                    Kind::NotFound,
                    format!("container {} does not exist", self.id()),
                ));
            }
            other => other.doing(|| format!("read {}", path.display()))?,
        };
        #[derive(serde::Deserialize)]
        struct Version {
            format: u32,
        }
        let wrong = |e: serde_json::Error| Error::new(Kind::Internal, format!("{}: {e}", path.display()));
        let Version { format } = serde_json::from_slice(&bytes).map_err(wrong)?;
        if format > FORMAT {
            return Err(Error::new(
                Kind::Unsupported,
                format!("{}: format {format} is of a newer kelson-runtime", path.display()),
            ));
        }
        serde_json::from_slice(&bytes).map_err(wrong)
    }

    /// The container's state now.
    pub fn status(&self, record: &Record) -> Status {
        let alive = record.is_alive();
        let signs = Signs {
            alive,
            waiting: alive && self.has_reader(),
            frozen: alive && record.cgroup.is_paused(),
            locked: record.pid == 0 && self.is_locked(),
        };
        state::status(record, signs)
    }

    /// Whether a process waits at the fifo. The file alone is no sign: `start` may have been killed before it took it away.
    fn has_reader(&self) -> bool {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::open(self.fifo(), flags, Mode::empty()).is_ok()
    }

    /// Removes the directory. The record goes first: a directory without one is nobody's container.
    ///
    /// # Errors
    /// What removing reported.
    pub fn remove(&self) -> Result<()> {
        for name in [RECORD, FIFO, TEMPORARY] {
            match fs::remove_file(self.dir.join(name)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(e).doing(|| format!("remove {}", self.dir.join(name).display()));
                }
                _ => {}
            }
        }
        fault::point("delete.record");
        match fs::remove_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {
                fs::remove_dir_all(self.dir.join(NOTIFY))
                    .and_then(|()| fs::remove_dir(&self.dir))
                    .doing(|| format!("remove {}", self.dir.display()))
            }
            other => other.doing(|| format!("remove {}", self.dir.display())),
        }
    }
}

fn encode(record: &Record) -> Result<Vec<u8>> {
    serde_json::to_vec(record).map_err(|e| Error::new(Kind::Internal, format!("encode state: {e}")))
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(fd) = &self.lock {
            // The container's process holds a copy of this descriptor until it executes: closing ours is not enough.
            let _ = flock(fd, FlockOperation::Unlock);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        assert!(check_id("web-1_a+b.c").is_ok());
        for bad in ["", ".", "..", ".seccomp", "a/b", "a b", "é", "a\0"] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_id_is_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().join("deep/root"));
        let entry = store.create("a").unwrap();
        assert_eq!(store.create("a").unwrap_err().kind(), Kind::Conflict);
        assert!(store.open("a").unwrap().is_locked());
        entry.remove().unwrap();
        assert_eq!(store.open("a").unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn what_a_killed_creation_left_is_taken_over_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().to_owned());
        drop(store.create("a").unwrap());
        fs::write(dir.path().join("a/exec.fifo"), "").unwrap();
        let entry = store.create("a").unwrap();
        assert!(!entry.fifo().exists());
        assert_eq!(store.create("a").unwrap_err().kind(), Kind::Conflict);
        fs::write(dir.path().join("a/state.json"), "{}").unwrap();
        drop(entry);
        assert_eq!(store.create("a").unwrap_err().kind(), Kind::Conflict);
    }

    #[test]
    fn a_newer_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().to_owned());
        let entry = store.create("a").unwrap();
        fs::write(dir.path().join("a/state.json"), r#"{"format":2}"#).unwrap();
        assert_eq!(entry.read().unwrap_err().kind(), Kind::Unsupported);
    }
}
