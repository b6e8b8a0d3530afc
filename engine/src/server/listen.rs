//! Listening sockets and the accepted stream.
//!
//! Docker's old way to hijack a connection has no `Upgrade` header: the client just starts to talk raw bytes after
//! the response head. hyper refuses that (it answers an empty 200 and gives the connection back to nobody). So the
//! stream reads along: it finds the heads of requests that hijack without asking, adds the header before hyper sees
//! them, and on the way out turns hyper's `101` back into the `200` such a client expects.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

/// Largest request head that is searched; hyper has its own limit, a head above ours is passed on untouched.
const MAX_HEAD: usize = 64 << 10;

/// Largest response head that is rewritten. Ours are a few hundred bytes.
const MAX_REPLY_HEAD: usize = 16 << 10;

/// Header that tells our own handlers that the client did not ask for an upgrade. A client that sends it itself
/// only changes the status line of its own answer.
pub const RAW_HIJACK: &str = "x-kelson-raw-hijack";

/// An accepted connection.
#[derive(Debug)]
pub enum Socket {
    /// Unix socket.
    Unix(UnixStream),
    /// TCP.
    Tcp(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
}

macro_rules! each {
    ($self:expr, $s:ident => $call:expr) => {
        match $self {
            Socket::Unix($s) => $call,
            Socket::Tcp($s) => $call,
            Socket::Tls($s) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), s => Pin::new(s).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), s => Pin::new(s).poll_write(cx, buf))
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), s => Pin::new(s).poll_flush(cx))
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), s => Pin::new(s).poll_shutdown(cx))
    }
}

/// Where the reader stands in the client's bytes.
#[derive(Debug)]
enum Inbound {
    /// Collecting a request head.
    Head(Vec<u8>),
    /// Handing out bytes already read: a head, perhaps rewritten, and what came behind it.
    Replay {
        bytes: Vec<u8>,
        at: usize,
        body: Option<u64>,
    },
    /// Inside a body of known length.
    Body(u64),
    /// No longer looking: chunked body, hijacked, pipelined, or too large a head.
    Through,
}

/// Where the writer stands in our own bytes.
#[derive(Debug)]
enum Outbound {
    /// Nothing to rewrite.
    Through,
    /// A raw hijack was asked for: the next response head is collected here.
    AwaitHead(Vec<u8>),
    /// The rewritten head, being written.
    Flush { bytes: Vec<u8>, at: usize },
}

/// The stream hyper reads from and writes to.
#[derive(Debug)]
pub struct Sniff<S> {
    socket: S,
    inbound: Inbound,
    outbound: Outbound,
}

impl<S> Sniff<S> {
    /// Wraps an accepted socket.
    pub fn new(socket: S) -> Self {
        Sniff {
            socket,
            inbound: Inbound::Head(Vec::new()),
            outbound: Outbound::Through,
        }
    }
}

/// What a request head says that matters here.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    /// Takes the connection over.
    hijack: bool,
    /// Says so by an `Upgrade` header.
    upgrade: bool,
    /// Length of the body, `None` when it is chunked.
    body: Option<u64>,
}

fn read_head(head: &[u8]) -> Head {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n");
    let request = lines.next().unwrap_or_default();
    let (mut upgrade, mut body) = (false, Some(0));
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        match name.trim().to_ascii_lowercase().as_str() {
            "upgrade" => upgrade = true,
            "content-length" => body = value.trim().parse().ok(),
            "transfer-encoding" => body = None,
            _ => {}
        }
    }
    Head {
        hijack: hijacks(request),
        upgrade,
        body,
    }
}

/// Whether a request line is one of the two that take the connection over.
fn hijacks(request: &str) -> bool {
    let mut words = request.split(' ');
    // HTTP/1.0 has no upgrade; such a client gets a response that ends with the connection.
    let (method, target, protocol) = (words.next(), words.next().unwrap_or_default(), words.next());
    if method != Some("POST") || protocol != Some("HTTP/1.1") {
        return false;
    }
    let path = target.split('?').next().unwrap_or_default();
    let Ok((_, path)) = super::versions::split(path) else {
        return false;
    };
    ["/containers/{id}/attach", "/exec/{id}/start"]
        .into_iter()
        .any(|p| super::router::matches(p, path).is_some())
}

fn find_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4)
}

impl<S> Sniff<S> {
    /// Takes further bytes of a request head; returns the next state once the head is complete.
    fn collect(&mut self, mut bytes: Vec<u8>) -> Inbound {
        let Some(end) = find_end(&bytes) else {
            if bytes.len() > MAX_HEAD {
                return Inbound::Replay {
                    bytes,
                    at: 0,
                    body: None,
                };
            }
            return Inbound::Head(bytes);
        };
        let head = read_head(&bytes[..end]);
        if head.hijack {
            if !head.upgrade {
                let added = format!("connection: Upgrade\r\nupgrade: tcp\r\n{RAW_HIJACK}: 1\r\n");
                bytes.splice(end - 2..end - 2, added.into_bytes());
                self.outbound = Outbound::AwaitHead(Vec::new());
            }
            return Inbound::Replay {
                bytes,
                at: 0,
                body: None,
            };
        }
        if head.upgrade {
            // A websocket, or another protocol: what comes then is no request.
            return Inbound::Replay {
                bytes,
                at: 0,
                body: None,
            };
        }
        let behind = (bytes.len() - end) as u64;
        // More bytes than the body has means a pipelining client; no Docker client does that.
        let body = head.body.and_then(|len| len.checked_sub(behind));
        Inbound::Replay { bytes, at: 0, body }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Sniff<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match &mut this.inbound {
                Inbound::Through => return Pin::new(&mut this.socket).poll_read(cx, buf),
                Inbound::Body(left) => {
                    let before = buf.filled().len();
                    ready!(Pin::new(&mut this.socket).poll_read(cx, buf))?;
                    let read = (buf.filled().len() - before) as u64;
                    this.inbound = match left.checked_sub(read) {
                        None => Inbound::Through,
                        Some(0) => Inbound::Head(Vec::new()),
                        Some(rest) => Inbound::Body(rest),
                    };
                    return Poll::Ready(Ok(()));
                }
                Inbound::Replay { bytes, at, body } => {
                    let n = buf.remaining().min(bytes.len() - *at);
                    buf.put_slice(&bytes[*at..*at + n]);
                    *at += n;
                    if *at == bytes.len() {
                        this.inbound = match body {
                            None => Inbound::Through,
                            Some(0) => Inbound::Head(Vec::new()),
                            Some(left) => Inbound::Body(*left),
                        };
                    }
                    return Poll::Ready(Ok(()));
                }
                Inbound::Head(collected) => {
                    let mut piece = [0_u8; 4096];
                    let mut part = ReadBuf::new(&mut piece);
                    ready!(Pin::new(&mut this.socket).poll_read(cx, &mut part))?;
                    let mut bytes = std::mem::take(collected);
                    if part.filled().is_empty() {
                        if bytes.is_empty() {
                            return Poll::Ready(Ok(()));
                        }
                        this.inbound = Inbound::Replay {
                            bytes,
                            at: 0,
                            body: None,
                        };
                        continue;
                    }
                    bytes.extend_from_slice(part.filled());
                    this.inbound = this.collect(bytes);
                }
            }
        }
    }
}

/// Turns the head of hyper's `101` into the `200` that a client expects which did not ask for an upgrade.
fn unswitch(head: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(head);
    if !text.starts_with("HTTP/1.1 101") {
        return head.to_vec();
    }
    let mut out = String::from("HTTP/1.1 200 OK\r\n");
    for line in text.split("\r\n").skip(1).filter(|l| !l.is_empty()) {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        if name != "connection" && name != "upgrade" {
            out.push_str(line);
            out.push_str("\r\n");
        }
    }
    out.push_str("\r\n");
    out.into_bytes()
}

impl<S: AsyncWrite + Unpin> Sniff<S> {
    /// Writes what is left of a rewritten head.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Outbound::Flush { bytes, at } = &mut self.outbound {
            if *at == bytes.len() {
                self.outbound = Outbound::Through;
                break;
            }
            let n = ready!(Pin::new(&mut self.socket).poll_write(cx, &bytes[*at..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *at += n;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Sniff<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        let Outbound::AwaitHead(collected) = &mut this.outbound else {
            return Pin::new(&mut this.socket).poll_write(cx, buf);
        };
        collected.extend_from_slice(buf);
        if let Some(end) = find_end(collected) {
            let mut bytes = unswitch(&collected[..end]);
            bytes.extend_from_slice(&collected[end..]);
            this.outbound = Outbound::Flush { bytes, at: 0 };
        } else if collected.len() > MAX_REPLY_HEAD {
            let bytes = std::mem::take(collected);
            this.outbound = Outbound::Flush { bytes, at: 0 };
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    /// What hyper would read when the client sends `wire` in pieces of `step` bytes.
    async fn seen(wire: &[u8], step: usize) -> Vec<u8> {
        let (mut client, server) = duplex(1 << 20);
        for piece in wire.chunks(step) {
            client.write_all(piece).await.unwrap();
        }
        drop(client);
        let mut out = Vec::new();
        Sniff::new(server).read_to_end(&mut out).await.unwrap();
        out
    }

    #[tokio::test]
    async fn adds_the_header_only_where_a_connection_is_taken_over() {
        let plain = b"GET /_ping HTTP/1.1\r\nhost: x\r\n\r\n";
        let asked = b"POST /exec/1/start HTTP/1.1\r\nUpgrade: tcp\r\n\r\n{}";
        let raw = b"POST /v1.41/containers/web/attach?stream=1 HTTP/1.1\r\nhost: x\r\n\r\nstdin bytes";
        for step in [1, 7, 4096] {
            assert_eq!(seen(plain, step).await, plain);
            assert_eq!(seen(asked, step).await, asked);
            let text = String::from_utf8(seen(raw, step).await).unwrap();
            assert!(
                text.contains("\r\nupgrade: tcp\r\n") && text.contains(RAW_HIJACK),
                "{text}"
            );
            assert!(text.ends_with("\r\n\r\nstdin bytes"), "{text}");
        }
    }

    #[tokio::test]
    async fn follows_keep_alive_over_bodies_of_known_length() {
        // The body looks like a request; only what comes after it is one.
        let pieces: [&[u8]; 3] = [
            b"POST /containers/create HTTP/1.1\r\ncontent-length: 31\r\n\r\n",
            b"POST /exec/1/start HTTP/1.1\r\n\r\n",
            b"POST /exec/1/start HTTP/1.1\r\n\r\n",
        ];
        let (mut client, server) = duplex(1 << 20);
        let mut sniff = Sniff::new(server);
        let (mut out, mut sent) = (Vec::new(), 0);
        for piece in &pieces[..2] {
            client.write_all(piece).await.unwrap();
            sent += piece.len();
            while out.len() < sent {
                sniff.read_buf(&mut out).await.unwrap();
            }
        }
        client.write_all(pieces[2]).await.unwrap();
        drop(client);
        sniff.read_to_end(&mut out).await.unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches("upgrade: tcp").count(), 1, "{text}");
    }

    #[tokio::test]
    async fn lets_another_protocol_through_at_once() {
        let (mut client, server) = duplex(1 << 20);
        let mut sniff = Sniff::new(server);
        let mut out = Vec::new();
        for piece in [
            &b"GET /containers/x/attach/ws HTTP/1.1\r\nupgrade: websocket\r\n\r\n"[..],
            b"\x81\x80",
        ] {
            client.write_all(piece).await.unwrap();
            out.clear();
            while out.len() < piece.len() {
                sniff.read_buf(&mut out).await.unwrap();
            }
            assert_eq!(out, piece);
        }
    }

    #[tokio::test]
    async fn answers_a_raw_hijack_with_200() {
        let (mut client, server) = duplex(1 << 20);
        let mut sniff = Sniff::new(server);
        client
            .write_all(b"POST /exec/1/start HTTP/1.1\r\n\r\n")
            .await
            .unwrap();
        let mut out = vec![0; 4096];
        let _ = sniff.read(&mut out).await.unwrap();
        for piece in
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: tcp\r\nserver: k\r\n\r\nabc"
                .chunks(10)
        {
            sniff.write_all(piece).await.unwrap();
        }
        sniff.shutdown().await.unwrap();
        drop(sniff);
        let mut got = String::new();
        client.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "HTTP/1.1 200 OK\r\nserver: k\r\n\r\nabc");
    }
}
