//! The error of this crate: a kind for programs, a sentence for people, a cause.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// What a caller may act upon. It is the `kind` of the JSON log line, and crosses from the container's first
/// process to the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The container, or a file it needs, is not there.
    NotFound,
    /// The id is taken, the container is in the wrong state, or a cgroup is in use.
    Conflict,
    /// config.json, process.json or an argument is wrong.
    Invalid,
    /// Neither this runtime nor this kernel can do it.
    Unsupported,
    /// The kernel refused for lack of privilege.
    Denied,
    /// `process.args[0]` is not in the container. Engines exit with 127.
    CommandNotFound,
    /// `process.args[0]` is there and cannot be executed. Engines exit with 126.
    CommandNotExecutable,
    /// A hook failed or ran out of time.
    Hook,
    /// Anything else.
    Internal,
}

impl Kind {
    /// The name in the log line.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Invalid => "invalid",
            Self::Unsupported => "unsupported",
            Self::Denied => "denied",
            Self::CommandNotFound => "command_not_found",
            Self::CommandNotExecutable => "command_not_executable",
            Self::Hook => "hook",
            Self::Internal => "internal",
        }
    }

    fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Denied,
            io::ErrorKind::Unsupported => Self::Unsupported,
            _ => Self::Internal,
        }
    }
}

/// A kind, what was being done, and why it did not work.
pub struct Error {
    kind: Kind,
    errno: Option<i32>,
    doing: Cow<'static, str>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Result with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error without a cause of its own.
    pub fn new(kind: Kind, doing: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            errno: None,
            doing: doing.into(),
            source: None,
        }
    }

    /// `Invalid`, with the JSON path of the field.
    pub fn field(path: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::new(Kind::Invalid, format!("{path}: {why}"))
    }

    /// The same error, its JSON path continued at the front.
    #[must_use]
    pub fn below(mut self, path: &str) -> Self {
        self.doing = format!("{path}.{}", self.doing).into();
        self
    }

    /// The same error, with what was being done in front.
    #[must_use]
    pub fn within(self, doing: impl Into<Cow<'static, str>>) -> Self {
        self.into_error(doing.into())
    }

    /// What a caller may act upon.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The errno at the bottom, if a system call failed.
    pub fn errno(&self) -> Option<i32> {
        self.errno
    }

    /// The same error as another kind.
    #[must_use]
    pub fn as_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// The same error with an errno that was carried some other way.
    #[must_use]
    pub fn with_errno(mut self, errno: Option<i32>) -> Self {
        self.errno = errno;
        self
    }

    /// The sentence and its causes, joined by `: `.
    pub fn chain(&self) -> String {
        let mut text = self.doing.to_string();
        let mut next = self.source();
        while let Some(cause) = next {
            text.push_str(": ");
            // The standard library appends "(os error N)", which says nothing more.
            match cause
                .downcast_ref::<io::Error>()
                .and_then(io::Error::raw_os_error)
            {
                Some(errno) => text.push_str(&describe(errno)),
                None => text.push_str(&cause.to_string()),
            }
            next = cause.source();
        }
        text
    }
}

fn describe(errno: i32) -> String {
    let errno = nix::errno::Errno::from_raw(errno);
    format!("{} ({errno:?})", errno.desc().to_lowercase())
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.chain())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.doing)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|e| &**e as &(dyn StdError + 'static))
    }
}

/// Errors that a sentence can be added to.
pub trait IntoError {
    /// Becomes the cause of an error that says what was being done.
    fn into_error(self, doing: Cow<'static, str>) -> Error;
}

impl IntoError for io::Error {
    fn into_error(self, doing: Cow<'static, str>) -> Error {
        Error {
            kind: Kind::of_io(&self),
            errno: self.raw_os_error(),
            doing,
            source: Some(Box::new(self)),
        }
    }
}

impl IntoError for nix::errno::Errno {
    fn into_error(self, doing: Cow<'static, str>) -> Error {
        io::Error::from(self).into_error(doing)
    }
}

impl IntoError for rustix::io::Errno {
    fn into_error(self, doing: Cow<'static, str>) -> Error {
        io::Error::from(self).into_error(doing)
    }
}

impl IntoError for Error {
    fn into_error(self, doing: Cow<'static, str>) -> Error {
        Error {
            kind: self.kind,
            errno: self.errno,
            doing,
            source: Some(Box::new(self)),
        }
    }
}

impl From<kelson_cgroups::Error> for Error {
    fn from(e: kelson_cgroups::Error) -> Self {
        use kelson_cgroups::Kind as Cg;
        let kind = match e.kind() {
            Cg::NotFound => Kind::NotFound,
            Cg::Conflict => Kind::Conflict,
            Cg::Invalid => Kind::Invalid,
            Cg::Unsupported => Kind::Unsupported,
            Cg::Denied => Kind::Denied,
            Cg::Internal => Kind::Internal,
        };
        let text = e.to_string();
        if text.starts_with("linux.") {
            // It begins with the JSON path, and so must the whole error.
            let source = e.errno().map(io::Error::from_raw_os_error);
            return Self {
                kind,
                errno: e.errno(),
                doing: text.into(),
                source: source.map(|e| e.into()),
            };
        }
        Self {
            kind,
            errno: e.errno(),
            doing: "cgroup".into(),
            source: Some(Box::new(e)),
        }
    }
}

/// Adds to an error what was being done.
pub trait Doing<T> {
    /// The sentence is built only for an error.
    ///
    /// # Errors
    /// The same failure, with the sentence in front.
    fn doing<D: Into<Cow<'static, str>>>(self, doing: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: IntoError> Doing<T> for std::result::Result<T, E> {
    fn doing<D: Into<Cow<'static, str>>>(self, doing: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|e| e.into_error(doing().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    #[test]
    fn kind_and_errno_survive_wrapping() {
        let inner: Result<()> = Err(Errno::ENOENT).doing(|| "open x");
        let outer = inner.doing(|| "create web").unwrap_err();
        assert_eq!(outer.kind(), Kind::NotFound);
        assert_eq!(outer.errno(), Some(2));
        assert_eq!(
            outer.chain(),
            "create web: open x: no such file or directory (ENOENT)"
        );
    }
}
