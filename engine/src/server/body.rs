//! Response bodies: whole ones, and streams that push back on their producer when the client reads slowly.

use super::errors::ApiError;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use serde::Serialize;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// Pieces a stream may run ahead of its client. A piece is at most some 32 KiB, so a stuck client holds at most 512 KiB.
pub const STREAM_DEPTH: usize = 16;

/// A response body.
#[derive(Debug)]
pub enum Body {
    /// All of it, or nothing.
    Whole(Option<Bytes>),
    /// Pieces as they come. Dropping the body (the client went away) closes the channel, which is how producers learn.
    Stream(mpsc::Receiver<io::Result<Bytes>>),
}

/// Producer's end of [`Body::Stream`].
#[derive(Debug, Clone)]
pub struct Sender(mpsc::Sender<io::Result<Bytes>>);

/// The client is gone; whoever produces should stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

impl Sender {
    /// Sends a piece, waiting while the client is slow.
    ///
    /// # Errors
    /// [`Gone`] when the client has left.
    pub async fn send(&self, bytes: Bytes) -> Result<(), Gone> {
        self.0.send(Ok(bytes)).await.map_err(|_| Gone)
    }

    /// Breaks the response off, so that the client does not take what it has for complete.
    pub async fn abort(&self, error: io::Error) {
        // The client may have left already; then nobody needs to be told.
        let _ = self.0.send(Err(error)).await;
    }

    /// Sends one JSON value and a line end (`\r\n`, as moby writes them in progress streams, or `\n`).
    ///
    /// # Errors
    /// [`Gone`] when the client has left.
    pub async fn line<T: Serialize>(&self, value: &T, end: &str) -> Result<(), Gone> {
        let mut text = serde_json::to_vec(value).map_err(|_| Gone)?;
        text.extend_from_slice(end.as_bytes());
        self.send(text.into()).await
    }

    /// As [`Sender::line`] without waiting: for callbacks that must not block. A line that does not fit is dropped,
    /// so only progress, never results, may go this way.
    pub fn try_line<T: Serialize>(&self, value: &T) -> Result<(), Gone> {
        let mut text = serde_json::to_vec(value).map_err(|_| Gone)?;
        text.extend_from_slice(b"\r\n");
        match self.0.try_send(Ok(text.into())) {
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Gone),
            Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => Ok(()),
        }
    }

    /// Resolves when the client has left.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

/// A stream and its producer's end.
pub fn stream() -> (Sender, Body) {
    let (tx, rx) = mpsc::channel(STREAM_DEPTH);
    (Sender(tx), Body::Stream(rx))
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Body::Whole(Some(bytes))
    }
}

impl Body {
    /// No bytes.
    pub fn empty() -> Self {
        Body::Whole(None)
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Body::Whole(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Body::Stream(rx) => rx
                .poll_recv(cx)
                .map(|next| next.map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Body::Stream(_) => SizeHint::default(),
        }
    }
}

/// A response as handlers return it.
pub type Reply = Response<Body>;

/// A JSON answer. Go's encoder ends each value with a line feed, and so do we: shell users see it.
///
/// # Errors
/// A value that cannot be encoded, which is a bug of ours.
pub fn json<T: Serialize>(status: StatusCode, value: &T) -> Result<Reply, ApiError> {
    let mut text =
        serde_json::to_vec(value).map_err(|e| ApiError::internal(format!("encode the answer: {e}")))?;
    text.push(b'\n');
    let mut reply = Response::new(Body::from(Bytes::from(text)));
    *reply.status_mut() = status;
    reply
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(reply)
}

/// An answer without a body.
pub fn status(status: StatusCode) -> Reply {
    let mut reply = Response::new(Body::empty());
    *reply.status_mut() = status;
    reply
}

/// A 200 whose body comes in pieces.
pub fn streaming(content_type: &'static str, body: Body) -> Reply {
    let mut reply = Response::new(body);
    reply
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}
