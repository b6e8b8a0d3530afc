//! Hearing of processes that the kernel killed for lack of memory, without asking again and again.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::cgroup::Cgroup;
use crate::error::{Error, Kind, Result};
use crate::files;

/// A descriptor that becomes readable (poll(2)) when a process of the cgroup is killed for lack of memory, and when
/// the cgroup ends. It holds nothing of the container, and may outlive it.
#[derive(Debug)]
pub struct OomWatch {
    source: Source,
    dir: PathBuf,
    seen: u64,
}

/// What an [`OomWatch`] heard since it was last asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heard {
    /// So many times the kernel ran out of the cgroup's memory.
    pub ooms: u64,
    /// The cgroup is gone, or (v2) has no process any more: nothing more will be heard.
    pub ended: bool,
}

#[derive(Debug)]
enum Source {
    /// v1: an eventfd, registered with the cgroup.
    Events(EventFd),
    /// v2: watches on memory.events and cgroup.events.
    Files(Inotify),
}

impl Cgroup {
    /// Begins to listen.
    ///
    /// # Errors
    /// `Unsupported` without a memory controller, `NotFound` when the cgroup is gone.
    pub fn oom_watch(&self) -> Result<OomWatch> {
        if let Some(dir) = self.v1("memory") {
            return watch_v1(dir.path.clone());
        }
        match self.v2() {
            Some(dir) if dir.path.join("memory.events").exists() || !dir.path.exists() => {
                watch_v2(dir.path.clone())
            }
            _ => Err(Error::new(
                Kind::Unsupported,
                "watch for lack of memory: the memory controller is not available",
            )),
        }
    }
}

fn watch_v1(dir: PathBuf) -> Result<OomWatch> {
    let path = dir.join("memory.oom_control");
    let control = File::open(&path).map_err(|e| Error::io(e, format!("open {}", path.display())))?;
    let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .map_err(|e| Error::io(e.into(), "make an eventfd"))?;
    let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
    files::write(&dir, "cgroup.event_control", &line)?;
    Ok(OomWatch {
        source: Source::Events(event),
        dir,
        seen: 0,
    })
}

fn watch_v2(dir: PathBuf) -> Result<OomWatch> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
        .map_err(|e| Error::io(e.into(), "make an inotify descriptor"))?;
    for file in ["memory.events", "cgroup.events"] {
        let path = dir.join(file);
        inotify
            .add_watch(&path, AddWatchFlags::IN_MODIFY)
            .map_err(|e| Error::io(e.into(), format!("watch {}", path.display())))?;
    }
    let mut watch = OomWatch {
        source: Source::Files(inotify),
        dir,
        seen: 0,
    };
    // Those before do not count.
    watch.seen = watch.kills()?;
    Ok(watch)
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::Events(fd) => fd.as_fd(),
            Source::Files(fd) => fd.as_fd(),
        }
    }
}

impl OomWatch {
    /// What happened since it was last asked. Never waits.
    ///
    /// # Errors
    /// What reading reported.
    pub fn heard(&mut self) -> Result<Heard> {
        match &self.source {
            Source::Events(fd) => {
                let ooms = match fd.read() {
                    Ok(n) => n,
                    Err(Errno::EAGAIN) => return Ok(Heard::default()),
                    Err(e) => return Err(Error::io(e.into(), "read an eventfd")),
                };
                // The end of the cgroup is told by the same descriptor.
                let ended = !self.dir.exists();
                Ok(Heard {
                    ooms: if ended { 0 } else { ooms },
                    ended,
                })
            }
            Source::Files(fd) => {
                match fd.read_events() {
                    Ok(_) => {}
                    Err(Errno::EAGAIN) => return Ok(Heard::default()),
                    Err(e) => return Err(Error::io(e.into(), "read an inotify descriptor")),
                }
                self.look()
            }
        }
    }

    fn look(&mut self) -> Result<Heard> {
        let now = match self.kills() {
            Ok(n) => n,
            Err(e) if e.kind() == Kind::NotFound => {
                return Ok(Heard { ooms: 0, ended: true });
            }
            Err(e) => return Err(e),
        };
        let ooms = now.saturating_sub(self.seen);
        self.seen = now;
        let ended = match files::read(&self.dir, "cgroup.events") {
            Ok(text) => files::keyed(&text, "populated") == Some(0),
            Err(_) => true,
        };
        Ok(Heard { ooms, ended })
    }

    fn kills(&self) -> Result<u64> {
        let text = files::read(&self.dir, "memory.events")?;
        Ok(files::keyed(&text, "oom_kill").unwrap_or(0))
    }
}
