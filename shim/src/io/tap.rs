//! Output on its way to a log driver: a bounded queue for each stream, and behind it the pipe that the driver reads.
//!
//! Where the user chose that the process waits for its driver, a full queue holds it back. Else what does not fit is dropped, line
//! by line: it is counted, and a line in its place says how much is missing.
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use kelson_shim_proto::attach::Stream;
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::hub::Hub;
use crate::diagnostics;
use crate::error::{Result, lock};

/// How much waits in memory for a driver that the process waits for, in bytes, beside what is in the pipe.
const WAITING: usize = 64 * 1024;

/// Both streams of a process.
#[derive(Debug)]
pub struct Tap {
    queues: [Mutex<Queue>; 2],
    wakes: [Notify; 2],
    limit: usize,
    drops: bool,
}

#[derive(Debug, Default)]
struct Queue {
    bytes: Vec<u8>,
    /// The last byte that was taken in did not end a line.
    within_line: bool,
    /// What comes is dropped up to the end of its line.
    dropping: bool,
    /// Dropped since the last line that got in.
    missing: u64,
    /// Dropped in all.
    lost: u64,
    closing: bool,
    /// Nobody reads any more.
    dead: bool,
}

impl Tap {
    /// `buffer`: how many bytes wait before some are dropped; `None`: the process waits.
    pub fn new(buffer: Option<u64>) -> Self {
        let limit = buffer.map_or(WAITING, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        Self {
            queues: Default::default(),
            wakes: Default::default(),
            limit,
            drops: buffer.is_some(),
        }
    }

    /// Takes what one read returned.
    pub fn deliver(&self, stream: Stream, bytes: &[u8]) {
        let at = index(stream);
        let mut queue = lock(&self.queues[at]);
        if queue.dead || queue.closing {
            queue.lost += bytes.len() as u64;
            return;
        }
        let was_empty = queue.bytes.is_empty();
        if self.drops {
            queue.take_lines(bytes, self.limit);
        } else {
            queue.bytes.extend_from_slice(bytes);
        }
        if was_empty && !queue.bytes.is_empty() {
            self.wakes[at].notify_one();
        }
    }

    /// Whether the process should wait. `extra` bytes more than usual may be held.
    pub fn is_full(&self, extra: usize) -> bool {
        let limit = self.limit.saturating_add(extra);
        let full = |queue: &Mutex<Queue>| {
            let queue = lock(queue);
            queue.bytes.len() >= limit && !queue.dead
        };
        !self.drops && self.queues.iter().any(full)
    }

    /// No more will come; what waits is still carried.
    pub fn close(&self) {
        for (queue, wake) in self.queues.iter().zip(&self.wakes) {
            lock(queue).closing = true;
            wake.notify_one();
        }
    }

    /// Carries a stream to `pipe`, to its end or until nobody reads it.
    pub fn carry(
        self: &Arc<Self>,
        stream: Stream,
        pipe: OwnedFd,
        hub: &Arc<Hub>,
    ) -> Result<impl Future<Output = ()> + use<>> {
        let pipe = super::watch(pipe, Interest::WRITABLE, "a log driver's pipe")?;
        let (tap, hub) = (Arc::clone(self), Arc::clone(hub));
        Ok(async move {
            tap.run(index(stream), &pipe, &hub).await;
            let mut queue = lock(&tap.queues[index(stream)]);
            queue.dead = true;
            queue.lost += queue.bytes.len() as u64;
            queue.bytes = Vec::new();
            if queue.lost > 0 {
                let name = stream.name();
                diagnostics::report(&format!(
                    "{} bytes of {name} did not reach the log driver",
                    queue.lost
                ));
            }
            drop(queue);
            hub.room.notify_waiters();
        })
    }

    async fn run(&self, at: usize, pipe: &AsyncFd<OwnedFd>, hub: &Hub) {
        loop {
            let bytes = {
                let mut queue = lock(&self.queues[at]);
                if queue.bytes.is_empty() && queue.closing {
                    return;
                }
                std::mem::take(&mut queue.bytes)
            };
            if bytes.is_empty() {
                self.wakes[at].notified().await;
                continue;
            }
            hub.room.notify_waiters();
            if !write(pipe, &bytes).await {
                return;
            }
        }
    }
}

/// Writes all of `bytes`; false when nobody reads the pipe.
async fn write(pipe: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let Ok(mut ready) = pipe.writable().await else {
            return false;
        };
        match rustix::io::write(pipe, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}

impl Queue {
    /// Takes lines as long as there is room for `limit` bytes.
    fn take_lines(&mut self, bytes: &[u8], limit: usize) {
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let ends = line.ends_with(b"\n");
            if self.dropping {
                self.drop_part(line, ends);
                continue;
            }
            let note = if self.missing > 0 {
                format!(
                    "kelson: {} bytes of output are missing here: the log driver was too slow\n",
                    self.missing
                )
            } else {
                String::new()
            };
            if self.bytes.len() + note.len() + line.len() > limit {
                if std::mem::take(&mut self.within_line) {
                    // What was taken of the line ends here; the rest is missing.
                    self.bytes.push(b'\n');
                }
                self.drop_part(line, ends);
                continue;
            }
            self.bytes.extend_from_slice(note.as_bytes());
            self.bytes.extend_from_slice(line);
            self.missing = 0;
            self.within_line = !ends;
        }
    }

    fn drop_part(&mut self, part: &[u8], ends: bool) {
        self.missing += part.len() as u64;
        self.lost += part.len() as u64;
        self.dropping = !ends;
    }
}

fn index(stream: Stream) -> usize {
    usize::from(stream == Stream::Stderr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_lines_are_dropped_and_counted() {
        let mut queue = Queue::default();
        queue.take_lines(b"one\ntw", 100);
        assert!(queue.within_line);
        queue.take_lines(b"o\n", 100);
        queue.take_lines(b"begun", 100);
        queue.take_lines(&[b'x'; 200], 100);
        queue.take_lines(b"yyy\n", 100);
        assert_eq!((queue.lost, queue.missing, queue.dropping), (204, 204, false));
        assert_eq!(queue.bytes, b"one\ntwo\nbegun\n");
        queue.bytes.clear();
        queue.take_lines(b"again\n", 100);
        let expected = "kelson: 204 bytes of output are missing here: the log driver was too slow\nagain\n";
        assert_eq!(String::from_utf8_lossy(&queue.bytes), expected);
        assert_eq!((queue.lost, queue.missing), (204, 0));
    }

    #[test]
    fn only_who_chose_to_wait_is_held_back() {
        let waits = Tap::new(None);
        waits.deliver(Stream::Stdout, &[0; WAITING]);
        assert!(waits.is_full(0) && !waits.is_full(1));
        let drops = Tap::new(Some(10));
        drops.deliver(Stream::Stderr, &[0; 100]);
        assert!(!drops.is_full(0));
        assert_eq!(lock(&drops.queues[1]).lost, 100);
    }
}
