//! The crate's error: what kind it is, what was being done, and the cause.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What a caller can decide by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The text does not follow its grammar.
    Invalid,
    /// A file, key or helper program is not there.
    NotFound,
    /// The operating system or a helper program refused.
    Unavailable,
}

/// A failed parse, or a failed access to the credentials file.
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

    pub(crate) fn invalid(doing: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Invalid, doing)
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
