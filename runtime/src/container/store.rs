//! The state directory: `ROOT/ID/` with `state.json` and, until started, `exec.fifo`.
//!
//! Making the directory reserves the id. A lock (flock) on the directory itself orders create, start and delete of
//! one container; readers take none, as the record is replaced by rename.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use super::state::{self, FORMAT, Record, Signs, Status};
use crate::error::{Doing, Error, Kind, Result};

/// How long a command waits for another command on the same container.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);
const RECORD: &str = "state.json";
const FIFO: &str = "exec.fifo";

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
        match made {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::new(
                    Kind::Conflict,
                    format!("container with given ID already exists: {id}"),
                ));
            }
            other => other.doing(|| format!("make state directory {}", dir.display()))?,
        }
        let mut entry = Entry { dir, lock: None };
        entry.lock()?;
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
        let fd = rustix::fs::open(
            &self.dir,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .doing(|| format!("open {}", self.dir.display()))?;
        let until = Instant::now() + LOCK_PATIENCE;
        loop {
            match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::AGAIN) if Instant::now() < until => {
                    thread::sleep(Duration::from_millis(2))
                }
                Err(rustix::io::Errno::AGAIN) => {
                    return Err(Error::new(
                        Kind::Conflict,
                        "another command works on this container",
                    ));
                }
                Err(e) => return Err(e).doing(|| format!("lock {}", self.dir.display())),
            }
        }
        self.lock = Some(fd);
        Ok(())
    }

    /// The lock's descriptor, for a child to close its copy of: as long as a copy is open the lock is held, also after
    /// this runtime was killed.
    pub fn lock_mut(&mut self) -> &mut Option<OwnedFd> {
        &mut self.lock
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

    /// The start fifo's path.
    pub fn fifo(&self) -> PathBuf {
        self.dir.join(FIFO)
    }

    /// Writes the first record, of a container that nothing has been made for yet. Nobody reads it before the lock
    /// is free, so it needs no rename.
    ///
    /// # Errors
    /// What writing reported.
    pub fn write_first(&self, record: &Record) -> Result<()> {
        self.write_to(&self.dir.join(RECORD), record)
    }

    /// Replaces the record.
    ///
    /// # Errors
    /// What writing reported.
    pub fn write(&self, record: &Record) -> Result<()> {
        let temporary = self.dir.join(".state.json");
        self.write_to(&temporary, record)?;
        fs::rename(&temporary, self.dir.join(RECORD)).doing(|| "replace state.json")
    }

    fn write_to(&self, path: &Path, record: &Record) -> Result<()> {
        let bytes = serde_json::to_vec(record)
            .map_err(|e| Error::new(Kind::Internal, format!("encode state: {e}")))?;
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .and_then(|mut f: File| f.write_all(&bytes))
            .doing(|| format!("write {}", path.display()))
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
            waiting: alive && self.fifo().exists(),
            frozen: alive && record.cgroup.is_paused(),
            locked: record.pid == 0 && self.is_locked(),
        };
        state::status(record, signs)
    }

    /// Removes the directory. The record goes first: a directory without one is nobody's container.
    ///
    /// # Errors
    /// What removing reported.
    pub fn remove(&self) -> Result<()> {
        for name in [RECORD, FIFO, ".state.json"] {
            match fs::remove_file(self.dir.join(name)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(e).doing(|| format!("remove {}", self.dir.join(name).display()));
                }
                _ => {}
            }
        }
        match fs::remove_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.doing(|| format!("remove {}", self.dir.display())),
        }
    }
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
    fn a_newer_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().to_owned());
        let entry = store.create("a").unwrap();
        fs::write(dir.path().join("a/state.json"), r#"{"format":2}"#).unwrap();
        assert_eq!(entry.read().unwrap_err().kind(), Kind::Unsupported);
    }
}
