//! Stopping every process of a container: freeze, thaw, kill.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup::{Cgroup, Dir, POLL};
use crate::error::{Error, Kind, Result};
use crate::files;
use crate::host::Version;

impl Cgroup {
    /// Stops every process in it, and waits until the kernel reports all stopped.
    ///
    /// # Errors
    /// `Conflict` when that did not happen within `patience` (the cgroup is thawed again); `Unsupported`
    /// without a freezer.
    pub fn freeze(&self, patience: Duration) -> Result<()> {
        let until = Instant::now() + patience;
        loop {
            self.set_frozen(true)?;
            // v1 may linger in FREEZING when tasks were being made; writing again moves it on.
            let again = Instant::now() + Duration::from_millis(20);
            while Instant::now() < again {
                if self.is_frozen()? {
                    return Ok(());
                }
                thread::sleep(POLL);
            }
            if Instant::now() >= until {
                self.set_frozen(false)?;
                return Err(Error::new(
                    Kind::Conflict,
                    "freeze cgroup: not all processes stopped in time",
                ));
            }
        }
    }

    /// Lets the processes go on.
    ///
    /// # Errors
    /// What the kernel reported; `Unsupported` without a freezer.
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen(false)
    }

    /// Whether every process in it is stopped.
    ///
    /// # Errors
    /// What reading reported; `Unsupported` without a freezer.
    pub fn is_frozen(&self) -> Result<bool> {
        match self.freezer()? {
            Freezer::V1(dir) => Ok(files::read(dir, "freezer.state")?.trim() == "FROZEN"),
            Freezer::V2(dir) => Ok(files::keyed(&files::read(dir, "cgroup.events")?, "frozen") == Some(1)),
        }
    }

    /// Whether a freeze was asked for (it may not be complete yet). False where it cannot be told.
    pub fn is_paused(&self) -> bool {
        match self.freezer() {
            Ok(Freezer::V1(dir)) => v1_asked(dir),
            Ok(Freezer::V2(dir)) => v2_asked(dir),
            Err(_) => false,
        }
    }

    /// Kills every process in it, also a frozen one, and waits until it is empty. A cgroup that is gone is empty.
    ///
    /// By `cgroup.kill` where a v2 directory exists (Linux 5.14). Otherwise it is frozen, so that nothing can
    /// fork away, all are signalled, and it is thawed.
    ///
    /// # Errors
    /// `Conflict` when processes are left after `patience`.
    pub fn kill_all(&self, patience: Duration) -> Result<()> {
        let until = Instant::now() + patience;
        loop {
            self.signal_all(Signal::SIGKILL)?;
            let again = Instant::now() + Duration::from_millis(100);
            while Instant::now() < again {
                if self.is_empty()? {
                    return Ok(());
                }
                thread::sleep(POLL);
            }
            if Instant::now() >= until {
                return Err(Error::new(
                    Kind::Conflict,
                    "kill cgroup: processes are left after SIGKILL",
                ));
            }
        }
    }

    /// Sends `signal` to every process in it. For SIGKILL nothing escapes, even while forking, and a v1 freezer
    /// is thawed, as frozen v1 tasks do not die.
    ///
    /// # Errors
    /// What the kernel reported, but not for processes that ended meanwhile.
    pub fn signal_all(&self, signal: Signal) -> Result<()> {
        if signal == Signal::SIGKILL
            && let Some(dir) = self.v2()
            && files::try_write(&dir.path, "cgroup.kill", "1").is_ok()
        {
            if let Some(dir) = self.v1("freezer") {
                let _ = files::try_write(&dir.path, "freezer.state", "THAWED");
            }
            return Ok(());
        }
        let was_paused = self.is_paused();
        let freeze = signal == Signal::SIGKILL && !was_paused;
        if freeze {
            // Without a freezer the loop in kill_all still gets there; only a fork bomb would outrun it.
            let _ = self.set_frozen(true);
        }
        let result = self.signal_each(signal);
        if freeze || (was_paused && signal == Signal::SIGKILL) {
            let _ = self.set_frozen(false);
        }
        result
    }

    fn signal_each(&self, signal: Signal) -> Result<()> {
        let pids = match self.pids() {
            Err(e) if e.kind() == Kind::NotFound => return Ok(()),
            other => other?,
        };
        for pid in pids {
            match kill(Pid::from_raw(pid), signal) {
                Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                Err(e) => return Err(Error::io(e.into(), format!("signal process {pid}"))),
            }
        }
        Ok(())
    }

    fn set_frozen(&self, frozen: bool) -> Result<()> {
        match self.freezer()? {
            Freezer::V1(dir) => files::write(dir, "freezer.state", if frozen { "FROZEN" } else { "THAWED" }),
            Freezer::V2(dir) => files::write(dir, "cgroup.freeze", if frozen { "1" } else { "0" }),
        }
    }

    /// v1's freezer before v2's on hybrid machines: that is the one other tools look at.
    fn freezer(&self) -> Result<Freezer<'_>> {
        if let Some(dir) = self.v1("freezer") {
            return Ok(Freezer::V1(&dir.path));
        }
        match self.v2() {
            Some(dir) => Ok(Freezer::V2(&dir.path)),
            None => Err(Error::new(
                Kind::Unsupported,
                "freeze cgroup: no freezer controller is mounted",
            )),
        }
    }
}

/// Whether whoever enters this one directory would be stopped. False for a v1 hierarchy without the freezer.
pub(crate) fn is_asked_for(dir: &Dir) -> bool {
    match dir.version {
        Version::V1 => dir.has("freezer") && v1_asked(&dir.path),
        Version::V2 => v2_asked(&dir.path),
    }
}

fn v1_asked(dir: &Path) -> bool {
    files::read(dir, "freezer.state").is_ok_and(|s| s.trim() != "THAWED")
}

fn v2_asked(dir: &Path) -> bool {
    files::read(dir, "cgroup.freeze").is_ok_and(|s| s.trim() == "1")
}

enum Freezer<'a> {
    V1(&'a Path),
    V2(&'a Path),
}
