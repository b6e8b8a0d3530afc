//! The one place that waits for children.
//!
//! The shim is a subreaper: a container's processes become its children when the runtime that made them ends.
//! Their pids are learned from pid files, later than they can die, so every status that nobody waits for is
//! kept while a runtime call is under way ([`Reaper::expecting`]) and given to whoever asks for the pid first.
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use kelson_shim_proto::time::Time;
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::error::{Doing, Result, lock};

/// How many statuses are kept for pids that are not known yet. Reached only by a container that forks orphans
/// faster than one runtime call lasts; the oldest then goes.
const MAX_UNCLAIMED: usize = 4096;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit status, 128 + N for signal N.
    pub status: u32,
    /// The signal that ended it.
    pub signal: Option<u32>,
    /// When it was reaped.
    pub at: Time,
}

impl Exit {
    /// The end of a process that was never seen: lost to another reaper.
    pub fn unknown() -> Self {
        Self {
            status: 255,
            signal: None,
            at: Time::now(),
        }
    }

    fn from_wait(status: WaitStatus) -> Option<Self> {
        let number = |n: i32| u32::try_from(n).unwrap_or(255);
        let signal = status.terminating_signal().map(number);
        let code = status.exit_status().map(number);
        let status = signal.map(|signal| 128 + signal).or(code)?;
        Some(Self {
            status,
            signal,
            at: Time::now(),
        })
    }
}

/// Collects every child's status.
#[derive(Debug, Default)]
pub struct Reaper {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: HashMap<i32, oneshot::Sender<Exit>>,
    unclaimed: std::collections::VecDeque<(i32, Exit)>,
    expecting: usize,
}

/// While it lives, statuses of unknown pids are kept.
#[derive(Debug)]
pub struct Expecting(Arc<Reaper>);

impl Drop for Expecting {
    fn drop(&mut self) {
        let mut inner = lock(&self.0.inner);
        inner.expecting -= 1;
        if inner.expecting == 0 {
            // From here on an old status could be taken for that of a new process with the same pid.
            inner.unclaimed = std::collections::VecDeque::new();
        }
    }
}

impl Reaper {
    /// Starts reaping. Must be called before the first child exists.
    ///
    /// # Errors
    /// The signal handler cannot be installed.
    pub fn start() -> Result<Arc<Self>> {
        let reaper = Arc::new(Self::default());
        let mut children = signal(SignalKind::child()).doing(|| "listen for SIGCHLD".to_owned())?;
        let task = Arc::clone(&reaper);
        tokio::spawn(async move {
            while children.recv().await.is_some() {
                task.reap();
            }
        });
        Ok(reaper)
    }

    /// Keeps statuses of unknown pids until the guard is dropped.
    pub fn expecting(self: &Arc<Self>) -> Expecting {
        lock(&self.inner).expecting += 1;
        Expecting(Arc::clone(self))
    }

    /// The end of `pid`: a child, or a process that became one while an [`Expecting`] guard lived.
    pub fn exit_of(&self, pid: i32) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        let mut inner = lock(&self.inner);
        // The newest: pids can be given out again.
        if let Some(at) = inner.unclaimed.iter().rposition(|(known, _)| *known == pid) {
            if let Some((_, exit)) = inner.unclaimed.remove(at) {
                let _ = sender.send(exit);
            }
        } else {
            inner.waiting.insert(pid, sender);
        }
        receiver
    }

    /// Takes every status the kernel has. One signal may stand for many children.
    fn reap(&self) {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    if let Some(exit) = Exit::from_wait(status) {
                        self.ended(pid, exit);
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn ended(&self, pid: Pid, exit: Exit) {
        let pid = pid.as_raw_nonzero().get();
        let mut inner = lock(&self.inner);
        if let Some(waiting) = inner.waiting.remove(&pid) {
            let _ = waiting.send(exit);
        } else if inner.expecting > 0 {
            if inner.unclaimed.len() == MAX_UNCLAIMED {
                inner.unclaimed.pop_front();
            }
            inner.unclaimed.push_back((pid, exit));
        }
    }
}
