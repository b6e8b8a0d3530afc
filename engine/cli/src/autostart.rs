//! Starting the engine when nothing answers on the default socket.
//!
//! The user typed one command and gets its output, nothing else: the engine starts in a session of
//! its own with a log file, holds none of our descriptors and outlives us. A lock lets one of many
//! simultaneous commands start it; the others find it running.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};

/// argv[1] of the intermediate step: a new session, then the engine in its place.
pub const LAUNCH: &str = "*launch-engine";
/// Where the engine's own messages go.
const LOG: &str = "/var/log/kelsond.log";
/// How long the engine may take until it listens.
const READY_DEADLINE: Duration = Duration::from_secs(20);
/// How often we look.
const POLL: Duration = Duration::from_millis(3);

/// Starts the engine, and returns `connect`'s first success.
pub fn start<T>(socket: &Path, connect: impl Fn() -> io::Result<T>) -> anyhow::Result<T> {
    if !rustix::process::geteuid().is_root() {
        bail!("only root can start it");
    }
    let engine = find_engine().context("kelsond was not found beside kelson, nor on PATH")?;
    let deadline = Instant::now() + READY_DEADLINE;
    let _lock = lock(socket.parent().context("the socket has no folder")?, deadline)?;
    if let Ok(connection) = connect() {
        return Ok(connection);
    }
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .mode(0o640)
        .open(LOG)
        .context(LOG)?;
    let log_start = log.metadata().context(LOG)?.len();
    let mut child = launch(&engine, &log)?;
    loop {
        match connect() {
            Ok(connection) => return Ok(connection),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error.into()),
            Err(_) => {}
        }
        if let Some(status) = child.try_wait().context("wait for kelsond")? {
            bail!("{}", why_it_ended(status, &log, log_start));
        }
        if Instant::now() > deadline {
            bail!(
                "kelsond does not answer after {} s, see {LOG}",
                READY_DEADLINE.as_secs()
            );
        }
        std::thread::sleep(POLL);
    }
}

/// The second half: runs as `kelson *launch-engine PATH`, and becomes the engine.
///
/// Only a fresh process can take a session of its own without the risks of code between fork and
/// exec in a process with threads.
pub fn become_engine(engine: &str) -> anyhow::Error {
    // Already a session leader is as good.
    let _ = rustix::process::setsid();
    own_cgroup();
    anyhow::Error::from(Command::new(engine).exec()).context(engine.to_owned())
}

/// `kelsond` beside our own executable, then on PATH.
fn find_engine() -> Option<PathBuf> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|own| Some(own.parent()?.join("kelsond")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    beside
        .into_iter()
        .chain(std::env::split_paths(&path).map(|dir| dir.join("kelsond")))
        .find(|file| file.is_file())
}

fn lock(dir: &Path, deadline: Instant) -> anyhow::Result<File> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(dir)
        .with_context(|| dir.display().to_string())?;
    let path = dir.join("start.lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| path.display().to_string())?;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) if Instant::now() < deadline => {
                std::thread::sleep(POLL);
            }
            Err(error) => return Err(error).with_context(|| format!("lock {}", path.display())),
        }
    }
}

fn launch(engine: &Path, log: &File) -> anyhow::Result<Child> {
    let own = std::env::current_exe().context("find our own executable")?;
    Command::new(own)
        .arg(LAUNCH)
        .arg(engine)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?)
        .spawn()
        .with_context(|| format!("start {}", engine.display()))
}

/// Leaves the cgroup of the terminal's session, whose end would take the engine along. Best effort:
/// where it cannot be done the engine runs where it was started.
fn own_cgroup() {
    for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        if !Path::new(root).join("cgroup.procs").exists() {
            continue;
        }
        let group = Path::new(root).join("kelsond");
        let _ = fs::create_dir(&group);
        let _ = OpenOptions::new()
            .write(true)
            .open(group.join("cgroup.procs"))
            .and_then(|mut file| file.write_all(b"0"));
        return;
    }
}

/// The exit status, and the last line the engine logged since we started it.
fn why_it_ended(status: ExitStatus, mut log: &File, start: u64) -> String {
    const TAIL_LIMIT: u64 = 64 * 1024;
    let mut text = String::new();
    let _ = log
        .seek(SeekFrom::Start(start))
        .and_then(|_| log.take(TAIL_LIMIT).read_to_string(&mut text));
    match text.lines().rev().find(|line| !line.trim().is_empty()) {
        Some(line) => format!("kelsond ended ({status}): {line}"),
        None => format!("kelsond ended ({status}), see {LOG}"),
    }
}
