//! The pushing half of the client: blobs that are sent, mounted or there already, and manifests (distribution-spec, "Push").

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use http::{HeaderValue, Method, Response, StatusCode, Uri};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio_util::io::ReaderStream;

use super::auth;
use super::client::{Repository, ask_of, explanation};
use super::referrers::referrer_of;
use super::transport::{Ask, parse_url, read_body, resolve, same_origin};
use crate::digest::Digest;
use crate::error::Doing;
use crate::limits::ANSWER_MAX;
use crate::{Error, Kind, Result};

/// Tries for one blob without a new byte in between.
const TRIES: u32 = 4;
/// Before the second try; doubled for each further one.
const RETRY_FIRST: Duration = Duration::from_millis(200);
/// Read and sent at a time.
const PIECE: usize = 256 * 1024;

/// How a blob came to be at the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Uploaded {
    Existed,
    /// From this repository of the same registry.
    Mounted(String),
    Sent,
}

/// An upload under way: where its next piece goes, and how much the registry has.
#[derive(Debug)]
struct Session {
    location: Uri,
    offset: u64,
}

impl Repository {
    /// Brings a blob to the registry: nothing is sent that is there, or can be mounted from one of the repositories in `from`.
    /// A connection that breaks goes on where the registry says it was.
    ///
    /// # Errors
    /// `Denied` without the right to push, `Unavailable` when the connection broke too often.
    pub async fn push_blob(
        &self,
        digest: &Digest,
        size: u64,
        from: &[String],
        open: impl Fn() -> Result<File>,
        on_bytes: impl Fn(u64),
    ) -> Result<Uploaded> {
        if self.has_blob(digest).await? {
            return Ok(Uploaded::Existed);
        }
        for other in from {
            if self.begin(Some((digest, other))).await?.is_none() {
                return Ok(Uploaded::Mounted(other.clone()));
            }
        }
        let mut session: Option<Session> = None;
        let (mut best, mut tries) = (0, 0);
        loop {
            let error = match self.push_from(&mut session, digest, size, &open, &on_bytes).await {
                Ok(()) => return Ok(Uploaded::Sent),
                Err(e) if e.kind() != Kind::Unavailable => return Err(e),
                Err(e) => e,
            };
            if let Some(old) = session.take() {
                session = self.status(old.location).await;
            }
            let now = session.as_ref().map_or(0, |s| s.offset);
            tries = if now > best { 1 } else { tries + 1 };
            best = best.max(now);
            if tries >= TRIES {
                return Err(error);
            }
            tokio::time::sleep(RETRY_FIRST * 2u32.pow(tries - 1)).await;
        }
    }

    /// Gives a manifest a name, or only its digest.
    ///
    /// # Errors
    /// `Denied`; `Invalid` when the registry took it for something else.
    pub async fn push_manifest(&self, what: &str, media_type: &str, bytes: Bytes) -> Result<Digest> {
        let digest = Digest::of(&bytes);
        let mut ask = self.write(Method::PUT, self.url("manifests", what));
        ask.headers.insert(CONTENT_TYPE, header(media_type)?);
        ask.body = bytes;
        let sent = ask.body.clone();
        let answer = self.accept(self.send(ask).await?).await?;
        let listed = answer.headers().contains_key("oci-subject");
        let theirs = answer
            .headers()
            .get("docker-content-digest")
            .and_then(|v| Digest::parse(v.to_str().ok()?).ok());
        match theirs {
            Some(theirs) if theirs != digest => {
                return Err(Error::invalid(format!(
                    "the registry stored manifest {digest} as {theirs}"
                )));
            }
            _ => {}
        }
        if let Some((subject, referrer)) = referrer_of(&sent).filter(|_| !listed) {
            // The list itself refers to nothing, so this goes one deep.
            Box::pin(self.add_referrer(&subject, referrer)).await?;
        }
        Ok(digest)
    }

    /// Whether the registry has a blob in this repository.
    ///
    /// # Errors
    /// `Denied`, `Unavailable`.
    pub async fn has_blob(&self, digest: &Digest) -> Result<bool> {
        let answer = self
            .send(self.write(Method::HEAD, self.url("blobs", &digest.to_string())))
            .await?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(false),
            _ => self.accept(answer).await.map(|_| true),
        }
    }

    /// Opens an upload; `None` when the blob was mounted instead.
    async fn begin(&self, mount: Option<(&Digest, &str)>) -> Result<Option<Session>> {
        let mut url = self.url("blobs", "uploads/");
        if let Some((digest, from)) = mount {
            let join = if url.contains('?') { '&' } else { '?' };
            url.push_str(&format!("{join}mount={digest}&from={from}"));
        }
        let base = parse_url(&url)?;
        let answer = self
            .accept(self.send(self.write(Method::POST, url)).await?)
            .await?;
        if mount.is_some() && answer.status() == StatusCode::CREATED {
            return Ok(None);
        }
        Ok(Some(Session {
            location: location(&base, &answer)?,
            offset: 0,
        }))
    }

    /// What the registry has of an upload that broke off; `None` when it has to begin again.
    async fn status(&self, at: Uri) -> Option<Session> {
        let answer = self.send(self.write(Method::GET, at.to_string())).await.ok()?;
        if !answer.status().is_success() {
            return None;
        }
        let range = answer.headers().get(RANGE)?.to_str().ok()?;
        let last: u64 = range.rsplit('-').next()?.parse().ok()?;
        // `0-0` is said of no byte and of one.
        (last > 0).then_some(())?;
        Some(Session {
            location: location(&at, &answer).unwrap_or(at),
            offset: last + 1,
        })
    }

    async fn push_from(
        &self,
        session: &mut Option<Session>,
        digest: &Digest,
        size: u64,
        open: &impl Fn() -> Result<File>,
        on_bytes: &impl Fn(u64),
    ) -> Result<()> {
        let none = || Error::new(Kind::Unavailable, "the registry opened no upload");
        if session.is_none() {
            *session = self.begin(None).await?;
        }
        let open_session = session.as_mut().ok_or_else(none)?;
        if open_session.offset < size {
            let answer = self.patch(open_session, size, open()?, on_bytes).await?;
            let answer = self.accept(answer).await?;
            open_session.location = location(&open_session.location, &answer)?;
            open_session.offset = size;
        }
        let at = open_session.location.to_string();
        let join = if at.contains('?') { '&' } else { '?' };
        let mut put = self.write(Method::PUT, format!("{at}{join}digest={digest}"));
        put.headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
        self.accept(self.send(put).await?).await.map(drop)
    }

    /// Sends the rest of a blob in one request.
    async fn patch(
        &self,
        session: &Session,
        size: u64,
        mut file: File,
        on_bytes: &impl Fn(u64),
    ) -> Result<Response<Incoming>> {
        let offset = session.offset;
        file.seek(SeekFrom::Start(offset))
            .doing(|| "read a blob to push")?;
        let mut ask = self.write(Method::PATCH, session.location.to_string());
        ask.headers
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        ask.headers
            .insert(CONTENT_LENGTH, HeaderValue::from(size - offset));
        if offset > 0 {
            ask.headers
                .insert(CONTENT_RANGE, header(&format!("{offset}-{}", size - 1))?);
        }
        if same_origin(&session.location, &parse_url(&self.endpoint.base)?)
            && let Some(value) = self.account.authorize(self.challenge.as_ref(), false).await?
        {
            ask.headers.insert(AUTHORIZATION, value);
        }
        let sent = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&sent);
        let pieces = ReaderStream::with_capacity(tokio::fs::File::from_std(file), PIECE)
            .inspect_ok(move |piece| {
                counted.fetch_add(piece.len() as u64, Ordering::Relaxed);
            })
            .map_ok(Frame::data);
        let tell = |done| on_bytes(offset + done);
        self.transport
            .stream(
                ask,
                StreamBody::new(pieces).boxed_unsync(),
                &self.config,
                &sent,
                tell,
            )
            .await
    }

    fn write(&self, method: Method, url: String) -> Ask {
        Ask {
            method,
            ..ask_of(&self.endpoint, url)
        }
    }

    /// Turns an error answer into docker's sentence.
    async fn accept(&self, answer: Response<Incoming>) -> Result<Response<Incoming>> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let no_basic = status == StatusCode::UNAUTHORIZED
            && self.account.is_anonymous()
            && matches!(auth::challenge_of(&answer), Some(auth::Challenge::Basic));
        if no_basic {
            return Err(Error::new(Kind::Denied, "no basic auth credentials"));
        }
        let body = read_body(answer.into_body(), ANSWER_MAX, "the registry's error")
            .await
            .unwrap_or_default();
        let said = explanation(&body, status, "");
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::new(Kind::Denied, said),
            StatusCode::TOO_MANY_REQUESTS => {
                Error::new(Kind::Unavailable, format!("toomanyrequests: {said}"))
            }
            status if status.is_server_error() => Error::new(
                Kind::Unavailable,
                format!("received unexpected HTTP status: {status}: {said}"),
            ),
            // It understood us, and says no.
            status => Error::invalid(format!("the registry refused the push: {status}: {said}")),
        })
    }
}

fn header(text: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text).map_err(|e| Error::invalid(format!("bad header {text:?}")).caused_by(e))
}

fn location(base: &Uri, answer: &Response<Incoming>) -> Result<Uri> {
    let to = answer.headers().get(LOCATION).and_then(|l| l.to_str().ok());
    let to =
        to.ok_or_else(|| Error::new(Kind::Unavailable, "the registry opened an upload without a place"))?;
    resolve(base, to)
}
