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

use super::state::{self, FORMAT, Progress, Record, Signs, Status};
use crate::error::{Doing, Error, Kind, Result};
use crate::fault;

/// How long a command waits for another command on the same container.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);
const RECORD: &str = "state.json";
const FIFO: &str = "exec.fifo";
/// A directory with the socket of [`crate::notify`]; only where that was asked for.
const NOTIFY: &str = "notify";
/// A directory that only criu sees something in.
const CRIU_ROOT: &str = "criu-root";

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
    /// The record that this entry wrote, for its second line.
    record: Option<File>,
}

impl Entry {
    fn at(dir: PathBuf) -> Self {
        Self {
            dir,
            lock: None,
            record: None,
        }
    }
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
        let mut entry = Entry::at(dir);
        match made {
            // One without a record that nobody works on was left by a creation or deletion that was killed.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                if entry.dir.join(RECORD).exists() || !entry.try_lock()? {
                    return Err(entry.taken());
                }
                let _ = fs::remove_file(entry.fifo());
                entry.remove_rest()?;
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
        Ok(Entry::at(dir))
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
        Ok(dirs.into_iter().map(Entry::at).collect())
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

    /// What only some containers have.
    fn remove_rest(&self) -> Result<()> {
        match fs::remove_dir_all(self.dir.join(NOTIFY)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(e).doing(|| format!("remove {}", self.dir.join(NOTIFY).display()));
            }
            _ => {}
        }
        // Never its contents: should anything be mounted there, it is the container's root.
        match fs::remove_dir(self.dir.join(CRIU_ROOT)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(e).doing(|| format!("remove {}", self.dir.join(CRIU_ROOT).display()))
            }
            _ => Ok(()),
        }
    }

    /// Makes an empty directory on which criu's view of the root filesystem is mounted.
    ///
    /// # Errors
    /// What making it reported.
    pub fn make_criu_root(&self) -> Result<PathBuf> {
        let dir = self.dir.join(CRIU_ROOT);
        fs::create_dir(&dir).doing(|| format!("make {}", dir.display()))?;
        Ok(dir)
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
    /// that hold the directory one after the other only one can make the file.
    ///
    /// # Errors
    /// `Conflict` when another was faster; otherwise what writing reported.
    pub fn write_first(&mut self, record: &Record) -> Result<()> {
        let path = self.dir.join(RECORD);
        let bytes = encode(record)?;
        let file = match File::options().write(true).create_new(true).open(&path) {
            Err(e) if matches!(e.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => {
                return Err(self.taken());
            }
            other => other.and_then(|mut f| f.write_all(&bytes).map(|()| f)),
        };
        match file {
            Ok(file) => {
                self.record = Some(file);
                Ok(())
            }
            Err(e) => {
                // Nothing else will: this is before anything has an owner.
                let _ = self.remove();
                Err(e).doing(|| format!("write {}", path.display()))
            }
        }
    }

    /// Adds the second line to the record that [`Entry::write_first`] wrote. A reader sees it whole or, without its end of
    /// line, takes it as not written yet; so nothing has to be replaced by rename, which costs more than all other
    /// writing.
    ///
    /// # Errors
    /// What writing reported.
    pub fn complete(&mut self, progress: &Progress) -> Result<()> {
        let bytes = encode(progress)?;
        let mut file = self
            .record
            .take()
            .ok_or_else(|| Error::new(Kind::Internal, "the record was not begun here"))?;
        file.write_all(&bytes)
            .doing(|| format!("write {}", self.dir.join(RECORD).display()))
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
        decode(&bytes).doing(|| path.display().to_string())
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
        let file = |name: &str| match fs::remove_file(self.dir.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(e).doing(|| format!("remove {}", self.dir.join(name).display()))
            }
            _ => Ok(()),
        };
        file(RECORD)?;
        fault::point("delete.record");
        let removed = match fs::remove_dir(&self.dir) {
            // One that was never started.
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {
                file(FIFO)?;
                fs::remove_dir(&self.dir)
            }
            other => other,
        };
        match removed {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {
                self.remove_rest()?;
                fs::remove_dir(&self.dir).doing(|| format!("remove {}", self.dir.display()))
            }
            other => other.doing(|| format!("remove {}", self.dir.display())),
        }
    }
}

/// One line. What is kept of `config.json` as it was written may hold ends of line, which JSON has only between its words.
fn encode(line: &impl serde::Serialize) -> Result<Vec<u8>> {
    let mut bytes =
        serde_json::to_vec(line).map_err(|e| Error::new(Kind::Internal, format!("encode state: {e}")))?;
    for byte in bytes.iter_mut().filter(|byte| **byte == b'\n') {
        *byte = b' ';
    }
    bytes.push(b'\n');
    Ok(bytes)
}

/// The record of a `state.json`, and what a second document after it replaces. Format 1 has one without an end. The first
/// may have several lines: a seccomp profile is in it as it was written.
fn decode(bytes: &[u8]) -> Result<Record> {
    #[derive(serde::Deserialize)]
    struct Version {
        format: u32,
    }
    let wrong = |e: serde_json::Error| Error::new(Kind::Internal, e.to_string());
    let mut documents = serde_json::Deserializer::from_slice(bytes).into_iter::<Record>();
    let record = match documents.next() {
        Some(record) => record,
        None => serde_json::from_slice(bytes),
    };
    let second = bytes.get(documents.byte_offset() + 1..).unwrap_or_default();
    let format = match &record {
        Ok(record) => record.format,
        // Of a newer one no more than this field need be readable.
        Err(_) => match serde_json::Deserializer::from_slice(bytes)
            .into_iter::<Version>()
            .next()
        {
            Some(version) => version.map_err(wrong)?.format,
            None => return Err(Error::new(Kind::Internal, "is empty")),
        },
    };
    if format > FORMAT {
        return Err(Error::new(
            Kind::Unsupported,
            format!("format {format} is of a newer kelson-runtime"),
        ));
    }
    let mut record = record.map_err(wrong)?;
    // Without its end it is being written this moment.
    if let Some(second) = second.strip_suffix(b"\n") {
        let progress: Progress = serde_json::from_slice(second).map_err(wrong)?;
        record.pid = progress.pid;
        record.start_time = progress.start_time;
        record.cgroup = progress.cgroup;
        record.namespaces = progress.namespaces.unwrap_or(record.namespaces);
    }
    Ok(record)
}

/// Reads arbitrary bytes as `state.json`, for fuzzing: any input may fail, none may panic.
pub fn fuzz(bytes: &[u8]) {
    let _ = decode(bytes);
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
        fs::write(
            dir.path().join("a/state.json"),
            r#"{"format":3,"pid":"otherwise"}"#,
        )
        .unwrap();
        assert_eq!(entry.read().unwrap_err().kind(), Kind::Unsupported);
    }

    /// As written by this version; a change that cannot read it any more needs a migration.
    const LINES: &str = concat!(
        r#"{"format":2,"ociVersion":"1.3.0","id":"a","pid":0,"startTime":0,"bundle":"/b","rootfs":"/b/r","#,
        r#""created":"2026-01-01T00:00:00.000000000Z","owner":0,"annotations":{"k":"v"},"cgroup":{"dirs":[]},"#,
        r#""namespaces":131072,"keyring":true,"config":{"process":{"cwd":"/"}}}"#,
        "\n",
        r#"{"pid":7,"startTime":9,"cgroup":{"dirs":[{"path":"/c/a","mount":"/c","version":"v2","made":1}]}}"#,
        "\n"
    );

    #[test]
    fn the_second_line_counts_once_it_is_whole() {
        let whole = decode(LINES.as_bytes()).unwrap();
        assert_eq!(
            (whole.pid, whole.start_time, whole.cgroup.dirs().len()),
            (7, 9, 1)
        );
        let first = LINES.find('\n').unwrap();
        for end in 0..LINES.len() {
            match decode(&LINES.as_bytes()[..end]) {
                Ok(record) => assert!(end >= first && record.pid == 0, "{end}"),
                Err(e) => assert!(end < first && e.kind() == Kind::Internal, "{end}: {}", e.chain()),
            }
        }
    }

    #[test]
    fn a_line_stays_one_line_whatever_is_kept_in_it() {
        let raw =
            serde_json::value::RawValue::from_string("{\n  \"seccomp\": \"a\\nb\"\n}".to_owned()).unwrap();
        assert_eq!(encode(&raw).unwrap(), b"{   \"seccomp\": \"a\\nb\" }\n");
    }

    #[test]
    fn format_one_is_read() {
        let old = LINES
            .lines()
            .next()
            .unwrap()
            .replace("\"format\":2", "\"format\":1")
            .replace("\"pid\":0", "\"pid\":5");
        assert_eq!(decode(old.as_bytes()).unwrap().pid, 5);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) { fuzz(&bytes); }

        #[test]
        fn no_damage_panics_or_is_taken_for_another_container(at in 0..LINES.len(), byte: u8, cut in 0..LINES.len()) {
            let mut bytes = LINES.as_bytes().to_vec();
            bytes[at] = byte;
            bytes.truncate(cut);
            // A pid is believed only together with its start time, from one whole line.
            if let Ok(record) = decode(&bytes) {
                proptest::prop_assert!(record.pid == 0 || cut == LINES.len() || at < LINES.find('\n').unwrap_or(0));
            }
        }
    }
}
