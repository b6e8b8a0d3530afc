//! One blob by as many connections as are free, each fetching a piece at a time, all of it written to its place in the store.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use futures_util::future::try_join_all;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc::Sender;
use tokio::sync::{Semaphore, watch};

use super::client::Repository;
use super::manifest::Descriptor;
use crate::content::partial::Partial;
use crate::{Error, Kind, Result};

/// Asked for at a time where more than one connection helps.
const PIECE: u64 = 16 << 20;
/// A blob smaller than this is one request.
const SPLIT_FROM: u64 = 2 * PIECE;
/// Connections for one blob.
const LANES: usize = 4;
/// Tries for one piece without progress in between.
const TRIES: u32 = 4;
/// Before the second try; doubled for each further one.
const RETRY_FIRST: Duration = Duration::from_millis(200);
/// Bytes in [`crate::ImagesConfig::patience`] that count as progress. A registry that drips more slowly is dead, or means harm.
const PROGRESS: u64 = 16 << 10;

/// Bytes and the place they belong to.
pub(crate) type Arrived = (u64, Bytes);

/// One blob's way from the registry to who writes it.
#[derive(Debug)]
pub(crate) struct Download<'a> {
    pub blob: &'a Descriptor,
    /// Says what is missing.
    pub partial: &'a Partial,
    pub sink: &'a Sender<Arrived>,
    /// Connections that others do not need: the first is the caller's own.
    pub spare: &'a Semaphore,
}

/// What the first answer told of the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ranges {
    Unknown,
    Served,
    /// Or there is nothing left to share.
    Not,
}

impl Repository {
    /// Fetches what is missing of a blob; goes on where a broken connection left off. The receiver checks the digest; more bytes
    /// than the manifest says are never taken. Ends quietly when the receiver is gone: it knows why.
    ///
    /// # Errors
    /// `Invalid` for a wrong size, `Unavailable` when the connection broke too often, `NotFound`, `Denied`.
    pub async fn download(&self, what: &Download<'_>, on_bytes: impl Fn(u64)) -> Result<()> {
        let done = AtomicU64::new(what.partial.resumed());
        let count = |n: u64| on_bytes(done.fetch_add(n, Ordering::Relaxed) + n);
        let (tell, ranges) = watch::channel(Ranges::Unknown);
        let first = async {
            let result = self.lane(what, &count, &tell, true).await;
            tell.send_if_modified(|r| {
                *r == Ranges::Unknown && {
                    *r = Ranges::Not;
                    true
                }
            });
            result
        };
        let more = if what.blob.size >= SPLIT_FROM {
            LANES - 1
        } else {
            0
        };
        let others = (0..more).map(|_| async {
            let mut ranges = ranges.clone();
            let known = ranges.wait_for(|r| *r != Ranges::Unknown).await;
            match known.map(|r| *r) {
                Ok(Ranges::Served) => self.lane(what, &count, &tell, false).await,
                _ => Ok(()),
            }
        });
        futures_util::future::try_join(first, try_join_all(others))
            .await
            .map(|_| ())
    }

    /// Fetches pieces until none is left. All but the first lane give way as soon as another layer wants the connection.
    async fn lane(
        &self,
        what: &Download<'_>,
        count: &impl Fn(u64),
        tell: &watch::Sender<Ranges>,
        first: bool,
    ) -> Result<()> {
        let most = if what.blob.size >= SPLIT_FROM {
            PIECE
        } else {
            u64::MAX
        };
        let mut tries = 0;
        loop {
            let spare = (!first).then(|| what.spare.try_acquire());
            if matches!(spare, Some(Err(_))) {
                return Ok(());
            }
            let Some(mut piece) = what.partial.claim(most) else {
                return Ok(());
            };
            let start = piece.start;
            let result = self.piece(what, &mut piece, count, tell).await;
            what.partial.release(&piece);
            match result {
                Ok(()) => tries = 0,
                Err(e) if e.kind() != Kind::Unavailable => return Err(e),
                Err(e) => {
                    tries = if piece.start - start >= PROGRESS {
                        1
                    } else {
                        tries + 1
                    };
                    if tries >= TRIES {
                        return Err(e);
                    }
                    tokio::time::sleep(RETRY_FIRST * 2u32.pow(tries - 1)).await;
                }
            }
            if what.sink.is_closed() {
                return Ok(());
            }
        }
    }

    /// Fetches one piece, which is then what is left of it.
    async fn piece(
        &self,
        what: &Download<'_>,
        piece: &mut Range<u64>,
        count: &impl Fn(u64),
        tell: &watch::Sender<Ranges>,
    ) -> Result<()> {
        let (size, digest) = (what.blob.size, what.blob.digest.to_string());
        let mut headers = HeaderMap::new();
        let range = match (piece.start, piece.end == size) {
            (0, true) => None,
            (start, true) => Some(format!("bytes={start}-")),
            (start, false) => Some(format!("bytes={start}-{}", piece.end - 1)),
        };
        headers.extend(range.and_then(|r| Some((RANGE, HeaderValue::from_str(&r).ok()?))));
        let answer = self.ask(self.url("blobs", &digest), headers).await?;
        let wrong = |theirs: u64| {
            Error::invalid(format!(
                "blob {digest}: the registry has {theirs} bytes, the manifest says {size}"
            ))
        };
        let (start, total) = place(&answer);
        if answer.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Err(wrong(total.unwrap_or(0)));
        }
        let answer = self.judge(answer, &digest).await?;
        let length = answer.headers().get(CONTENT_LENGTH);
        let length = length.and_then(|l| l.to_str().ok()?.parse::<u64>().ok());
        if answer.status() == StatusCode::PARTIAL_CONTENT {
            tell.send_if_modified(|r| {
                *r == Ranges::Unknown && {
                    *r = Ranges::Served;
                    true
                }
            });
            if let Some(theirs) = total.filter(|t| *t != size) {
                return Err(wrong(theirs));
            }
        } else {
            // It does not know ranges and sends all from the beginning; what we have is skipped.
            what.partial.claim_all();
            piece.end = size;
            if let Some(theirs) = length.filter(|l| *l != size) {
                return Err(wrong(theirs));
            }
        }
        let start = start.unwrap_or(piece.start);
        if start > piece.start {
            return Err(Error::invalid(format!(
                "blob {digest}: the registry sent bytes from {start} on, not from {}",
                piece.start
            )));
        }
        self.body(what, answer.into_body(), start, piece, count).await
    }

    /// Takes a body that begins at `here` in the blob: the piece is in it.
    async fn body(
        &self,
        what: &Download<'_>,
        mut body: Incoming,
        mut here: u64,
        piece: &mut Range<u64>,
        count: &impl Fn(u64),
    ) -> Result<()> {
        let patience = self.config.patience;
        let (mut seen, mut seen_at) = (here, Instant::now());
        let broke = |why: &str, here: u64| {
            let text = format!(
                "download of blob {} broke off after {here} of {} bytes: {why}",
                what.blob.digest, what.blob.size
            );
            Error::new(Kind::Unavailable, text)
        };
        while here < piece.end {
            if seen_at.elapsed() > patience {
                if here - seen < PROGRESS {
                    return Err(broke("the registry sends next to nothing", here));
                }
                (seen, seen_at) = (here, Instant::now());
            }
            let frame = match tokio::time::timeout(patience, body.frame()).await {
                Err(_) => return Err(broke("context deadline exceeded", here)),
                Ok(None) => return Err(broke("unexpected EOF", here)),
                Ok(Some(Err(e))) => return Err(broke(&e.to_string(), here)),
                Ok(Some(Ok(frame))) => frame,
            };
            let Ok(mut chunk) = frame.into_data() else {
                continue;
            };
            let end = here + chunk.len() as u64;
            if end > piece.end {
                return Err(Error::invalid(format!(
                    "blob {} is longer than the {} bytes its manifest says",
                    what.blob.digest, what.blob.size
                )));
            }
            let known = usize::try_from(piece.start.saturating_sub(here)).unwrap_or(usize::MAX);
            chunk.advance(known.min(chunk.remaining()));
            here = end;
            let len = chunk.len() as u64;
            if len > 0 && what.sink.send((piece.start, chunk)).await.is_err() {
                return Ok(());
            }
            piece.start += len;
            count(len);
        }
        Ok(())
    }
}

/// Where an answer's body begins in the blob, and how large the blob is, as far as it says (RFC 9110, 14.4).
fn place(answer: &Response<Incoming>) -> (Option<u64>, Option<u64>) {
    if answer.status().is_success() && answer.status() != StatusCode::PARTIAL_CONTENT {
        return (Some(0), None);
    }
    let range = answer.headers().get(CONTENT_RANGE).and_then(|r| r.to_str().ok());
    let Some((range, total)) = range.and_then(|r| r.strip_prefix("bytes ")?.split_once('/')) else {
        return (None, None);
    };
    let start = range.split('-').next().and_then(|s| s.parse().ok());
    (start, total.parse().ok())
}
