//! Links on their way out. The kernel takes about 20 ms to delete one, all of it waiting, so `disconnect` does not
//! wait along: one thread deletes what has piled up, and only then may name and address be used again.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::netlink::conntrack;
use crate::netlink::route::Rtnl;

/// Links deleted in one request.
const BATCH: usize = 256;

/// A link that is to go, and the address that goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Doomed {
    pub(crate) link: String,
    pub(crate) ip: Ipv4Addr,
    /// Whether UDP ports were published for it.
    pub(crate) udp: bool,
}

/// The queue. It holds at most one entry per address of the pool.
#[derive(Debug, Default)]
pub(crate) struct Undo {
    queue: Mutex<Queue>,
    idle: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Doomed>,
    /// Those the kernel would not delete. They are tried again with the next ones.
    stuck: Vec<Doomed>,
    complaint: Option<String>,
    running: bool,
}

impl Undo {
    /// Queues a link. `true`: the caller starts a thread that calls `work`.
    pub(crate) fn push(&self, doomed: Doomed) -> bool {
        let mut queue = self.lock();
        let stuck = std::mem::take(&mut queue.stuck);
        queue.waiting.extend(stuck);
        queue.waiting.push_back(doomed);
        !std::mem::replace(&mut queue.running, true)
    }

    /// Deletes until the queue is empty; tells `gone` of each batch that is.
    pub(crate) fn work(&self, gone: impl Fn(&[Doomed])) {
        loop {
            let batch: Vec<Doomed> = {
                let mut queue = self.lock();
                let n = queue.waiting.len().min(BATCH);
                if n == 0 {
                    queue.running = false;
                    self.idle.notify_all();
                    return;
                }
                queue.waiting.drain(..n).collect()
            };
            let names: Vec<&str> = batch.iter().map(|d| d.link.as_str()).collect();
            let result = Rtnl::open().and_then(|mut rtnl| rtnl.delete_links(&names));
            match result {
                Ok(()) => {
                    forget_connections(&batch);
                    gone(&batch);
                }
                Err(e) => {
                    tracing::warn!(error = %e, links = names.join(" "), "links not deleted; tried again later");
                    let mut queue = self.lock();
                    queue.complaint = Some(format!("{}: {e}", names.join(" ")));
                    queue.stuck.extend(batch);
                }
            }
        }
    }

    /// Waits until nothing is queued any more. An error names what the kernel would not delete.
    pub(crate) fn settle(&self, deadline: Duration) -> Result<()> {
        let until = Instant::now() + deadline;
        let mut queue = self.lock();
        while queue.running {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::os("delete links", std::io::ErrorKind::TimedOut.into()));
            }
            queue = self
                .idle
                .wait_timeout(queue, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        match queue.complaint.take() {
            Some(complaint) => Err(Error::because(crate::Kind::Internal, "delete links", complaint)),
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Before the address is free for others, and only where UDP was published: the kernel looks at every entry for it.
fn forget_connections(batch: &[Doomed]) {
    for Doomed { ip, .. } in batch.iter().filter(|d| d.udp) {
        if let Err(e) = conntrack::forget_udp(*ip) {
            // Entries of UDP that nobody uses end by themselves within two minutes.
            tracing::debug!(error = %e, %ip, "connection tracking entries not deleted");
        }
    }
}
