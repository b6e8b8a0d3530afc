//! Reading a container's log: the last lines from the end, or what is not older than a time, then forward, then along with the
//! writer. The shim writes; nothing here is needed for the log to be complete.

mod follow;
mod source;
mod tail;

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use kelson_api::stream::StreamId;
use kelson_shim_proto::attach::Stream;
use kelson_shim_proto::logs::records::{Record, Records};
use kelson_shim_proto::time::Time;
use tokio::sync::mpsc;

use super::container::Container;
use super::logging;
use crate::error::{Doing, Error, Result};
use crate::inner::Inner;
use crate::types::{Frame, FrameStream, LogOptions, Logs, Nanos};
use follow::Follow;
use source::{CHUNK, Open, Source};

/// Frames that wait for a slow client; the reader waits then, the container never.
const QUEUE: usize = 16;

/// Consecutive lines of one stream share a frame up to this size, in bytes.
const FRAME: usize = 64 << 10;

/// `docker logs`.
pub(crate) fn run(inner: &Arc<Inner>, name: &str, options: LogOptions) -> Result<Logs> {
    let container = inner.containers.find(name)?;
    if !options.stdout && !options.stderr {
        return Err(Error::invalid(
            "Bad parameters: you must choose at least one stream",
        ));
    }
    let record = container.record();
    let Some((format, file)) = logging::kept(&record, &container.dir) else {
        return Err(Error::unsupported(
            "configured logging driver does not support reading",
        ));
    };
    let tty = record.config.tty;
    Ok(Logs {
        tty,
        frames: stream(container, Source::new(format, file), options),
    })
}

/// The frames; reading begins with the first poll.
fn stream(container: Arc<Container>, source: Source, options: LogOptions) -> FrameStream {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        if let Err(error) = run_to_the_end(&container, Reader::new(source, options), &sender).await {
            let _ = sender.send(Err(error)).await;
        }
    });
    Box::pin(futures_util::stream::unfold(
        receiver,
        |mut receiver| async move { receiver.recv().await.map(|item| (item, receiver)) },
    ))
}

type Sender = mpsc::Sender<Result<Frame>>;

async fn run_to_the_end(container: &Container, mut reader: Reader, sender: &Sender) -> Result<()> {
    let until = reader.options.until;
    // Before the first read: a change between reading and watching must not be missed.
    let mut follow = reader
        .options
        .follow
        .then(|| Follow::new(container, &reader.source.path));
    loop {
        // Asked before the read: what is written before the end is read after it was seen.
        let ended = follow.as_mut().is_none_or(Follow::ended);
        let late = until.is_some_and(|until| crate::clock::now_nanos() > until);
        reader = drain(reader, sender).await?;
        if ended || late || reader.done || sender.is_closed() {
            return Ok(());
        }
        if let Some(follow) = follow.as_mut() {
            tokio::select! {
                () = follow.changed(until) => {}
                () = sender.closed() => {}
            }
        }
    }
}

/// Reads what is there, chunk by chunk, on a thread that may wait for the disk.
async fn drain(mut reader: Reader, sender: &Sender) -> Result<Reader> {
    loop {
        let stepped = tokio::task::spawn_blocking(move || {
            let mut frames = Vec::new();
            let read = reader.step(&mut frames);
            (reader, frames, read)
        });
        let (back, frames, read) = stepped
            .await
            .map_err(|error| Error::internal(format!("read the log: {error}")))?;
        reader = back;
        for frame in frames {
            if sender.send(Ok(frame)).await.is_err() {
                reader.done = true;
                return Ok(reader);
            }
        }
        if !read.doing(|| "read the log")? || reader.done {
            return Ok(reader);
        }
    }
}

/// A place in a log, and what is wanted of it.
#[derive(Debug)]
struct Reader {
    source: Source,
    options: LogOptions,
    since: Option<Time>,
    until: Option<Time>,
    /// `None` before the log is there.
    open: Option<Open>,
    records: Records,
    buffer: Vec<u8>,
    /// Of the record that was read last.
    last: Option<Time>,
    /// `until` is reached, or the client is gone.
    done: bool,
}

impl Reader {
    fn new(source: Source, options: LogOptions) -> Self {
        Self {
            records: Records::new(source.format),
            since: options.since.map(time),
            until: options.until.map(time),
            source,
            options,
            open: None,
            buffer: Vec::new(),
            last: None,
            done: false,
        }
    }

    /// Reads one chunk; false when there is no more for now.
    fn step(&mut self, frames: &mut Vec<Frame>) -> io::Result<bool> {
        if self.open.is_none() {
            self.open = self.source.begin(self.options.tail, self.since)?;
            // A log that is made later is read from its beginning.
            self.options.tail = None;
        }
        let Some(open) = &mut self.open else {
            return Ok(false);
        };
        self.buffer.resize(CHUNK, 0);
        let mut count = open.read(&mut self.buffer)?;
        if count == 0 {
            let Some(next) = self.source.next(open, self.last)? else {
                // An idle reader keeps no buffer.
                self.buffer = Vec::new();
                return Ok(false);
            };
            // The writer may have written between our end of file and its rename.
            count = open.read(&mut self.buffer)?;
            if count == 0 {
                *open = next;
                self.records = Records::new(self.source.format);
                return Ok(true);
            }
        }
        let mut out = Frames::new(frames);
        let (options, since, until) = (&self.options, self.since, self.until);
        let last = &mut self.last;
        self.done = !self.records.push(&self.buffer[..count], |record| {
            let at = record.time();
            *last = at.or(*last);
            if until.is_some_and(|until| at.is_some_and(|at| at > until)) {
                return false;
            }
            if since.is_none_or(|since| at.is_none_or(|at| at >= since)) {
                out.put(&record, options);
            }
            true
        });
        out.flush();
        Ok(true)
    }
}

/// Puts lines into frames.
struct Frames<'a> {
    frames: &'a mut Vec<Frame>,
    stream: StreamId,
    data: Vec<u8>,
}

impl<'a> Frames<'a> {
    fn new(frames: &'a mut Vec<Frame>) -> Self {
        Self {
            frames,
            stream: StreamId::Stdout,
            data: Vec::new(),
        }
    }

    fn put(&mut self, record: &Record<'_>, options: &LogOptions) {
        let (stream, wanted) = match record.stream {
            Stream::Stdout => (StreamId::Stdout, options.stdout),
            Stream::Stderr => (StreamId::Stderr, options.stderr),
        };
        if !wanted {
            return;
        }
        if stream != self.stream || self.data.len() >= FRAME {
            self.flush();
            self.stream = stream;
        }
        if self.data.capacity() == 0 {
            self.data.reserve(FRAME + FRAME / 4);
        }
        if options.timestamps {
            write_fixed(record.time().unwrap_or_default(), &mut self.data);
            self.data.push(b' ');
        }
        if options.details {
            // Attributes are not written yet, so there are none to show: docker leaves their separator.
            self.data.push(b' ');
        }
        record.write(&mut self.data);
    }

    fn flush(&mut self) {
        if !self.data.is_empty() {
            self.frames.push(Frame {
                stream: self.stream,
                data: Bytes::from(std::mem::take(&mut self.data)),
            });
        }
    }
}

/// docker shows nine decimals always.
fn write_fixed(time: Time, out: &mut Vec<u8>) {
    Time { nanos: 0, ..time }.write(out);
    out.pop();
    out.extend_from_slice(format!(".{:09}Z", time.nanos).as_bytes());
}

fn time(nanos: Nanos) -> Time {
    let part = nanos.rem_euclid(1_000_000_000);
    Time {
        secs: i64::try_from(nanos.div_euclid(1_000_000_000)).unwrap_or(i64::MAX),
        nanos: u32::try_from(part).unwrap_or(0),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
