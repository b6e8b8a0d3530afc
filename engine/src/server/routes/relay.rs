//! Moves bytes between a client and a process: attach, exec, logs.

use crate::server::body::Sender;
use crate::server::call::Raw;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use kelson_api::stream::{HEADER_LEN, StreamId, header};
use kelson_core::{Attached, Frame, FrameStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bytes taken from the client at a time.
const INPUT_CHUNK: usize = 32 << 10;

/// A frame as it goes over the wire: raw for a terminal, else behind docker's header.
pub fn encode(frame: &Frame, tty: bool) -> Bytes {
    if tty {
        return frame.data.clone();
    }
    let Ok(len) = u32::try_from(frame.data.len()) else {
        return Bytes::new();
    };
    let mut out = BytesMut::with_capacity(HEADER_LEN + frame.data.len());
    out.put_slice(&header(frame.stream, len));
    out.put_slice(&frame.data);
    out.freeze()
}

/// A line of the engine's own, as moby shows what went wrong after the connection was taken over.
pub fn engine_line(stream: StreamId, text: &str, tty: bool) -> Bytes {
    encode(
        &Frame {
            stream,
            data: Bytes::from(format!("{text}\r\n")),
        },
        tty,
    )
}

/// Connects a taken-over connection and a process until the output ends or the client is gone. The client's half
/// close is the process's end of input, no more.
pub async fn both_ways(io: Raw, attached: Attached) {
    let Attached {
        tty,
        mut output,
        mut input,
    } = attached;
    let (mut from_client, mut to_client) = tokio::io::split(io);
    let upward = async {
        let mut chunk = vec![0; INPUT_CHUNK];
        loop {
            let n = from_client.read(&mut chunk).await.unwrap_or(0);
            if n == 0 || input.write_all(&chunk[..n]).await.is_err() {
                break;
            }
        }
        // The process may have closed its input or ended: then there is nobody to tell.
        let _ = input.shutdown().await;
        std::future::pending::<()>().await;
    };
    let downward = async {
        while let Some(piece) = output.next().await {
            let bytes = match piece {
                Ok(frame) => encode(&frame, tty),
                Err(error) => engine_line(StreamId::Stderr, &error.to_string(), tty),
            };
            if to_client.write_all(&bytes).await.is_err() {
                return;
            }
        }
        // A client that has left needs no goodbye.
        let _ = to_client.shutdown().await;
    };
    tokio::select! {
        () = downward => {}
        () = upward => {}
    }
}

/// Sends output as the body of a response, until it ends or the client is gone.
pub async fn downward(mut output: FrameStream, tty: bool, to: Sender) {
    loop {
        let piece = tokio::select! {
            piece = output.next() => piece,
            () = to.closed() => return,
        };
        let bytes = match piece {
            None => return,
            Some(Ok(frame)) => encode(&frame, tty),
            Some(Err(error)) => engine_line(StreamId::Stderr, &error.to_string(), tty),
        };
        if to.send(bytes).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames() {
        let frame = Frame {
            stream: StreamId::Stderr,
            data: Bytes::from_static(b"ab"),
        };
        assert_eq!(encode(&frame, false).as_ref(), b"\x02\0\0\0\0\0\0\x02ab");
        assert_eq!(encode(&frame, true).as_ref(), b"ab");
    }
}
