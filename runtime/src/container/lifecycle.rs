//! The verbs: create, run, start, kill, pause, resume, delete.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use kelson_cgroups::{Cgroup, Placeholder};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use oci_spec::runtime::LinuxNamespaceType as Ns;
use rustix::fs::{Mode, OFlags};
use rustix::process::{PidfdFlags, pidfd_open};

use std::os::fd::{AsFd, OwnedFd};

use super::cgroup;
use super::launch::{Options, Plan};
use super::moments;
use super::state::{FORMAT, Progress, Record, Status, View};
use super::store::{Entry, Store};
use crate::config;
use crate::error::{Doing, Error, Kind, Result};
use crate::fault;
use crate::handover;
use crate::init::child::{self, Gate};
use crate::init::parent::{self, Init};
use crate::intel_rdt;
use crate::log::{Log, rfc3339};
use crate::notify::Proxy;
use crate::process::stat;
use crate::rootfs::WayIn;
use crate::rootfs::host;
use crate::seccomp::Agent;

/// How long killed processes may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// How long `delete` without force lets a program run that may just be ending.
const DELETE_PATIENCE: Duration = Duration::from_millis(100);
/// How long a cgroup may take to become removable.
const CGROUP_PATIENCE: Duration = Duration::from_secs(5);
/// How long a started process may take to execute; hooks have their own limits and may need all of it.
const START_PATIENCE: Duration = Duration::from_secs(600);

/// A container that is ready for its program, with the means to go on or to undo all of it.
#[derive(Debug)]
pub struct Ready {
    entry: Entry,
    record: Record,
    init: Option<Init>,
    cgroup_made: bool,
    /// The moment for hooks was reached: what follows a failure are poststop hooks (runtime.md, lifecycle).
    hooked: Cell<bool>,
    log: Log,
    notify: Option<Proxy>,
    /// Holds a scope of systemd's open as long as no process of the container is in it.
    holder: Option<Placeholder>,
    more_namespaces: bool,
    done: bool,
}

impl Drop for Ready {
    /// Undoes in the reverse order, and goes on after errors: the one that led here is the one to tell.
    fn drop(&mut self) {
        if self.done {
            return;
        }
        drop(self.init.take());
        drop(self.holder.take());
        if self.cgroup_made {
            let _ = self.record.cgroup.kill_all(KILL_PATIENCE);
            let _ = self.record.take_off_host();
            let _ = self.record.cgroup.remove(CGROUP_PATIENCE);
            let _ = self.record.intel_rdt.as_ref().map(intel_rdt::Group::remove);
        }
        let _ = self.entry.remove();
        if self.hooked.get() {
            moments::poststop(&self.record, &self.log);
        }
    }
}

/// Reserves the id, writes the record, makes the cgroup: what precedes every process.
///
/// # Errors
/// After one nothing of the container is left.
pub fn begin(store: &Store, plan: &Plan, options: &Options) -> Result<Ready> {
    let record = first_record(plan)?;
    let mut entry = store.create(&plan.id)?;
    fault::point("create.reserved");
    entry.write_first(&record)?;
    let mut ready = Ready {
        entry,
        record,
        init: None,
        cgroup_made: false,
        hooked: Cell::new(false),
        log: plan.log.clone(),
        notify: None,
        holder: None,
        more_namespaces: false,
        done: false,
    };
    fault::point("create.recorded");
    ready.holder = cgroup::make(&mut ready.record, plan, options.rootless)?;
    ready.cgroup_made = true;
    plan.intel_rdt
        .as_ref()
        .map_or(Ok(()), intel_rdt::Prepared::make)?;
    Ok(ready)
}

/// Makes everything of a container up to the point where its program could run.
///
/// # Errors
/// After one nothing of the container is left.
pub fn prepare(store: &Store, plan: &Plan, options: &Options, wait_for_start: bool) -> Result<Ready> {
    let mut ready = begin(store, plan, options)?;
    if let Some(host) = &plan.notify {
        let dir = ready.entry.make_notify_dir()?;
        // Of a created container `start` makes the socket, which may be called by another service.
        if !wait_for_start {
            ready.notify = Some(Proxy::new(&dir, host)?);
        }
    }
    let joiner = ready.record.cgroup.joiner()?;
    fault::point("create.limits");
    let gate = if wait_for_start {
        Gate::Fifo(make_fifo(&ready.entry.fifo())?)
    } else {
        Gate::Channel
    };
    let mut holder = ready.holder.take();
    let known = &ready.record;
    let hooked = &ready.hooked;
    let hand_over = |pid: Pid, listener: OwnedFd| {
        let mut record = known.clone();
        record.pid = pid.as_raw();
        let state = record.view(Status::Creating);
        hand_over(
            plan.agent.as_ref(),
            &known.oci_version,
            record.pid,
            state,
            &listener,
        )
    };
    let init = parent::start(
        plan,
        joiner,
        gate,
        ready.entry.lock_mut(),
        |pid| {
            hooked.set(true);
            holder.take().map_or(Ok(()), Placeholder::end)?;
            moments::early(plan, known, pid)
        },
        hand_over,
    )?;
    fault::point("create.ready");
    let pid = init.pid.as_raw();
    ready.record.pid = pid;
    ready.init = Some(init);
    holder.take().map_or(Ok(()), Placeholder::end)?;
    ready.hooked.set(true);
    ready.started(pid)?;
    fault::point("create.rewritten");
    if let (Some(socket), Some(init)) = (&plan.pidfd_socket, &ready.init) {
        send_pidfd(socket, &init.pidfd)?;
    }
    if let Some(path) = &options.pid_file {
        write_pid_file(path, ready.record.pid)?;
    }
    Ok(ready)
}

fn first_record(plan: &Plan) -> Result<Record> {
    let hooks = plan
        .config
        .hooks
        .as_ref()
        .filter(|h| h.poststart().is_some() || h.poststop().is_some());
    Ok(Record {
        format: FORMAT,
        oci_version: plan.config.oci_version.clone(),
        id: plan.id.clone(),
        pid: 0,
        start_time: 0,
        bundle: plan.bundle.clone(),
        config_file: plan.config_file.clone(),
        rootfs: plan.rootfs.clone(),
        host_mount: match plan.way_in {
            WayIn::Chroot => Some(host::mount_id(&plan.rootfs)?),
            WayIn::Pivot | WayIn::Move => None,
        },
        created: rfc3339(SystemTime::now()),
        owner: nix::unistd::Uid::effective().as_raw(),
        annotations: plan.config.annotations.clone(),
        cgroup: plan.cgroup.clone(),
        namespaces: plan.namespaces.all,
        hooks: hooks.cloned(),
        keyring: plan.new_keyring,
        intel_rdt: plan.intel_rdt.as_ref().map(|rdt| rdt.group.clone()),
        config: Some(config::keep(&plan.process, &plan.config.linux)?),
    })
}

/// Gives the agent the descriptor on which a process's calls wait.
pub(super) fn hand_over(
    agent: Option<&Agent>,
    oci_version: &str,
    pid: i32,
    state: View<'_>,
    listener: &OwnedFd,
) -> Result<()> {
    match agent {
        Some(agent) => agent.send(oci_version, pid, state, listener),
        None => Err(Error::new(Kind::Internal, "broken protocol")),
    }
}

fn make_fifo(path: &Path) -> Result<OwnedFd> {
    nix::unistd::mkfifo(
        path,
        nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR,
    )
    .doing(|| format!("make {}", path.display()))?;
    // For reading and writing: opening does not wait, and a read then waits for a byte instead of seeing an end.
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .doing(|| format!("open {}", path.display()))
}

/// Written beside and renamed: whoever watches for the file never reads half of it.
fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}"));
    fs::write(&temporary, pid.to_string())
        .and_then(|()| fs::rename(&temporary, path))
        .doing(|| format!("--pid-file: write {}", path.display()))
}

/// Hands the process's descriptor to whoever connected `--pidfd-socket`.
///
/// # Errors
/// What sending reported.
pub fn send_pidfd(socket: &OwnedFd, pidfd: &OwnedFd) -> Result<()> {
    let doing = || "--pidfd-socket: send the descriptor";
    handover::send(socket.as_fd(), pidfd.as_fd(), b"pidfd").doing(doing)?;
    // A created container's process holds a copy of this socket: its peer sees the end now, not at start.
    rustix::net::shutdown(socket, rustix::net::Shutdown::Write).doing(doing)
}

/// As [`write_pid_file`], for exec.
///
/// # Errors
/// What writing reported.
pub fn pid_file(path: Option<&Path>, pid: i32) -> Result<()> {
    path.map_or(Ok(()), |path| write_pid_file(path, pid))
}

impl Ready {
    /// What is known of it so far.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Records the first process, wherever it came from.
    ///
    /// # Errors
    /// What writing the record reported.
    pub fn started(&mut self, pid: i32) -> Result<()> {
        self.holder.take().map_or(Ok(()), Placeholder::end)?;
        self.record.pid = pid;
        self.record.start_time = stat::read(pid).map_or(0, |s| s.start_time);
        self.entry.complete(&Progress {
            pid,
            start_time: self.record.start_time,
            cgroup: self.record.cgroup.clone(),
            namespaces: self.more_namespaces.then_some(self.record.namespaces),
        })
    }

    /// Adds a namespace (`CLONE_NEW*`) that the first process has without config.json asking for it.
    pub fn add_namespace(&mut self, flag: u64) {
        self.record.namespaces |= flag;
        self.more_namespaces = true;
    }

    /// prestart and createRuntime hooks, for a process that somebody else made.
    ///
    /// # Errors
    /// The first hook that fails.
    pub fn early_hooks(&mut self, plan: &Plan, pid: i32) -> Result<()> {
        self.hooked.set(true);
        moments::early(plan, &self.record, Pid::from_raw(pid)).map(drop)
    }

    /// Makes an empty directory in the container's state, for the root that criu works in.
    ///
    /// # Errors
    /// What making it reported.
    pub fn make_criu_root(&self) -> Result<PathBuf> {
        self.entry.make_criu_root()
    }

    /// Keeps all of it: the container lives.
    pub fn keep(mut self) {
        self.done = true;
    }

    /// `create`: leaves it waiting on the fifo.
    pub fn created(mut self) {
        if let Some(init) = &mut self.init {
            init.release();
        }
        self.done = true;
    }

    /// `run`: starts the program.
    ///
    /// # Errors
    /// What startContainer hooks, execve or poststart hooks reported; nothing is left then.
    pub fn run(mut self) -> Result<Running> {
        let Some(init) = &mut self.init else {
            return Err(Error::new(Kind::Internal, "no process"));
        };
        fault::point("run.ready");
        init.go()?;
        fault::point("run.started");
        moments::poststart(&self.record)?;
        let Some(mut init) = self.init.take() else {
            return Err(Error::new(Kind::Internal, "no process"));
        };
        init.release();
        self.done = true;
        Ok(Running {
            record: self.record.clone(),
            init,
            notify: self.notify.take(),
        })
    }
}

/// A container whose program was started by this runtime.
#[derive(Debug)]
pub struct Running {
    /// What is known of it.
    pub record: Record,
    /// Its first process, a child of ours.
    pub init: Init,
    /// Hears when it is ready, for a service manager.
    pub notify: Option<Proxy>,
}

/// Starts a created container's program.
///
/// # Errors
/// `Conflict` in any other state; otherwise what startContainer hooks, execve or poststart hooks reported.
pub fn start(store: &Store, id: &str) -> Result<()> {
    let mut entry = store.open(id)?;
    entry.lock()?;
    let record = entry.read()?;
    match entry.status(&record) {
        Status::Created => {}
        Status::Stopped => {
            return Err(Error::new(
                Kind::Conflict,
                "cannot start a container that has stopped",
            ));
        }
        Status::Running => {
            return Err(Error::new(
                Kind::Conflict,
                "cannot start an already running container",
            ));
        }
        other => {
            return Err(Error::new(
                Kind::Conflict,
                format!("cannot start a container in the {} state", other.name()),
            ));
        }
    }
    fault::point("start.locked");
    let path = entry.fifo();
    let mut fifo = OpenOptions::new()
        .write(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(&path)
        .doing(|| "open the start fifo")?;
    fifo.write_all(b"0").doing(|| "write to the start fifo")?;
    fault::point("start.told");
    wait_for_exec(&fifo)?;
    fault::point("start.executed");
    // The pipe and what is in it live as long as this end.
    let back = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(&path)
        .doing(|| "open the start fifo");
    fs::remove_file(&path).doing(|| "remove the start fifo")?;
    child::told(back?)?;
    let done = moments::poststart(&record);
    if done.is_err() {
        // The container is stopped, and destroyed by `delete`, as with runc: whoever called start still has its id.
        let _ = record.cgroup.kill_all(KILL_PATIENCE);
    }
    done
}

/// Until the fifo has no reader left: execve closed it, or the process ended.
fn wait_for_exec(fifo: &File) -> Result<()> {
    let mut fds = [PollFd::new(fifo.as_fd(), PollFlags::empty())];
    let limit = PollTimeout::try_from(START_PATIENCE).unwrap_or(PollTimeout::MAX);
    loop {
        match poll(&mut fds, limit) {
            Ok(0) => return Err(Error::new(Kind::Internal, "the program did not start in time")),
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e).doing(|| "wait for the program to start"),
        }
    }
}

/// Sends a signal to the first process, or to all.
///
/// # Errors
/// `Conflict` when the container is not running (not for `all`: stopped processes may have left others).
pub fn kill(store: &Store, id: &str, signal: i32, all: bool) -> Result<()> {
    let entry = store.open(id)?;
    let record = entry.read()?;
    let status = entry.status(&record);
    if all
        || (record.namespaces & crate::namespaces::decide::flag(Ns::Pid) == 0
            && signal == Signal::SIGKILL as i32)
    {
        // Without a pid namespace of its own nothing else would end the first process's children.
        return signal_everything(&record.cgroup, signal);
    }
    if status == Status::Stopped {
        return Err(Error::new(Kind::Conflict, "container not running"));
    }
    signal_init(&record, signal)?;
    if signal == Signal::SIGKILL as i32 && status == Status::Paused && !record.cgroup.is_unified() {
        // A task that v1's freezer holds does not die.
        record.cgroup.thaw()?;
    }
    Ok(())
}

fn signal_everything(cgroup: &Cgroup, signal: i32) -> Result<()> {
    match Signal::try_from(signal) {
        Ok(signal) => Ok(cgroup.signal_all(signal)?),
        // Realtime signals have no name in nix.
        Err(_) => {
            for pid in cgroup.pids()? {
                if let Some(pid) = rustix::process::Pid::from_raw(pid)
                    && let Ok(fd) = pidfd_open(pid, PidfdFlags::empty())
                {
                    send(&fd, signal)?;
                }
            }
            Ok(())
        }
    }
}

/// By descriptor, checked after opening: the number cannot be reused for another process in between.
fn signal_init(record: &Record, signal: i32) -> Result<()> {
    let gone = || Error::new(Kind::Conflict, "container not running");
    let pid = rustix::process::Pid::from_raw(record.pid).ok_or_else(gone)?;
    let fd = pidfd_open(pid, PidfdFlags::empty()).map_err(|_| gone())?;
    if !record.is_alive() {
        return Err(gone());
    }
    send(&fd, signal)
}

fn send(pidfd: &OwnedFd, signal: i32) -> Result<()> {
    if signal == 0 {
        return Ok(());
    }
    match kelson_sys::pidfd::send_signal(pidfd, signal) {
        Err(e) if e.raw_os_error() == Some(nix::libc::ESRCH) => Ok(()),
        other => other.doing(|| format!("send signal {signal} to the container")),
    }
}

/// Freezes all processes.
///
/// # Errors
/// `Conflict` when it is not running.
pub fn pause(store: &Store, id: &str) -> Result<()> {
    let entry = store.open(id)?;
    let record = entry.read()?;
    match entry.status(&record) {
        Status::Running | Status::Created if record.cgroup.dirs().is_empty() => Err(Error::new(
            Kind::Unsupported,
            "the container has no cgroup to freeze",
        )),
        Status::Running | Status::Created => Ok(record.cgroup.freeze(KILL_PATIENCE)?),
        other => Err(Error::new(
            Kind::Conflict,
            format!("container not running or created: {}", other.name()),
        )),
    }
}

/// Lets them go on.
///
/// # Errors
/// `Conflict` when it is not paused.
pub fn resume(store: &Store, id: &str) -> Result<()> {
    let entry = store.open(id)?;
    let record = entry.read()?;
    match entry.status(&record) {
        Status::Paused => Ok(record.cgroup.thaw()?),
        _ => Err(Error::new(Kind::Conflict, "container not paused")),
    }
}

/// Removes a container: what runs (with `force`), its cgroup, its record; then poststop hooks.
///
/// # Errors
/// `NotFound` unless forced, `Conflict` when it runs and is not forced. The record stays as long as something of
/// the container could not be removed.
pub fn delete(store: &Store, id: &str, force: bool, log: &Log) -> Result<()> {
    let mut entry = match store.open(id) {
        Err(e) if force && e.kind() == Kind::NotFound => return Ok(()),
        other => other?,
    };
    if let Err(e) = lock_for_delete(&mut entry, force) {
        // Whoever had the lock has removed it.
        return if force && e.kind() == Kind::NotFound {
            Ok(())
        } else {
            Err(e)
        };
    }
    let record = match entry.read() {
        // A creation that died before its record: there is nothing else.
        Err(e) if e.kind() == Kind::NotFound => {
            entry.remove()?;
            return if force { Ok(()) } else { Err(e) };
        }
        other => other?,
    };
    let mut status = entry.status(&record);
    if status == Status::Running && !force && ends_soon(&record) {
        status = Status::Stopped;
    }
    if matches!(status, Status::Running | Status::Paused) && !force {
        return Err(Error::new(
            Kind::Conflict,
            format!(
                "cannot delete container {id} that is not stopped: {}",
                status.name()
            ),
        ));
    }
    destroy(&entry, &record, log)
}

/// A program that was told to end, or has nothing left to do, may be on its way: who calls `delete` right after
/// `start` or `kill` means the end of it.
fn ends_soon(record: &Record) -> bool {
    let Some(pid) = rustix::process::Pid::from_raw(record.pid) else {
        return true;
    };
    let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) else {
        return true;
    };
    if !record.is_alive() {
        return true;
    }
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(DELETE_PATIENCE).unwrap_or(PollTimeout::ZERO);
    matches!(poll(&mut fds, limit), Ok(n) if n > 0)
}

/// With `force` a start or creation that holds the lock is not waited for: it ends when its container's process does.
fn lock_for_delete(entry: &mut Entry, force: bool) -> Result<()> {
    if force
        && !entry.try_lock()?
        && let Ok(record) = entry.read()
    {
        record.cgroup.kill_all(KILL_PATIENCE)?;
    }
    if entry.is_mine() { Ok(()) } else { entry.lock() }
}

/// Kills what is left, removes cgroup and record, runs poststop hooks.
///
/// # Errors
/// The first of them; a poststop hook that fails is only logged.
pub fn destroy(entry: &Entry, record: &Record, log: &Log) -> Result<()> {
    fault::point("delete.locked");
    // With the first process of a pid namespace all others have ended. A directory that holds one all the same, put there
    // from outside, cannot be removed.
    let has_pids = record.namespaces & crate::namespaces::decide::flag(Ns::Pid) != 0;
    let gone = fault::is_planted("cgroup")
        || has_pids && !record.is_alive() && record.cgroup.remove(Duration::ZERO).is_ok();
    if !gone {
        record.cgroup.kill_all(KILL_PATIENCE)?;
        wait_until_dead(record)?;
    }
    fault::point("delete.killed");
    record.take_off_host()?;
    if !gone {
        record.cgroup.remove(CGROUP_PATIENCE)?;
    }
    record
        .intel_rdt
        .as_ref()
        .map_or(Ok(()), intel_rdt::Group::remove)?;
    fault::point("delete.cgroup");
    entry.remove()?;
    fault::point("delete.removed");
    moments::poststop(record, log);
    Ok(())
}

/// The cgroup is empty; a first process that was never in it, or is a zombie nobody waited for, counts as dead. So does
/// one that waits for others of its pid namespace to be reaped: it left the cgroup after its memory and namespaces.
fn wait_until_dead(record: &Record) -> Result<()> {
    let until = Instant::now() + KILL_PATIENCE;
    while record.is_alive() && !stat::has_let_go(record.pid, record.start_time) {
        if Instant::now() > until {
            return Err(Error::new(
                Kind::Conflict,
                "the container's first process does not end",
            ));
        }
        // Its cgroup may have been removed by others, with the process elsewhere.
        match signal_init(record, Signal::SIGKILL as i32) {
            Err(e) if e.kind() != Kind::Conflict => return Err(e),
            _ => thread::sleep(Duration::from_millis(2)),
        }
    }
    Ok(())
}
