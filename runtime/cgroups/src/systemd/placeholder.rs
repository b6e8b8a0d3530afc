//! The process that holds a new scope open.

use kelson_sys::spawn::{CloneArgs, exit_now, spawn};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, getppid, pause};

use super::unit::Unit;
use crate::error::{Error, Result};

/// A process that does nothing. It ends when this is dropped, or with the caller.
#[derive(Debug)]
pub struct Placeholder {
    pid: Pid,
    /// What the unit's `TasksMax` is to be once this process is gone.
    pub(super) then: Option<(Unit, u64)>,
}

impl Placeholder {
    pub(super) fn start() -> Result<Self> {
        let parent = nix::unistd::getpid();
        let spawned = spawn(CloneArgs::default(), || {
            // A runtime that is killed must not leave a unit behind that this process keeps alive.
            if nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).is_err() || getppid() != parent {
                exit_now(1);
            }
            loop {
                pause();
            }
        });
        match spawned {
            Ok(spawned) => Ok(Self {
                pid: spawned.pid,
                then: None,
            }),
            Err(e) => Err(Error::io(e, "make the process that holds the scope open")),
        }
    }

    /// Ends it, once the container's first process is in the cgroup.
    ///
    /// # Errors
    /// What systemd reported of a limit that had no room for this process before.
    pub fn end(mut self) -> Result<()> {
        let then = self.then.take();
        drop(self);
        match then {
            Some((unit, limit)) => unit.set_tasks_max(limit),
            None => Ok(()),
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw().cast_unsigned()
    }
}

impl Drop for Placeholder {
    fn drop(&mut self) {
        // It is our child and not reaped yet: the number is its own.
        let _ = kill(self.pid, Signal::SIGKILL);
        while waitpid(self.pid, None) == Err(Errno::EINTR) {}
    }
}
