//! One process of a container: its first, or one that `exec` added.
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use kelson_shim_proto::logs::Input;
use kelson_shim_proto::task::Status;
use kelson_shim_proto::time::Time;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::sync::watch;

use crate::error::{Doing, Error, Kind, Result, lock};
use crate::io::console::Console;
use crate::io::hub::Hub;
use crate::io::stdin::Stdin;
use crate::reaper::Exit;

/// The longest exec id; it becomes a directory name.
const MAX_EXEC_ID: usize = 128;

/// What a client told about a process's stdio; given back by `State`.
#[derive(Clone, Debug, Default)]
pub struct Described {
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Address of stdin.
    pub stdin: String,
    /// Address of stdout.
    pub stdout: String,
    /// Address of stderr.
    pub stderr: String,
}

/// A process and its stdio.
#[derive(Debug)]
pub struct Process {
    /// Empty for the first process.
    pub exec_id: String,
    /// Its output.
    pub hub: Arc<Hub>,
    /// Its input.
    pub stdin: Arc<Stdin>,
    state: Mutex<State>,
    /// Set once everything that follows an exit is done (see `ending.rs`).
    ended: watch::Sender<Option<Exit>>,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    described: Described,
    pid: u32,
    pidfd: Option<OwnedFd>,
    console: Option<Arc<Console>>,
    /// Columns and rows that were asked for before there was a terminal.
    size: Option<(u32, u32)>,
    started_at: Option<Time>,
    exit: Option<Exit>,
}

/// How far a process has come. It only ever moves down this list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Announced; has no pid.
    #[default]
    Announced,
    /// A call that gives it a pid is under way.
    Making,
    /// Has a pid, waits for `Start` (the first process only).
    Created,
    /// Runs its command.
    Running,
    /// Reaped.
    Exited,
}

/// A look at a process.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// How far it has come.
    pub phase: Phase,
    /// 0 before it has one.
    pub pid: u32,
    /// Set once its command may run.
    pub started_at: Option<Time>,
    /// Set once reaped.
    pub exit: Option<Exit>,
    /// Its stdio.
    pub described: Described,
}

impl Process {
    /// A process that is announced.
    pub fn new(exec_id: &str, described: Described) -> Arc<Self> {
        Arc::new(Self {
            exec_id: exec_id.to_owned(),
            hub: Arc::default(),
            stdin: Arc::default(),
            state: Mutex::new(State {
                described,
                ..State::default()
            }),
            ended: watch::Sender::new(None),
        })
    }

    /// What it is now.
    pub fn snapshot(&self) -> Snapshot {
        let state = lock(&self.state);
        Snapshot {
            phase: state.phase,
            pid: state.pid,
            started_at: state.started_at,
            exit: state.exit,
            described: state.described.clone(),
        }
    }

    /// Claims the right to make it; only one caller gets it.
    pub fn begin(&self, described: Option<Described>) -> Result<()> {
        let mut state = lock(&self.state);
        if state.phase != Phase::Announced {
            return Err(Error::new(
                Kind::Precondition,
                format!("{} was started before", self.name()),
            ));
        }
        state.phase = Phase::Making;
        if let Some(described) = described {
            state.described = described;
        }
        Ok(())
    }

    /// Gives the right back after a failure.
    pub fn give_back(&self) {
        lock(&self.state).phase = Phase::Announced;
    }

    /// It has a pid now, which was not reaped when this is called.
    pub fn made(&self, pid: i32, phase: Phase, console: Option<Arc<Console>>) {
        let mut state = lock(&self.state);
        state.phase = state.phase.max(phase);
        state.pid = u32::try_from(pid).unwrap_or(0);
        // Not there any more: its exit is on the way, and signals answer that it has ended.
        state.pidfd = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        if let (Some(console), Some((columns, rows))) = (&console, state.size.take()) {
            // The process may have ended; then there is nobody to care.
            let _ = console.resize(columns, rows);
        }
        state.console = console;
    }

    /// Its command may run from now on. Said before it does: it may have ended when the runtime's `start` returns.
    pub fn starting(&self) {
        lock(&self.state).started_at = Some(Time::now());
    }

    /// It does not: the runtime refused.
    pub fn not_started(&self) {
        lock(&self.state).started_at = None;
    }

    /// Its command runs.
    pub fn running(&self) {
        let mut state = lock(&self.state);
        state.phase = state.phase.max(Phase::Running);
    }

    /// It was reaped.
    pub fn exited(&self, exit: Exit) {
        let mut state = lock(&self.state);
        state.phase = Phase::Exited;
        state.exit = Some(exit);
        state.pidfd = None;
        state.console = None;
    }

    /// Everything that follows the exit is done.
    pub fn publish(&self, exit: Exit) {
        self.ended.send_replace(Some(exit));
    }

    /// Whether the end of one client's input is the end of its stdin.
    pub fn stdin_once(&self) -> bool {
        matches!(
            lock(&self.state).described.stdin.parse(),
            Ok(Input::Attach { once: true })
        )
    }

    /// Waits for [`Process::publish`].
    pub async fn wait(&self) -> Exit {
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await {
            Ok(exit) => exit.unwrap_or_else(Exit::unknown),
            Err(_) => Exit::unknown(),
        }
    }

    /// Whether [`Process::publish`] has happened.
    pub fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// Sends a signal. By pidfd: the number may long be another process's.
    pub fn signal(&self, number: u32) -> Result<()> {
        let number = i32::try_from(number)
            .ok()
            .filter(|number| (1..=64).contains(number));
        let number = number.ok_or_else(|| Error::new(Kind::Invalid, "no such signal"))?;
        let state = lock(&self.state);
        let ended = || Error::new(Kind::NotFound, format!("{} has already ended", self.name()));
        match (state.phase, &state.pidfd) {
            (Phase::Announced | Phase::Making, _) => Err(Error::new(
                Kind::Precondition,
                format!("{} has not been started", self.name()),
            )),
            (Phase::Created | Phase::Running, Some(pidfd)) => {
                match kelson_sys::pidfd::send_signal(pidfd, number) {
                    // Dead, but its status was not collected yet.
                    Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
                        Err(ended())
                    }
                    result => result.doing(|| format!("signal {}", self.name())),
                }
            }
            _ => Err(ended()),
        }
    }

    /// Sets the size of its terminal, which it may not have yet.
    pub fn resize(&self, columns: u32, rows: u32) -> Result<()> {
        let mut state = lock(&self.state);
        match &state.console {
            Some(console) => console.resize(columns, rows),
            // Once it has ended there is nobody to care.
            None if state.described.terminal => {
                state.size = Some((columns, rows));
                Ok(())
            }
            None => {
                let text = format!("{} has no terminal", self.name());
                Err(Error::new(Kind::Precondition, text))
            }
        }
    }

    /// For messages.
    pub fn name(&self) -> String {
        if self.exec_id.is_empty() {
            "the container's process".to_owned()
        } else {
            format!("exec {}", self.exec_id)
        }
    }
}

/// Containerd's word for a process's state.
pub fn status(phase: Phase, paused: bool) -> Status {
    match phase {
        Phase::Announced | Phase::Making | Phase::Created => Status::CREATED,
        Phase::Running if paused => Status::PAUSED,
        Phase::Running => Status::RUNNING,
        Phase::Exited => Status::STOPPED,
    }
}

/// An exec id names a directory: letters, digits, `_`, `-` and inner dots.
pub fn check_exec_id(id: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let first = id.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if first && id.len() <= MAX_EXEC_ID && id.bytes().all(plain) {
        return Ok(());
    }
    Err(Error::new(
        Kind::Invalid,
        format!("exec id {id:?}: want 1 to {MAX_EXEC_ID} letters, digits, '_', '-', '.'"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exec_ids() {
        for good in ["a", "0f", "a.b-c_d"] {
            assert!(check_exec_id(good).is_ok(), "{good}");
        }
        for bad in ["", "../x", "a/b", ".a", "-a", "a b", "ä", &"x".repeat(129)] {
            assert_eq!(check_exec_id(bad).unwrap_err().kind, Kind::Invalid, "{bad}");
        }
    }
}
