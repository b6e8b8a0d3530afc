//! A request body as a byte stream, for archives of any size.

use bytes::{Buf, Bytes};
use hyper::body::{Body, Incoming};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};

/// Reads a body piece by piece; the client is held back while nobody reads.
#[derive(Debug)]
pub struct Upload {
    body: Incoming,
    piece: Bytes,
}

impl Upload {
    /// Takes over a request's body.
    pub fn new(body: Incoming) -> Self {
        Upload {
            body,
            piece: Bytes::new(),
        }
    }
}

impl AsyncRead for Upload {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.piece.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Err(e)) => return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, e))),
                // Trailers carry nothing we use.
                Some(Ok(frame)) => this.piece = frame.into_data().unwrap_or_default(),
            }
        }
        let n = this.piece.len().min(buf.remaining());
        buf.put_slice(&this.piece[..n]);
        this.piece.advance(n);
        Poll::Ready(Ok(()))
    }
}
