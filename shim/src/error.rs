//! The one error of the shim, and its place in ttrpc's codes.
use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

use kelson_shim_proto::error::{self as wire, Code, Detail};

/// What a caller may act upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No such container, process, program or file.
    NotFound,
    /// The id is taken.
    AlreadyExists,
    /// The request makes no sense.
    Invalid,
    /// The request makes sense, but not in this state.
    Precondition,
    /// Permission is lacking.
    Denied,
    /// Not offered.
    Unsupported,
    /// It took too long.
    Deadline,
    /// Anything else.
    Internal,
}

/// A kind, what was being done, and the cause.
#[derive(Debug)]
pub struct Error {
    /// What a caller may act upon.
    pub kind: Kind,
    doing: Cow<'static, str>,
    detail: Option<Detail>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Result with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error without a deeper cause.
    pub fn new(kind: Kind, doing: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            doing: doing.into(),
            detail: None,
            source: None,
        }
    }

    /// Adds the detail that crosses the border.
    pub fn with_detail(mut self, detail: Detail) -> Self {
        self.detail = Some(detail);
        self
    }

    /// The ttrpc answer.
    pub fn to_ttrpc(&self) -> ttrpc::Error {
        let code = match self.kind {
            Kind::NotFound => Code::NOT_FOUND,
            Kind::AlreadyExists => Code::ALREADY_EXISTS,
            Kind::Invalid => Code::INVALID_ARGUMENT,
            Kind::Precondition => Code::FAILED_PRECONDITION,
            Kind::Denied => Code::PERMISSION_DENIED,
            Kind::Unsupported => Code::UNIMPLEMENTED,
            Kind::Deadline => Code::DEADLINE_EXCEEDED,
            Kind::Internal => Code::INTERNAL,
        };
        wire::encode(code, self.to_string(), self.detail.as_ref())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.doing)?;
        let mut cause = self.source.as_deref().map(|source| source as &dyn StdError);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {}

/// Adds what was being done to somebody else's error.
pub trait Doing<T> {
    /// Names the operation and its object.
    fn doing(self, text: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, text: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| {
            let error = error.into();
            let kind = match error.kind() {
                std::io::ErrorKind::NotFound => Kind::NotFound,
                std::io::ErrorKind::PermissionDenied => Kind::Denied,
                std::io::ErrorKind::TimedOut => Kind::Deadline,
                _ => Kind::Internal,
            };
            Error {
                kind,
                doing: text().into(),
                detail: None,
                source: Some(error.into()),
            }
        })
    }
}

/// Locks a mutex whose holder cannot have panicked halfway: the static build aborts on panic, and no critical
/// section here calls foreign code.
pub fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
