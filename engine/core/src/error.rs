//! The one error shape of this crate: a kind the caller matches, a sentence the user reads, a cause.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

/// What an error means, whatever its text says. The server maps each kind to one HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The named object does not exist.
    NotFound,
    /// The object exists, and its state or another object forbids the operation.
    Conflict,
    /// The request itself is wrong.
    Invalid,
    /// The object is already in the state asked for.
    NotModified,
    /// Understood, and not offered by this engine or host.
    Unsupported,
    /// The caller, or this process, may not do it.
    Denied,
    /// A peer did not answer in time; trying again may help.
    Unavailable,
    /// Everything else.
    Internal,
}

/// An error of the engine.
///
/// `Display` prints the whole chain, `doing: cause: ...`, because that is what an API client is shown.
pub struct Error {
    kind: Kind,
    doing: Cow<'static, str>,
    source: Option<Box<dyn StdError + Send + Sync>>,
    exit_code: Option<u8>,
}

/// Result of everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error without an underlying cause.
    pub fn new(kind: Kind, doing: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            doing: doing.into(),
            source: None,
            exit_code: None,
        }
    }

    /// An error with a cause.
    pub fn with_source(
        kind: Kind,
        doing: impl Into<Cow<'static, str>>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self {
            kind,
            doing: doing.into(),
            source: Some(source.into()),
            exit_code: None,
        }
    }

    /// The meaning of the error.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The exit code a container that failed to start is given (125, 126, 127 or 128).
    pub fn exit_code(&self) -> Option<u8> {
        self.exit_code
    }

    pub(crate) fn exiting(mut self, code: u8) -> Self {
        self.exit_code = Some(code);
        self
    }

    /// Puts what the caller was doing in front; kind and exit code stay.
    pub(crate) fn wrap(self, doing: impl Into<Cow<'static, str>>) -> Self {
        let (kind, exit_code) = (self.kind, self.exit_code);
        Self {
            kind,
            doing: doing.into(),
            source: Some(Box::new(self)),
            exit_code,
        }
    }

    pub(crate) fn not_found(doing: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::NotFound, doing)
    }
    pub(crate) fn conflict(doing: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Conflict, doing)
    }
    pub(crate) fn invalid(doing: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Invalid, doing)
    }
    pub(crate) fn denied(doing: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Denied, doing)
    }
    pub(crate) fn internal(doing: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Internal, doing)
    }
    pub(crate) fn unavailable(doing: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Unavailable, doing)
    }
    pub(crate) fn unsupported(doing: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Unsupported, doing)
    }
    pub(crate) fn not_modified() -> Self {
        Self::new(Kind::NotModified, "not modified")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.doing)?;
        // An Error of ours below prints its own chain; a foreign one is followed link by link.
        let mut next: Option<&(dyn StdError + 'static)> = self.source.as_deref().map(|e| e as _);
        while let Some(cause) = next {
            write!(f, ": {cause}")?;
            next = if cause.is::<Error>() { None } else { cause.source() };
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

impl From<kelson_images::Error> for Error {
    fn from(e: kelson_images::Error) -> Self {
        use kelson_images::Kind as Theirs;
        let kind = match e.kind() {
            Theirs::NotFound => Kind::NotFound,
            Theirs::Conflict => Kind::Conflict,
            Theirs::Invalid => Kind::Invalid,
            Theirs::Unsupported => Kind::Unsupported,
            Theirs::Denied => Kind::Denied,
            Theirs::Unavailable => Kind::Unavailable,
            _ => Kind::Internal,
        };
        // Its sentence is whole, and becomes ours.
        Self::new(kind, e.to_string())
    }
}

impl From<kelson_network::Error> for Error {
    fn from(e: kelson_network::Error) -> Self {
        use kelson_network::Kind as Theirs;
        let kind = match e.kind() {
            Theirs::NotFound => Kind::NotFound,
            Theirs::Conflict => Kind::Conflict,
            Theirs::Invalid => Kind::Invalid,
            Theirs::Unsupported => Kind::Unsupported,
            Theirs::Denied => Kind::Denied,
            Theirs::Unavailable => Kind::Unavailable,
            Theirs::Internal => Kind::Internal,
        };
        Self::new(kind, e.to_string())
    }
}

/// Adds what was being done to a foreign error.
pub(crate) trait Doing<T> {
    /// Kind is `Internal`, but for I/O errors whose meaning is plain.
    fn doing<D: Into<Cow<'static, str>>>(self, doing: impl FnOnce() -> D) -> Result<T>;
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing<D: Into<Cow<'static, str>>>(self, doing: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|e| {
            let kind = match e.kind() {
                std::io::ErrorKind::PermissionDenied => Kind::Denied,
                std::io::ErrorKind::TimedOut => Kind::Unavailable,
                _ => Kind::Internal,
            };
            Error::with_source(kind, doing(), e)
        })
    }
}

impl<T> Doing<T> for std::result::Result<T, nix::errno::Errno> {
    fn doing<D: Into<Cow<'static, str>>>(self, doing: impl FnOnce() -> D) -> Result<T> {
        self.map_err(std::io::Error::from).doing(doing)
    }
}

impl<T> Doing<T> for serde_json::Result<T> {
    fn doing<D: Into<Cow<'static, str>>>(self, doing: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|e| Error::with_source(Kind::Internal, doing(), e))
    }
}

impl<T> Doing<T> for Result<T> {
    fn doing<D: Into<Cow<'static, str>>>(self, doing: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|e| e.wrap(doing()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_prints_each_link_of_the_chain_once() {
        let io = std::io::Error::new(std::io::ErrorKind::NotFound, "no such file");
        let e = Error::with_source(Kind::NotFound, "open x", io).wrap("create web1");
        assert_eq!(e.to_string(), "create web1: open x: no such file");
        assert_eq!(e.kind(), Kind::NotFound);
    }

    #[test]
    fn wrapping_keeps_the_exit_code() {
        assert_eq!(
            Error::invalid("x").exiting(127).wrap("start").exit_code(),
            Some(127)
        );
    }
}
