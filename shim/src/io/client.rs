//! One attached client's downstream: frames straight into the socket while it takes them, else a bounded queue in
//! memory, else (for a process with a log) a bounded one on disk.
use std::collections::VecDeque;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use kelson_shim_proto::attach::{self, Stream};
use rustix::io::Errno;
use tokio::net::UnixStream;
use tokio::sync::Notify;

use super::spill::{MAX_SPILLED, Spill};
use crate::error::lock;

/// How much output waits in memory for one slow client, in bytes. Beyond it, it waits on disk; where there is no
/// log to lie beside, the process waits.
pub const MAX_QUEUED: usize = 1024 * 1024;

/// An attached client.
#[derive(Debug)]
pub struct Client {
    /// The attach socket. All writes go past tokio's cache of readiness, whose flags only wake the writer.
    pub socket: UnixStream,
    wants: [bool; 2],
    queue: Mutex<Queue>,
    /// Woken when the queue got its first bytes, or no more will come.
    pub wake: Notify,
}

#[derive(Debug)]
struct Queue {
    chunks: VecDeque<Vec<u8>>,
    /// Bytes of the first chunk that are sent.
    sent: usize,
    len: usize,
    /// What came after the chunks.
    spill: Option<Spill>,
    /// What came after the spill, which the disk did not take.
    tail: VecDeque<Vec<u8>>,
    /// There is no spill to be had.
    no_spill: bool,
    /// No more will come.
    closing: bool,
    dead: bool,
    /// When the socket last took a byte.
    progress: Instant,
}

/// What a flush came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Nothing waits; more may come.
    Idle,
    /// The socket is full.
    Blocked,
    /// Everything was sent and no more will come, or nobody is there.
    Done,
}

impl Client {
    /// A client that wants the named streams.
    pub fn new(socket: UnixStream, stdout: bool, stderr: bool) -> Self {
        let queue = Queue {
            chunks: VecDeque::new(),
            sent: 0,
            len: 0,
            spill: None,
            tail: VecDeque::new(),
            no_spill: false,
            closing: false,
            dead: false,
            progress: Instant::now(),
        };
        Self {
            socket,
            wants: [stdout, stderr],
            queue: Mutex::new(queue),
            wake: Notify::new(),
        }
    }

    /// Whether it wants `stream`.
    pub fn wants(&self, stream: Stream) -> bool {
        self.wants[usize::from(stream == Stream::Stderr)]
    }

    /// Sends or queues one frame. `bytes` is not empty and at most one read. What is too much for memory is kept
    /// in `dir`, if there is one.
    pub fn deliver(&self, stream: Stream, bytes: &[u8], dir: Option<&Path>) {
        let Some(header) =
            attach::header(stream, bytes.len()).filter(|_| self.wants(stream) && !bytes.is_empty())
        else {
            return;
        };
        let mut queue = lock(&self.queue);
        if queue.dead || queue.closing {
            return;
        }
        if queue.spilled(&header, bytes, dir) {
            return;
        }
        let mut sent = 0;
        if queue.chunks.is_empty() {
            queue.progress = Instant::now();
            match rustix::io::writev(&self.socket, &[IoSlice::new(&header), IoSlice::new(bytes)]) {
                Ok(n) => sent = n,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => {
                    queue.dead = true;
                    self.wake.notify_one();
                    return;
                }
            }
        }
        let mut rest = Vec::with_capacity(header.len() + bytes.len() - sent);
        rest.extend_from_slice(header.get(sent..).unwrap_or_default());
        rest.extend_from_slice(&bytes[sent.saturating_sub(header.len())..]);
        if !rest.is_empty() {
            queue.len += rest.len();
            queue.chunks.push_back(rest);
            self.wake.notify_one();
        }
    }

    /// Sends what is queued.
    pub fn flush(&self) -> Flushed {
        let mut queue = lock(&self.queue);
        while !queue.dead {
            queue.refill();
            let Some(chunk) = queue.chunks.front() else {
                return if queue.closing {
                    Flushed::Done
                } else {
                    Flushed::Idle
                };
            };
            match rustix::io::write(&self.socket, &chunk[queue.sent..]) {
                Ok(n) => {
                    let done = queue.sent + n == chunk.len();
                    queue.len -= n;
                    queue.sent = if done { 0 } else { queue.sent + n };
                    queue.progress = Instant::now();
                    if done {
                        queue.chunks.pop_front();
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Flushed::Blocked,
                Err(_) => queue.dead = true,
            }
        }
        queue.chunks = VecDeque::new();
        queue.tail = VecDeque::new();
        queue.spill = None;
        queue.len = 0;
        Flushed::Done
    }

    /// No more will come; what is queued is still sent.
    pub fn close(&self) {
        lock(&self.queue).closing = true;
        self.wake.notify_one();
    }

    /// Gives the client up: what is queued is dropped.
    pub fn cut(&self) {
        lock(&self.queue).dead = true;
        self.wake.notify_one();
    }

    /// Whether the process should wait. `extra` bytes more than usual may be held in memory; `can_spill` says that
    /// [`Client::deliver`] is given a directory.
    pub fn is_full(&self, extra: usize, can_spill: bool) -> bool {
        let queue = lock(&self.queue);
        let memory = queue.len >= MAX_QUEUED + extra;
        let full = match &queue.spill {
            Some(spill) => spill.len() >= MAX_SPILLED || (memory && !queue.tail.is_empty()),
            None => memory && (!can_spill || queue.no_spill),
        };
        full && !queue.dead
    }

    /// Since when the socket has taken nothing, if bytes wait.
    pub fn stuck_since(&self) -> Option<Instant> {
        let queue = lock(&self.queue);
        (!queue.dead && queue.len > 0).then_some(queue.progress)
    }
}

impl Queue {
    /// Takes a frame that must not go to the socket, because memory is full or older bytes wait on disk.
    fn spilled(&mut self, header: &[u8], bytes: &[u8], dir: Option<&Path>) -> bool {
        if self.spill.is_none() && !self.no_spill && self.len >= MAX_QUEUED {
            self.spill = dir.and_then(|dir| Spill::new(dir).ok());
            self.no_spill = dir.is_some() && self.spill.is_none();
        }
        let Some(spill) = &mut self.spill else {
            return false;
        };
        if !self.tail.is_empty() || spill.push([header, bytes]).is_err() {
            // A full disk. The order stays, and the process soon waits.
            self.len += header.len() + bytes.len();
            self.tail.push_back([header, bytes].concat());
        }
        true
    }

    /// Brings the next bytes to the front once the front has none.
    fn refill(&mut self) {
        let Some(spill) = self.spill.as_mut().filter(|_| self.chunks.is_empty()) else {
            return;
        };
        match spill.pop() {
            Ok(chunk) if chunk.is_empty() => {
                self.spill = None;
                self.chunks = std::mem::take(&mut self.tail);
            }
            Ok(chunk) => {
                self.len += chunk.len();
                self.chunks.push_back(chunk);
            }
            // A gap inside a stream of frames would be read as something else: the client sees its end instead.
            Err(_) => self.dead = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[tokio::test]
    async fn a_client_that_reads_nothing_costs_no_memory_and_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let client = Client::new(UnixStream::from_std(ours).unwrap(), true, true);
        let mut expected = Vec::new();
        for n in 0..200_u8 {
            let bytes = vec![n; 40_000];
            client.deliver(Stream::Stdout, &bytes, Some(dir.path()));
            expected.extend(bytes);
            assert!(!client.is_full(0, true));
        }
        assert!(lock(&client.queue).len < MAX_QUEUED + 50_000);
        // The disk is full from here on.
        let empty = attach::header(Stream::Stdout, 0).unwrap();
        {
            let mut queue = lock(&client.queue);
            queue.len += empty.len();
            queue.tail.push_back(empty.into());
        }
        client.deliver(Stream::Stdout, b"end", Some(dir.path()));
        expected.extend(b"end");
        client.close();
        let reader = std::thread::spawn(move || {
            let (mut theirs, mut out) = (theirs, Vec::new());
            let mut wire = Vec::new();
            theirs.read_to_end(&mut wire).unwrap();
            attach::Decoder::default()
                .push(&wire, |_, bytes| out.extend_from_slice(bytes))
                .unwrap();
            out
        });
        while client.flush() == Flushed::Blocked {
            tokio::task::yield_now().await;
        }
        drop(client);
        assert!(reader.join().unwrap() == expected);
    }
}
