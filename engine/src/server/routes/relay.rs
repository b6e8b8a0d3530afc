//! Moves bytes between a client and a process: attach, exec, logs.

use crate::server::body::Sender;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use kelson_api::stream::{HEADER_LEN, StreamId, header};
use kelson_core::{Attached, Frame, FrameStream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

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

/// The same with a frame for each line. Clients take a frame for a line of a log, as moby sends no other; they still come in few
/// writes.
pub fn encode_lines(frame: &Frame, tty: bool) -> Bytes {
    if tty {
        return frame.data.clone();
    }
    let mut out = BytesMut::with_capacity(frame.data.len() + frame.data.len() / 4);
    for line in frame.data.split_inclusive(|byte| *byte == b'\n') {
        // A frame is far shorter than 4 GiB.
        out.put_slice(&header(
            frame.stream,
            u32::try_from(line.len()).unwrap_or(u32::MAX),
        ));
        out.put_slice(line);
    }
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
pub async fn both_ways(io: impl AsyncRead + AsyncWrite, attached: Attached) {
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
pub async fn downward(output: FrameStream, tty: bool, to: Sender) {
    downward_as(output, tty, to, encode).await;
}

/// The same, each frame as `encode` writes it.
pub async fn downward_as(mut output: FrameStream, tty: bool, to: Sender, encode: fn(&Frame, bool) -> Bytes) {
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
    fn each_line_has_a_frame() {
        let frame = Frame {
            stream: StreamId::Stdout,
            data: Bytes::from_static(b"a\nbc\nd"),
        };
        assert_eq!(
            &encode_lines(&frame, false)[..],
            b"\x01\0\0\0\0\0\0\x02a\n\x01\0\0\0\0\0\0\x03bc\n\x01\0\0\0\0\0\0\x01d"
        );
        assert_eq!(&encode_lines(&frame, true)[..], b"a\nbc\nd");
    }

    #[test]
    fn frames() {
        let frame = Frame {
            stream: StreamId::Stderr,
            data: Bytes::from_static(b"ab"),
        };
        assert_eq!(encode(&frame, false).as_ref(), b"\x02\0\0\0\0\0\0\x02ab");
        assert_eq!(encode(&frame, true).as_ref(), b"ab");
    }

    /// A process whose input arrives at the returned reader, and whose output is what the sender is given.
    fn process(
        tty: bool,
    ) -> (
        Attached,
        tokio::io::DuplexStream,
        tokio::sync::mpsc::Sender<Frame>,
    ) {
        let (stdin, reader) = tokio::io::duplex(64);
        let (sender, receiver) = tokio::sync::mpsc::channel::<Frame>(4);
        let output =
            futures_util::stream::unfold(receiver, |mut r| async { r.recv().await.map(|f| (Ok(f), r)) });
        (
            Attached {
                tty,
                output: Box::pin(output),
                input: Box::pin(stdin),
            },
            reader,
            sender,
        )
    }

    #[tokio::test]
    async fn a_half_close_ends_the_input_and_not_the_output() {
        let (attached, mut stdin, output) = process(true);
        let (client, server) = tokio::net::UnixStream::pair().unwrap();
        let relay = tokio::spawn(both_ways(server, attached));
        let (mut from, mut to) = client.into_split();
        to.write_all(b"typed").await.unwrap();
        to.shutdown().await.unwrap();
        let mut typed = String::new();
        stdin.read_to_string(&mut typed).await.unwrap();
        assert_eq!(typed, "typed");
        output
            .send(Frame {
                stream: StreamId::Stdout,
                data: Bytes::from_static(b"late"),
            })
            .await
            .unwrap();
        drop(output);
        let mut got = String::new();
        from.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "late");
        relay.await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_left_ends_the_relay_with_the_next_output() {
        let (attached, _stdin, output) = process(false);
        let (client, server) = tokio::net::UnixStream::pair().unwrap();
        let relay = tokio::spawn(both_ways(server, attached));
        drop(client);
        let frame = Frame {
            stream: StreamId::Stdout,
            data: Bytes::from_static(b"x"),
        };
        // The first write may still land in a buffer.
        while output.send(frame.clone()).await.is_ok() {}
        relay.await.unwrap();
    }
}
