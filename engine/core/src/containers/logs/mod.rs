//! Reading the json-file log: the last lines from the end, then forward, then along with the writer. The shim writes; nothing
//! here is needed for the log to be complete.

mod follow;
mod tail;

use std::io::SeekFrom;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use kelson_api::stream::StreamId;
use kelson_shim_proto::attach::Stream as Source;
use kelson_shim_proto::logs::json_file::{Entry, Parser};
use kelson_shim_proto::logs::rotate;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;

use super::container::Container;
use super::launch;
use crate::error::{Doing, Error, Result};
use crate::inner::Inner;
use crate::types::{Frame, FrameStream, LogOptions, Logs, Nanos};
use follow::Follow;

/// Bytes read at once.
const CHUNK: usize = 64 << 10;

/// Frames that wait for a slow client; the reader waits then, the container never.
const QUEUE: usize = 64;

/// `docker logs`.
pub(crate) fn run(inner: &Arc<Inner>, name: &str, options: LogOptions) -> Result<Logs> {
    let container = inner.containers.find(name)?;
    if !options.stdout && !options.stderr {
        return Err(Error::invalid(
            "Bad parameters: you must choose at least one stream",
        ));
    }
    let record = container.record();
    let Some(file) = launch::log_file(&record, &container.dir) else {
        return Err(Error::unsupported(
            "configured logging driver does not support reading",
        ));
    };
    let tty = record.config.tty;
    Ok(Logs {
        tty,
        frames: stream(container, file.path, file.max_file, options),
    })
}

/// The frames; reading begins with the first poll.
fn stream(container: Arc<Container>, path: PathBuf, max_file: u32, options: LogOptions) -> FrameStream {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let mut reader = Reader {
            path,
            max_file,
            options,
            sender: sender.clone(),
            parser: Parser::default(),
            done: false,
        };
        if let Err(e) = reader.run(&container).await {
            let _ = sender.send(Err(e)).await;
        }
    });
    Box::pin(futures_util::stream::unfold(
        receiver,
        |mut receiver| async move { receiver.recv().await.map(|item| (item, receiver)) },
    ))
}

struct Reader {
    path: PathBuf,
    max_file: u32,
    options: LogOptions,
    sender: mpsc::Sender<Result<Frame>>,
    parser: Parser,
    /// `until` is reached, or the client is gone.
    done: bool,
}

impl Reader {
    async fn run(&mut self, container: &Container) -> Result<()> {
        // Before the first read: a change between reading and watching must not be missed.
        let mut follow = if self.options.follow {
            Some(Follow::new(container, &self.path))
        } else {
            None
        };
        let (path, max_file, tail) = (self.path.clone(), self.max_file, self.options.tail);
        let begin = tokio::task::spawn_blocking(move || tail::begin(&path, max_file, tail))
            .await
            .map_err(|e| Error::internal(format!("read the log: {e}")))?;
        let Some((file, offset)) = begin.doing(|| "read the log")? else {
            return match follow.as_mut() {
                Some(follow) => self.wait_for_file(follow).await,
                None => Ok(()),
            };
        };
        let mut current = Open::new(File::from_std(file), offset).await?;
        self.drain_all(&mut current).await?;
        if let Some(follow) = follow.as_mut() {
            self.follow(&mut current, follow).await?;
        }
        Ok(())
    }

    /// Nothing is written yet.
    async fn wait_for_file(&mut self, follow: &mut Follow) -> Result<()> {
        loop {
            let ended = follow.ended();
            match File::open(&self.path).await {
                Ok(file) => {
                    let mut current = Open::new(file, 0).await?;
                    return self.follow(&mut current, follow).await;
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(e).doing(|| "open the log"),
            }
            if ended || self.sender.is_closed() {
                return Ok(());
            }
            self.changed(follow).await;
        }
    }

    async fn follow(&mut self, current: &mut Open, follow: &mut Follow) -> Result<()> {
        loop {
            // Asked before the read: what is written before the end is read after it was seen.
            let ended = follow.ended();
            self.drain_all(current).await?;
            if ended || self.done || self.sender.is_closed() {
                return Ok(());
            }
            self.changed(follow).await;
            if self
                .options
                .until
                .is_some_and(|until| crate::clock::now_nanos() > until)
            {
                self.drain_all(current).await?;
                return Ok(());
            }
        }
    }

    async fn changed(&self, follow: &mut Follow) {
        tokio::select! {
            () = follow.changed(self.options.until) => {}
            () = self.sender.closed() => {}
        }
    }

    /// Reads to the end of the newest file, across rotations.
    async fn drain_all(&mut self, current: &mut Open) -> Result<()> {
        loop {
            self.drain(current).await?;
            if self.done {
                return Ok(());
            }
            match current.next(&self.path, self.max_file).await? {
                Some(next) => {
                    // The writer may have written between our end of file and its rename.
                    self.drain(current).await?;
                    *current = next;
                }
                None => return Ok(()),
            }
        }
    }

    async fn drain(&mut self, current: &mut Open) -> Result<()> {
        let mut buffer = Vec::with_capacity(CHUNK);
        while !self.done {
            buffer.clear();
            if current
                .file
                .read_buf(&mut buffer)
                .await
                .doing(|| "read the log")?
                == 0
            {
                return Ok(());
            }
            current.position += buffer.len() as u64;
            let mut entries = Vec::new();
            self.parser.push(&buffer, |entry| entries.push(entry));
            for entry in entries {
                match entry {
                    Ok(entry) => self.emit(&entry).await,
                    // A line torn by a crash; the rest is whole.
                    Err(e) => tracing::debug!(error = %e, log = %self.path.display(), "skip a log line"),
                }
            }
        }
        Ok(())
    }

    async fn emit(&mut self, entry: &Entry) {
        if self.done {
            return;
        }
        let options = &self.options;
        let at = entry
            .at()
            .map(|t| Nanos::from(t.secs) * 1_000_000_000 + Nanos::from(t.nanos));
        if let (Some(at), Some(since)) = (at, options.since)
            && at < since
        {
            return;
        }
        if let (Some(at), Some(until)) = (at, options.until)
            && at > until
        {
            self.done = true;
            return;
        }
        let (stream, wanted) = match entry.source() {
            Source::Stdout => (StreamId::Stdout, options.stdout),
            Source::Stderr => (StreamId::Stderr, options.stderr),
        };
        if !wanted {
            return;
        }
        let mut data = String::with_capacity(entry.log.len() + 32);
        if options.timestamps {
            data.push_str(&fixed(&entry.time));
            data.push(' ');
        }
        if options.details {
            // Attributes are not written yet, so there are none to show: docker leaves their separator.
            data.push(' ');
        }
        data.push_str(&entry.log);
        self.done = self
            .sender
            .send(Ok(Frame {
                stream,
                data: Bytes::from(data),
            }))
            .await
            .is_err();
    }
}

/// docker shows nine decimals always.
fn fixed(time: &str) -> String {
    let Some(body) = time.strip_suffix('Z') else {
        return time.to_owned();
    };
    let (whole, part) = body.split_once('.').unwrap_or((body, ""));
    format!("{whole}.{part:0<9}Z")
}

/// A log file being read.
struct Open {
    file: File,
    position: u64,
    inode: (u64, u64),
}

impl Open {
    async fn new(mut file: File, offset: u64) -> Result<Self> {
        let meta = file.metadata().await.doing(|| "read the log")?;
        file.seek(SeekFrom::Start(offset))
            .await
            .doing(|| "read the log")?;
        Ok(Self {
            file,
            position: offset,
            inode: inode(&meta),
        })
    }

    /// The file after this one, if the writer has gone on to one.
    async fn next(&mut self, path: &std::path::Path, max_file: u32) -> Result<Option<Self>> {
        let identity = async |n: u32| {
            tokio::fs::metadata(rotate::name(path, n))
                .await
                .ok()
                .map(|m| inode(&m))
        };
        if identity(0).await.is_none_or(|current| current == self.inode) {
            let length = self.file.metadata().await.doing(|| "read the log")?.len();
            if length < self.position {
                // The only file is cut to nothing instead of renamed.
                self.file
                    .seek(SeekFrom::Start(0))
                    .await
                    .doing(|| "read the log")?;
                self.position = 0;
                return Ok(None);
            }
            return Ok(None);
        }
        for n in 1..max_file {
            if identity(n).await == Some(self.inode) {
                return Self::open(&rotate::name(path, n - 1)).await;
            }
        }
        // Ours is gone altogether: the oldest that is left follows it.
        for n in (0..max_file).rev() {
            if let Some(open) = Self::open(&rotate::name(path, n)).await? {
                return Ok(Some(open));
            }
        }
        Ok(None)
    }

    async fn open(path: &std::path::Path) -> Result<Option<Self>> {
        match File::open(path).await {
            Ok(file) => Self::new(file, 0).await.map(Some),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).doing(|| "open the log"),
        }
    }
}

fn inode(meta: &std::fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (meta.dev(), meta.ino())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
