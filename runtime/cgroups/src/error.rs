//! The error of this crate.

use std::borrow::Cow;
use std::fmt;
use std::io;

/// What a caller may act upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory or file is not there.
    NotFound,
    /// The cgroup is in use by others, or could not be emptied in time.
    Conflict,
    /// A limit or path that no kernel would accept.
    Invalid,
    /// This kernel or layout lacks the controller or file.
    Unsupported,
    /// The kernel refused for lack of privilege.
    Denied,
    /// Anything else the kernel reported.
    Internal,
}

/// A kind, what was being done, and the kernel's reason.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    doing: Cow<'static, str>,
    source: Option<io::Error>,
}

/// Result with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(kind: Kind, doing: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            doing: doing.into(),
            source: None,
        }
    }

    pub(crate) fn io(source: io::Error, doing: impl Into<Cow<'static, str>>) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::NotFound => Kind::NotFound,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Kind::Denied,
            io::ErrorKind::InvalidInput => Kind::Invalid,
            io::ErrorKind::ResourceBusy => Kind::Conflict,
            _ => Kind::Internal,
        };
        Self {
            kind,
            doing: doing.into(),
            source: Some(source),
        }
    }

    /// What a caller may act upon.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The errno behind it, if a system call failed.
    pub fn errno(&self) -> Option<i32> {
        self.source.as_ref().and_then(io::Error::raw_os_error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.doing)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e as _)
    }
}
