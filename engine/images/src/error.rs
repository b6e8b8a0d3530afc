//! The crate's error: what kind it is, what was being done on which image, blob or file, and the cause.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What a caller decides by; the daemon maps it to an HTTP status, see `server/errors.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// No such image, tag, manifest, blob or snapshot.
    NotFound,
    /// In use, or referenced in a way the request does not allow.
    Conflict,
    /// A malformed request, reference, manifest, config, layer or archive; a digest or size that does not match.
    Invalid,
    /// Well formed, but nothing we handle (schema 1, foreign layers, another operating system).
    Unsupported,
    /// The registry wants other credentials.
    Denied,
    /// The registry cannot be reached, or a deadline passed.
    Unavailable,
    /// Our own disk or kernel refused.
    Internal,
}

/// A failed operation on images, layers or registries.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    doing: Cow<'static, str>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: Kind, doing: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            doing: doing.into(),
            source: None,
        }
    }

    pub(crate) fn not_found(doing: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::NotFound, doing)
    }

    pub(crate) fn invalid(doing: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Invalid, doing)
    }

    pub(crate) fn conflict(doing: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Conflict, doing)
    }

    pub(crate) fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The kind, for a caller that decides by it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.doing)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        // The cause is already part of the sentence; a caller that walks the chain must not print it twice.
        self.source.as_ref().and_then(|s| s.source())
    }
}

/// Adds what was being done to an error from below.
pub(crate) trait Doing<T> {
    /// Wraps as [`Kind::Internal`]; an error of this crate keeps its kind.
    fn doing<S: Into<Cow<'static, str>>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing<S: Into<Cow<'static, str>>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| Error::new(Kind::Internal, what()).caused_by(e))
    }
}

impl<T> Doing<T> for rustix::io::Result<T> {
    fn doing<S: Into<Cow<'static, str>>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| Error::new(Kind::Internal, what()).caused_by(std::io::Error::from(e)))
    }
}

impl<T> Doing<T> for Result<T> {
    fn doing<S: Into<Cow<'static, str>>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| {
            let kind = e.kind;
            Error::new(kind, what()).caused_by(e)
        })
    }
}

impl From<kelson_formats::Error> for Error {
    fn from(e: kelson_formats::Error) -> Self {
        // The sentence is complete (it names the rule and the text), so it becomes ours unchanged.
        Self::new(Kind::Invalid, e.to_string())
    }
}
