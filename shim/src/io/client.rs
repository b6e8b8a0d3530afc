//! One attached client's downstream: frames straight into the socket while it takes them, else a bounded queue.
use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Mutex;
use std::time::Instant;

use kelson_shim_proto::attach::{self, Stream};
use rustix::io::Errno;
use tokio::net::UnixStream;
use tokio::sync::Notify;

use crate::error::lock;

/// How much output waits in memory for one slow client, in bytes. Beyond it the process waits.
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

    /// Sends or queues one frame. `bytes` is not empty and at most one read.
    pub fn deliver(&self, stream: Stream, bytes: &[u8]) {
        let Some(header) =
            attach::header(stream, bytes.len()).filter(|_| self.wants(stream) && !bytes.is_empty())
        else {
            return;
        };
        let mut queue = lock(&self.queue);
        if queue.dead || queue.closing {
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

    /// Whether the queue is full.
    pub fn is_full(&self) -> bool {
        let queue = lock(&self.queue);
        !queue.dead && queue.len >= MAX_QUEUED
    }

    /// Since when the socket has taken nothing, if bytes wait.
    pub fn stuck_since(&self) -> Option<Instant> {
        let queue = lock(&self.queue);
        (!queue.dead && queue.len > 0).then_some(queue.progress)
    }
}
