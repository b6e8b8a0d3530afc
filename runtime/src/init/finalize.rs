//! The last steps before a program runs, the same for a container's first process and for exec.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use nix::sys::signal::SigSet;
use rustix::fs::{AtFlags, FileType, Gid, Uid, chownat, fstat, major, minor};
use rustix::io::Errno;

use crate::config::Process;
use crate::error::{Doing, Error, Kind, Result};
use crate::fault;
use crate::init::sync::{Channel, Message};
use crate::lsm;
use crate::process::attributes::Attributes;
use crate::process::capabilities::{self, Sets};
use crate::process::{command, credentials, env, rlimits};
use crate::seccomp::Filter;
use crate::terminal;

/// For a deliberate fault.
const CAP_SYS_ADMIN: u32 = 21;

/// What the process is to become.
#[derive(Debug)]
pub struct Target<'a> {
    /// From config.json or process.json.
    pub process: &'a Process,
    /// Its capabilities.
    pub capabilities: Sets,
    /// Scheduler, personality and the like.
    pub attributes: &'a Attributes,
    /// Its system call filter.
    pub filter: Option<&'a Filter>,
    /// It is in a user namespace other than the runtime's.
    pub in_user_namespace: bool,
    /// Descriptors to keep beyond the standard three.
    pub preserve_fds: u32,
    /// The process will wait to be started: the descriptors it waits with stay open, all others are closed at once.
    /// None: execve follows and closes them.
    pub waits_with: Option<[RawFd; 2]>,
    /// More environment, from socket activation.
    pub extra_env: &'a [String],
    /// exec: the runtime, without which it must not run. Whoever killed that was told that nothing runs.
    pub peer: Option<&'a Channel>,
    /// To the runtime, for a filter with calls that wait.
    pub channel: &'a Channel,
}

/// A program ready to be executed: nothing is looked up any more.
#[derive(Debug)]
pub struct Program {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
    name: String,
}

/// Takes on everything, and finds the program. The order is explained in `docs/ordering.md`.
///
/// # Errors
/// Names the field that the kernel refused.
pub fn become_target(t: &Target<'_>, label: lsm::Prepared, terminal: Option<OwnedFd>) -> Result<Program> {
    let p = t.process;
    if let Some(slave) = terminal {
        own(&slave, p.user.uid, false)?;
        terminal::adopt(&slave)?;
    } else {
        for fd in [
            rustix::stdio::stdin(),
            rustix::stdio::stdout(),
            rustix::stdio::stderr(),
        ] {
            own_stdio(fd, p.user.uid)?;
        }
    }
    rlimits::apply(&p.rlimits)?;
    if p.no_new_privileges && !fault::is_planted("no-new-privileges") {
        rustix::thread::set_no_new_privs(true).doing(|| "process.noNewPrivileges: set")?;
    }
    t.attributes.apply()?;
    label.apply()?;
    // Before any filter, which may be older than the call.
    let first = 3 + t.preserve_fds;
    match t.waits_with {
        Some(keep) => kelson_sys::fds::close_from(first, &keep).doing(|| "close descriptors")?,
        None => kelson_sys::fds::cloexec_from(first).doing(|| "mark descriptors to be closed")?,
    }
    if fault::is_planted("descriptor") {
        leak_a_descriptor()?;
    }
    // As root, for a directory that only root may enter; again as the user, for one that root may not (NFS).
    let first_try = enter(&p.cwd);
    // Without no_new_privs loading a filter takes CAP_SYS_ADMIN, which is about to go.
    let early = t.filter.filter(|_| !p.no_new_privileges);
    if let Some(filter) = early {
        // Asked now, as the filter may forbid to ask.
        heard(t)?;
        load(filter, t.channel)?;
    }
    let too_many = u64::from(fault::is_planted("capability")) << CAP_SYS_ADMIN;
    capabilities::limit_bounding(t.capabilities.bounding | too_many)?;
    credentials::assume(&p.user, t.in_user_namespace)?;
    if first_try.is_err() {
        enter(&p.cwd)?;
    }
    capabilities::apply(t.capabilities)?;
    kelson_sys::signals::default_all();
    if t.waits_with.is_some() {
        // Whoever has a created container's pid may end it before its start, as with runc.
        kelson_sys::signals::end_when_asked().doing(|| "prepare to wait for start")?;
    }
    SigSet::empty()
        .thread_set_mask()
        .doing(|| "clear the signal mask")?;
    let program = program(p, t.extra_env)?;
    if early.is_none() {
        heard(t)?;
    }
    if let (Some(filter), true) = (t.filter, p.no_new_privileges) {
        load(filter, t.channel)?;
    }
    Ok(program)
}

/// What must never happen.
fn leak_a_descriptor() -> Result<()> {
    use rustix::fs::{Mode, OFlags};
    let root = rustix::fs::open("/", OFlags::DIRECTORY, Mode::empty()).doing(|| "open a directory")?;
    std::mem::forget(root);
    Ok(())
}

/// An error when the runtime has ended: its caller was told that nothing runs.
fn heard(t: &Target<'_>) -> Result<()> {
    match t.peer {
        Some(peer) if !peer.is_heard() => Err(Error::new(
            Kind::Internal,
            "the runtime ended before the program started",
        )),
        _ => Ok(()),
    }
}

/// Puts the filter in force. Who answers the calls that it makes wait must have them before the first of ours waits:
/// until then only write(2) is sure to work, so the runtime fetches the descriptor.
fn load(filter: &Filter, channel: &Channel) -> Result<()> {
    if fault::is_planted("seccomp") {
        return Ok(());
    }
    let Some(listener) = filter.load()? else {
        return Ok(());
    };
    channel.send(&Message::Listener(listener.as_raw_fd()))?;
    channel.wait_short_go()
}

/// chdir, and a check that the directory is inside: one reached through a descriptor that leaked from the host
/// has no path here (CVE-2024-21626).
fn enter(cwd: &str) -> Result<()> {
    rustix::process::chdir(cwd).doing(|| format!("process.cwd: chdir to {cwd}"))?;
    match rustix::process::getcwd(Vec::new()) {
        Ok(path) if path.as_bytes().starts_with(b"/") => Ok(()),
        Ok(_) | Err(Errno::NOENT) => Err(Error::new(
            Kind::Invalid,
            format!("process.cwd: {cwd} is outside of the container's root"),
        )),
        Err(e) => Err(e).doing(|| "process.cwd: check"),
    }
}

/// The user must be able to open /dev/stdin and its kin again; a shared /dev/null stays as it is.
fn own_stdio(fd: BorrowedFd<'_>, uid: u32) -> Result<()> {
    let stat = match fstat(fd) {
        // Closed by the caller.
        Err(Errno::BADF) => return Ok(()),
        other => other.doing(|| "stat standard stream")?,
    };
    let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3);
    if is_null || stat.st_uid == uid {
        return Ok(());
    }
    own(fd, uid, true)
}

fn own(fd: impl std::os::fd::AsFd, uid: u32, may_fail: bool) -> Result<()> {
    let uid = Uid::from_raw(uid);
    match chownat(fd, "", Some(uid), None::<Gid>, AtFlags::EMPTY_PATH) {
        // An owner without a mapping, a file on a read-only or foreign filesystem: it stays readable or not.
        Err(Errno::PERM | Errno::INVAL | Errno::ROFS | Errno::OPNOTSUPP) if may_fail => Ok(()),
        Err(Errno::INVAL | Errno::PERM) => Ok(()),
        other => other.doing(|| "change the owner of a standard stream"),
    }
}

fn program(p: &Process, extra_env: &[String]) -> Result<Program> {
    let name = p
        .args
        .first()
        .ok_or_else(|| Error::field("process.args", "is empty"))?;
    let path = command::look_up(name, &p.env)?;
    let entries = p.env.iter().chain(extra_env).map(String::as_str);
    let env = env::resolve(entries, || command::home(p.user.uid));
    let c = |s: Vec<u8>| CString::new(s).map_err(|_| Error::field("process.args", "holds a NUL byte"));
    Ok(Program {
        path: c(path_bytes(&path))?,
        args: p
            .args
            .iter()
            .map(|a| c(a.clone().into_bytes()))
            .collect::<Result<_>>()?,
        env: env
            .into_iter()
            .map(|e| c(e.into_bytes()))
            .collect::<Result<_>>()?,
        name: name.clone(),
    })
}

fn path_bytes(path: &Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str().as_bytes().to_vec()
}

impl Program {
    /// Its environment, `NAME=VALUE`.
    pub fn env(&self) -> &[CString] {
        &self.env
    }

    /// Becomes the program. Returns only the error.
    pub fn execute(&self) -> Error {
        match nix::unistd::execve(&self.path, &self.args, &self.env) {
            Err(errno) => command::exec_error(&self.name, errno),
            Ok(never) => match never {},
        }
    }
}
