//! When there may be more to read: inotify on the log's directory, and the container's life.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::clock;
use crate::containers::container::{Container, Life};
use crate::types::Nanos;

/// How often to look when the host gives no inotify instance any more (128 a user is the default).
const WITHOUT_INOTIFY: Duration = Duration::from_millis(500);

struct Watched(Inotify);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

pub(super) struct Follow {
    life: watch::Receiver<Life>,
    files: Option<AsyncFd<Watched>>,
}

impl Follow {
    pub fn new(container: &Container, log: &Path) -> Self {
        Self {
            life: container.life(),
            files: log.parent().and_then(watch),
        }
    }

    /// No process writes any more, nor will one by the restart policy.
    pub fn ended(&mut self) -> bool {
        let life = self.life.borrow_and_update();
        life.removed || (!life.has_process && !life.restarting)
    }

    /// Returns when something may have changed, or `until` has come.
    pub async fn changed(&mut self, until: Option<Nanos>) {
        let left = until.map(|u| {
            Duration::from_nanos(u64::try_from((u - clock::now_nanos()).max(0)).unwrap_or(u64::MAX))
        });
        let deadline = async {
            match left {
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        };
        let files = async {
            let Some(files) = &self.files else {
                return tokio::time::sleep(WITHOUT_INOTIFY).await;
            };
            match files.readable().await {
                Ok(mut guard) => {
                    // All at once: one wake-up for any number of lines.
                    while files.get_ref().0.read_events().is_ok() {}
                    guard.clear_ready();
                }
                Err(_) => tokio::time::sleep(WITHOUT_INOTIFY).await,
            }
        };
        tokio::select! {
            () = files => {}
            () = deadline => {}
            // The sender lives in the container, which this reader does not outlive.
            _ = self.life.changed() => {}
        }
    }
}

fn watch(dir: &Path) -> Option<AsyncFd<Watched>> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok()?;
    let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
    inotify.add_watch(dir, flags).ok()?;
    // Deprecated for types that may change their descriptor; its successor is unsafe. Ours owns one and keeps it.
    #[allow(deprecated)]
    AsyncFd::new(Watched(inotify)).ok()
}
