//! What can go wrong here, as a kind the engine matches and a sentence the user reads.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

/// What a failure means to the caller. The engine maps it to an HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The named thing does not exist.
    NotFound,
    /// The address, port or name is taken.
    Conflict,
    /// The request itself is wrong.
    Invalid,
    /// This host or this version cannot do it.
    Unsupported,
    /// The kernel refused for lack of privilege.
    Denied,
    /// A limit is reached (no free address), or a deadline passed.
    Unavailable,
    /// Anything else.
    Internal,
}

/// The crate's error: kind, what was being done, and the cause.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    doing: Cow<'static, str>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Shorthand for this crate's results.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error without a deeper cause.
    pub fn new(kind: Kind, doing: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            doing: doing.into(),
            source: None,
        }
    }

    pub(crate) fn because(
        kind: Kind,
        doing: impl Into<Cow<'static, str>>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self {
            kind,
            doing: doing.into(),
            source: Some(source.into()),
        }
    }

    /// An operating system error; the kind follows from the errno.
    pub(crate) fn os(doing: impl Into<Cow<'static, str>>, source: std::io::Error) -> Self {
        Self {
            kind: kind_of(&source),
            doing: doing.into(),
            source: Some(Box::new(source)),
        }
    }

    /// What the failure means.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The errno at the bottom of the chain, if the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        let mut at: Option<&(dyn StdError + 'static)> = self.source();
        while let Some(e) = at {
            if let Some(io) = e.downcast_ref::<std::io::Error>() {
                return io.raw_os_error();
            }
            at = e.source();
        }
        None
    }

    /// Says what was being done on which object, keeping the kind.
    pub(crate) fn doing(self, doing: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind: self.kind,
            doing: doing.into(),
            source: Some(Box::new(self)),
        }
    }

    /// One error for several failures of a teardown, `None` when there was none. The kind is the first one's.
    pub(crate) fn collect(doing: impl Into<Cow<'static, str>>, errors: Vec<Error>) -> Option<Self> {
        let kind = errors.first()?.kind;
        let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Some(Self::because(kind, doing, all.join("; ")))
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
        self.source.as_deref().map(|s| s as &(dyn StdError + 'static))
    }
}

fn kind_of(e: &std::io::Error) -> Kind {
    use std::io::ErrorKind;
    match e.kind() {
        ErrorKind::NotFound => Kind::NotFound,
        ErrorKind::AlreadyExists | ErrorKind::AddrInUse => Kind::Conflict,
        ErrorKind::PermissionDenied => Kind::Denied,
        ErrorKind::AddrNotAvailable | ErrorKind::InvalidInput => Kind::Invalid,
        ErrorKind::Unsupported => Kind::Unsupported,
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Kind::Unavailable,
        _ => Kind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_keeps_kind_and_errno() {
        let e = Error::os("bind", std::io::Error::from_raw_os_error(98)).doing("publish 80/tcp");
        assert_eq!(e.kind(), Kind::Conflict);
        assert_eq!(e.errno(), Some(98));
        assert!(
            e.to_string()
                .starts_with("publish 80/tcp: bind: Address already in use")
        );
    }

    #[test]
    fn no_errors_collect_to_none() {
        assert!(Error::collect("disconnect", vec![]).is_none());
        let both = Error::collect(
            "disconnect abc",
            vec![
                Error::new(Kind::Denied, "delete link"),
                Error::new(Kind::Internal, "delete rule"),
            ],
        );
        assert_eq!(
            both.map(|e| e.to_string()).as_deref(),
            Some("disconnect abc: delete link; delete rule")
        );
    }
}
