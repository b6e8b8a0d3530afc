//! One process's output: first into the log, then to every attached client.
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kelson_shim_proto::attach::{Position, Stream};
use kelson_shim_proto::logs::format::Format;
use kelson_shim_proto::logs::json_file::Pieces;
use tokio::sync::{Notify, watch};

use super::client::Client;
use super::tap::Tap;
use crate::diagnostics;
use crate::error::lock;
use crate::log_file::{LogFile, Opened};

/// How long a full client (in memory and on disk) may take nothing before it is cut off. A container with a log
/// does not hang longer than this for a reader that is gone but still connected; a process without a log (exec)
/// belongs to its reader and waits as a pipe would.
pub const CLIENT_PATIENCE: Duration = Duration::from_secs(10);

/// How often a waiting process looks whether [`CLIENT_PATIENCE`] is over.
const PATIENCE_TICK: Duration = Duration::from_secs(1);

/// Where a process's output meets its readers.
#[derive(Debug)]
pub struct Hub {
    inner: Mutex<Inner>,
    /// Woken when a client made room.
    pub room: Notify,
    open: watch::Sender<Open>,
}

/// Streams that may still bring output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    /// The process is not there yet.
    Unknown,
    /// So many.
    Streams(usize),
    /// No more output will come.
    Ended,
}

#[derive(Debug, Default)]
struct Inner {
    log: Option<LogFile>,
    pieces: [Pieces; 2],
    tap: Option<Arc<Tap>>,
    clients: Vec<Arc<Client>>,
    hurried: bool,
    ended: bool,
    cut_off: u64,
}

/// A reader's place in the log.
#[derive(Debug)]
pub struct Place {
    generation: Option<u64>,
    /// The file to read on in, if it is another one than before.
    pub file: Option<Opened>,
}

/// What a reader that has read its file to the end should do.
#[derive(Debug)]
pub enum Next {
    /// Read on: more was written, or another file follows.
    Read(Place),
    /// It has everything and now gets the rest live.
    Live,
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            room: Notify::new(),
            open: watch::Sender::new(Open::Unknown),
        }
    }
}

impl Hub {
    /// Says where output is kept and how many streams will bring some.
    pub fn opened(&self, log: Option<LogFile>, streams: usize) {
        lock(&self.inner).log = log;
        self.open.send_replace(Open::Streams(streams));
    }

    /// Has output go to a log driver, too.
    pub fn tapped(&self, tap: Arc<Tap>) {
        lock(&self.inner).tap = Some(tap);
    }

    /// Takes what one read returned.
    pub fn output(&self, stream: Stream, bytes: &[u8]) {
        let mut guard = lock(&self.inner);
        let inner = &mut *guard;
        if inner.ended {
            return;
        }
        if let Some(log) = &mut inner.log {
            log.append(&mut inner.pieces[index(stream)], stream, bytes);
        }
        if let Some(tap) = &inner.tap {
            tap.deliver(stream, bytes);
        }
        for client in &inner.clients {
            client.deliver(stream, bytes, inner.log.as_ref().map(LogFile::dir));
        }
    }

    /// The process has ended: what its pipes still hold is taken in at once, whatever clients do.
    pub fn hurry(&self) {
        lock(&self.inner).hurried = true;
        self.room.notify_waiters();
    }

    /// One stream has come to its end.
    pub fn stream_ended(&self) {
        self.open.send_modify(|open| {
            if let Open::Streams(left) = open {
                *left = left.saturating_sub(1);
            }
        });
    }

    /// Returns once every stream has come to its end.
    pub async fn streams_ended(&self) {
        let mut open = self.open.subscribe();
        // The sender lives in self: the only error there is cannot happen.
        let _ = open
            .wait_for(|open| matches!(open, Open::Streams(0) | Open::Ended))
            .await;
    }

    /// Returns once no more output is taken.
    pub async fn ended(&self) {
        let _ = self.open.subscribe().wait_for(|open| *open == Open::Ended).await;
    }

    /// No more output will be taken: the last line is written, clients see the end.
    pub fn end(&self) {
        let mut guard = lock(&self.inner);
        let inner = &mut *guard;
        inner.ended = true;
        if let Some(log) = &mut inner.log {
            for stream in [Stream::Stdout, Stream::Stderr] {
                log.finish(&mut inner.pieces[index(stream)], stream);
            }
        }
        for client in inner.clients.drain(..) {
            client.close();
        }
        if let Some(tap) = inner.tap.take() {
            tap.close();
        }
        drop(guard);
        self.open.send_replace(Open::Ended);
        self.room.notify_waiters();
    }

    /// Waits while a client's queue is full.
    pub async fn wait_for_room(&self) {
        loop {
            let room = self.room.notified();
            if !self.is_full() {
                return;
            }
            let _ = tokio::time::timeout(PATIENCE_TICK, room).await;
            self.cut_off_the_stuck(Instant::now());
        }
    }

    /// Whether a client's queue is full.
    pub fn is_full(&self) -> bool {
        let inner = lock(&self.inner);
        !inner.ended && (inner.tap_holds_up() || inner.clients.iter().any(|client| inner.holds_up(client)))
    }

    fn cut_off_the_stuck(&self, now: Instant) {
        let mut guard = lock(&self.inner);
        let inner = &mut *guard;
        if inner.log.is_none() {
            return;
        }
        let before = inner.clients.len();
        inner.clients.retain(|client| {
            let stuck = client.is_full(0, true)
                && client
                    .stuck_since()
                    .is_some_and(|since| now.duration_since(since) >= CLIENT_PATIENCE);
            if stuck {
                client.cut();
            }
            !stuck
        });
        let cut = before - inner.clients.len();
        if cut > 0 {
            inner.cut_off += cut as u64;
            diagnostics::report(&format!(
                "cut off {cut} attached client(s) that read nothing for {} s, {} in all",
                CLIENT_PATIENCE.as_secs(),
                inner.cut_off
            ));
        }
    }

    /// How the log looks that [`Hub::oldest`] opens.
    pub fn format(&self) -> Format {
        lock(&self.inner)
            .log
            .as_ref()
            .map(LogFile::format)
            .unwrap_or_default()
    }

    /// Goes on in a new log file of the same name; false when there is no log.
    pub fn reopen(&self) -> bool {
        let mut inner = lock(&self.inner);
        inner.log.as_mut().map(LogFile::reopen).is_some()
    }

    /// Gives a client everything from now on.
    pub fn attach(&self, client: &Arc<Client>) {
        let mut inner = lock(&self.inner);
        if inner.ended {
            client.close();
        } else {
            inner.clients.push(Arc::clone(client));
        }
    }

    /// Forgets a client.
    pub fn detach(&self, client: &Arc<Client>) {
        lock(&self.inner)
            .clients
            .retain(|other| !Arc::ptr_eq(other, client));
        self.room.notify_waiters();
    }

    /// The beginning of the log.
    pub fn oldest(&self) -> Place {
        let inner = lock(&self.inner);
        let Some(log) = &inner.log else {
            return Place {
                generation: None,
                file: None,
            };
        };
        let back = log.oldest_back();
        // Files older than this shim have no generation of their own; counting from below keeps them in order.
        Place {
            generation: Some((log.generation() + BASE).saturating_sub(back)),
            file: log.open_back(back),
        }
    }

    /// A place in the log that a client knows; `None` if it is there no more, or lies beyond what was written.
    pub fn at(&self, position: Position) -> Option<Place> {
        let inner = lock(&self.inner);
        let log = inner.log.as_ref()?;
        let (back, mut file) = (0..=log.oldest_back())
            .filter_map(|back| match log.open_back(back) {
                Some(Opened::Plain(file)) => Some((back, file)),
                _ => None,
            })
            .find(|(_, file)| file.metadata().is_ok_and(|meta| meta.ino() == position.inode))?;
        if position.offset > file.metadata().ok()?.len() {
            return None;
        }
        file.seek(SeekFrom::Start(position.offset)).ok()?;
        Some(Place {
            generation: Some((log.generation() + BASE).saturating_sub(back)),
            file: Some(Opened::Plain(file)),
        })
    }

    /// Where to go on after reading to the end of `place`, at `offset` of its file. Becoming live and the last
    /// look at the log are one step, so nothing is missed or repeated.
    pub fn next(&self, place: &Place, offset: u64, client: &Arc<Client>) -> Next {
        let mut guard = lock(&self.inner);
        let inner = &mut *guard;
        if let (Some(log), Some(generation)) = (&inner.log, place.generation) {
            let back = (log.generation() + BASE).saturating_sub(generation);
            if back > 0 {
                let next = back.min(log.oldest_back() + 1) - 1;
                return Next::Read(Place {
                    generation: Some(log.generation() + BASE - next),
                    file: log.open_back(next),
                });
            }
            if offset < log.size() {
                return Next::Read(Place {
                    generation: Some(generation),
                    file: None,
                });
            }
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            client.deliver(stream, inner.pieces[index(stream)].pending(), None);
        }
        if inner.ended {
            client.close();
        } else {
            inner.clients.push(Arc::clone(client));
        }
        Next::Live
    }
}

impl Inner {
    /// Whether the process should wait for `client`.
    fn holds_up(&self, client: &Client) -> bool {
        client.is_full(self.extra(), self.log.is_some())
    }

    fn tap_holds_up(&self) -> bool {
        self.tap.as_ref().is_some_and(|tap| tap.is_full(self.extra()))
    }

    fn extra(&self) -> usize {
        if self.hurried { HURRIED } else { 0 }
    }
}

/// What the pipes of an ended process may hold beyond a full queue, in bytes: two of the largest that
/// `/proc/sys/fs/pipe-max-size` allows by default, and a read of each. Where somebody else goes on writing to them,
/// this is the bound.
const HURRIED: usize = 3 * 1024 * 1024;

/// The generation of the file that was current when the shim began, so that older ones have numbers too.
const BASE: u64 = 1 << 32;

fn index(stream: Stream) -> usize {
    usize::from(stream == Stream::Stderr)
}
