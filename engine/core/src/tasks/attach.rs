//! The attach socket's client side.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use kelson_api::stream::StreamId;
use kelson_shim_proto::attach::{Decoder, From, Hello, MAX_LINE, Reply, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::error::{Doing, Error, Kind, Result};
use crate::types::{Frame, FrameStream};

const HELLO: Duration = Duration::from_secs(10);

/// Bytes read at once; also the largest frame handed on.
const CHUNK: usize = 64 << 10;

/// What to attach to.
#[derive(Debug, Clone, Default)]
pub(crate) struct AttachRequest {
    /// Empty for the container itself.
    pub exec: String,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// Begin with what the log still holds.
    pub from_start: bool,
    pub tty: bool,
}

/// A connection after the handshake.
#[derive(Debug)]
pub(crate) struct AttachConnection {
    pub reader: OwnedReadHalf,
    pub writer: OwnedWriteHalf,
    /// Bytes that came along with the answer line.
    pub early: Vec<u8>,
}

pub(super) async fn connect(path: &Path, request: &AttachRequest) -> Result<AttachConnection> {
    tokio::time::timeout(HELLO, handshake(path, request))
        .await
        .unwrap_or_else(|_| Err(Error::unavailable("attach: the shim does not answer")))
}

async fn handshake(path: &Path, request: &AttachRequest) -> Result<AttachConnection> {
    let stream = UnixStream::connect(path)
        .await
        .map_err(|e| Error::with_source(Kind::Unavailable, "attach: connect to the shim", e))?;
    let (mut reader, mut writer) = stream.into_split();
    let hello = Hello {
        format: kelson_shim_proto::FORMAT,
        exec_id: request.exec.clone(),
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
        from: if request.from_start {
            From::Start
        } else {
            From::Now
        },
        position: None,
        tty: request.tty,
        detach_keys: None,
        reopen: false,
    };
    writer
        .write_all(&hello.encode())
        .await
        .doing(|| "attach: greet the shim")?;
    let mut buffer = Vec::with_capacity(256);
    let end = loop {
        if let Some(at) = buffer.iter().position(|b| *b == b'\n') {
            break at + 1;
        }
        if buffer.len() > MAX_LINE
            || reader
                .read_buf(&mut buffer)
                .await
                .doing(|| "attach: read the answer")?
                == 0
        {
            return Err(Error::unavailable("attach: the shim gave no answer"));
        }
    };
    let early = buffer.split_off(end);
    let reply = Reply::decode(&buffer).map_err(Error::internal)?;
    if !reply.ok {
        let why = reply.message.unwrap_or_else(|| "refused".into());
        return Err(Error::conflict(format!("attach: {why}")));
    }
    Ok(AttachConnection {
        reader,
        writer,
        early,
    })
}

/// The frames of a connection, until its end.
pub(crate) fn frames(reader: OwnedReadHalf, early: Vec<u8>) -> FrameStream {
    struct State {
        reader: OwnedReadHalf,
        decoder: Decoder,
        queue: VecDeque<Frame>,
        buffer: Vec<u8>,
        early: Option<Vec<u8>>,
    }
    let state = State {
        reader,
        decoder: Decoder::default(),
        queue: VecDeque::new(),
        buffer: Vec::new(),
        early: Some(early),
    };
    Box::pin(futures_util::stream::unfold(state, |mut s| async move {
        loop {
            if let Some(frame) = s.queue.pop_front() {
                return Some((Ok(frame), s));
            }
            let State {
                reader,
                decoder,
                queue,
                buffer,
                early,
            } = &mut s;
            match early.take() {
                Some(bytes) => *buffer = bytes,
                None => {
                    buffer.clear();
                    buffer.reserve(CHUNK);
                    match reader.read_buf(buffer).await {
                        Ok(0) => return None,
                        Ok(_) => {}
                        // The shim cut the connection; for the client that is its end.
                        Err(_) => return None,
                    }
                }
            }
            let decoded = decoder.push(buffer, |stream, bytes| {
                let stream = match stream {
                    Stream::Stdout => StreamId::Stdout,
                    Stream::Stderr => StreamId::Stderr,
                };
                queue.push_back(Frame {
                    stream,
                    data: Bytes::copy_from_slice(bytes),
                });
            });
            if let Err(e) = decoded {
                return Some((Err(Error::internal(e)), s));
            }
        }
    }))
}
