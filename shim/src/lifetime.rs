//! When the shim ends: never while its container lives, soon after when nobody asks any more.
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::watch;

/// How long a shim whose container has ended, or was never made, waits for a client before it ends by itself.
/// Covers an engine that connects call by call; an engine that is dead finds the exit record.
pub const LINGER: Duration = Duration::from_secs(5);

/// How long a shim waits for the first `Create`.
pub const START_LINGER: Duration = Duration::from_secs(60);

/// How long a client that stays connected after `Delete` is still served.
pub const DELETED_LINGER: Duration = Duration::from_secs(2);

/// How long an attached client that still has output to take may take nothing, once its container is deleted or the
/// shim's end was asked for. Somebody may be reading page by page; what is not for ever is a peer that hangs.
pub const READER_LINGER: Duration = Duration::from_secs(3600);

/// What decides about the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Open connections on both sockets.
    pub clients: usize,
    /// Those of them that have output to take; when there is no more, they go by themselves.
    pub readers: usize,
    /// Containers that are being made or live, or whose end is being recorded.
    pub busy: usize,
    /// Containers that a client will still ask for (containerd: until each is deleted).
    pub kept: usize,
    /// A container was made at some time.
    pub used: bool,
    /// It was deleted by a client.
    pub deleted: bool,
    /// A client asked for the end.
    pub shutdown: bool,
    /// And would not wait for readers.
    pub now: bool,
}

impl Facts {
    /// How long to wait with nothing changing before ending; `None` is for ever.
    pub fn patience(self) -> Option<Duration> {
        match self {
            Self {
                shutdown: true,
                now: true,
                ..
            } => Some(Duration::ZERO),
            Self {
                shutdown: true,
                readers: 1..,
                ..
            } => Some(READER_LINGER),
            Self { shutdown: true, .. } => Some(Duration::ZERO),
            Self { busy: 1.., .. } | Self { kept: 1.., .. } => None,
            Self {
                deleted: true,
                readers: 1..,
                ..
            } => Some(READER_LINGER),
            Self {
                deleted: true,
                clients: 0,
                ..
            } => Some(Duration::ZERO),
            Self { deleted: true, .. } => Some(DELETED_LINGER),
            Self { clients: 1.., .. } => None,
            Self { used: true, .. } => Some(LINGER),
            Self { .. } => Some(START_LINGER),
        }
    }
}

/// Shared by everything that knows one of the [`Facts`].
#[derive(Debug, Default)]
pub struct Lifetime {
    facts: watch::Sender<Facts>,
}

impl Lifetime {
    /// Changes the facts.
    pub fn update(&self, change: impl FnOnce(&mut Facts)) {
        self.facts.send_modify(change);
    }

    /// Returns when the shim should end.
    pub async fn over(&self) {
        let mut facts = self.facts.subscribe();
        loop {
            let patience = facts.borrow_and_update().patience();
            match patience {
                Some(patience) => {
                    if tokio::time::timeout(patience, facts.changed()).await.is_err() {
                        return;
                    }
                }
                None => {
                    // The sender lives in self: there is always a next change or none at all.
                    let _ = facts.changed().await;
                }
            }
        }
    }

    /// Counts a connection for as long as the guard lives.
    pub fn client(self: &Arc<Self>) -> ClientGuard {
        self.update(|facts| facts.clients += 1);
        ClientGuard(Arc::clone(self))
    }

    /// Counts a connection as a reader for as long as the guard lives.
    pub fn reader(self: &Arc<Self>) -> ReaderGuard {
        self.update(|facts| facts.readers += 1);
        ReaderGuard(Arc::clone(self))
    }
}

/// A counted connection.
#[derive(Debug)]
pub struct ClientGuard(Arc<Lifetime>);

impl Drop for ClientGuard {
    fn drop(&mut self) {
        self.0.update(|facts| facts.clients -= 1);
    }
}

/// A counted reader.
#[derive(Debug)]
pub struct ReaderGuard(Arc<Lifetime>);

impl Drop for ReaderGuard {
    fn drop(&mut self) {
        self.0.update(|facts| facts.readers -= 1);
    }
}

/// A connection that is counted.
#[derive(Debug)]
pub struct Counted {
    stream: UnixStream,
    _guard: ClientGuard,
}

impl Counted {
    /// Counts `stream`.
    pub fn new(stream: UnixStream, lifetime: &Arc<Lifetime>) -> Self {
        Self {
            stream,
            _guard: lifetime.client(),
        }
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_before_the_container() {
        let busy = Facts {
            busy: 1,
            used: true,
            ..Facts::default()
        };
        assert_eq!(busy.patience(), None);
        assert_eq!(
            Facts {
                deleted: true,
                ..busy
            }
            .patience(),
            None
        );
        assert_eq!(Facts { busy: 0, ..busy }.patience(), Some(LINGER));
        assert_eq!(
            Facts {
                busy: 0,
                clients: 1,
                ..busy
            }
            .patience(),
            None
        );
        assert_eq!(
            Facts {
                busy: 0,
                deleted: true,
                ..busy
            }
            .patience(),
            Some(Duration::ZERO)
        );
        assert_eq!(Facts::default().patience(), Some(START_LINGER));
        let read = Facts {
            deleted: true,
            clients: 1,
            readers: 1,
            ..Facts::default()
        };
        assert_eq!(read.patience(), Some(READER_LINGER));
        assert_eq!(Facts { readers: 0, ..read }.patience(), Some(DELETED_LINGER));
        assert_eq!(
            Facts {
                shutdown: true,
                ..read
            }
            .patience(),
            Some(READER_LINGER)
        );
        assert_eq!(
            Facts {
                shutdown: true,
                now: true,
                ..read
            }
            .patience(),
            Some(Duration::ZERO)
        );
    }
}
