//! What a command can fail with, and the exit code each failure means.
//!
//! Commands return `anyhow::Result<u8>`; the two shapes here are the ones something looks for on
//! the way up: [`Failure`] carries text that is shown as it is together with its exit code, and
//! [`Refused`] is an error answer of the engine, whose HTTP status and kind decide what happens next.

use std::fmt;

/// The engine itself failed, or the command line did not parse (docker's code for both).
pub const ENGINE: u8 = 125;
/// The container's command cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// The container's command was not found.
pub const NOT_FOUND: u8 = 127;

/// Text for the user, shown as it is, and the exit code that goes with it.
#[derive(Debug)]
pub struct Failure {
    /// Printed on stderr; nothing is printed when it is empty.
    pub text: String,
    /// Exit code of the process.
    pub code: u8,
}

impl Failure {
    /// A failure as an `anyhow` error.
    pub fn error(text: impl Into<String>, code: u8) -> anyhow::Error {
        Failure {
            text: text.into(),
            code,
        }
        .into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

/// An answer of the engine with a status of 400 or more.
#[derive(Debug)]
pub struct Refused {
    /// HTTP status.
    pub status: u16,
    /// `message` of the body.
    pub message: String,
    /// `kind` of the body (`command_not_found`, ...), empty where our engine names none; `None` for an
    /// engine that may not know of kinds.
    pub kind: Option<String>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error response from daemon: {}", self.message)
    }
}

impl std::error::Error for Refused {}

/// The HTTP status behind an error, if the engine gave one.
pub fn status_of(error: &anyhow::Error) -> Option<u16> {
    error.downcast_ref::<Refused>().map(|refused| refused.status)
}

/// The exit code of `run` and `start` for an error of the engine.
///
/// The engine's `kind` decides where it is present. Without one (docker's own engine) there is only
/// the text, in the three forms runc has used.
pub fn start_code(error: &anyhow::Error) -> u8 {
    let Some(refused) = error.downcast_ref::<Refused>() else {
        return ENGINE;
    };
    match refused.kind.as_deref() {
        Some("command_not_found") => return NOT_FOUND,
        Some("command_not_executable") => return NOT_EXECUTABLE,
        Some(_) => return ENGINE,
        None => {}
    }
    let text = &refused.message;
    let has = |part: &str| text.contains(part);
    if has("executable file not found")
        || has("no such file or directory")
        || has("system cannot find the file")
    {
        NOT_FOUND
    } else if has("permission denied") || has("is a directory") {
        NOT_EXECUTABLE
    } else {
        ENGINE
    }
}

/// `open PATH: why`, with Go's words for the usual reasons.
pub fn open_failed(path: &str, error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => format!("open {path}: no such file or directory"),
        std::io::ErrorKind::PermissionDenied => format!("open {path}: permission denied"),
        _ => format!("open {path}: {error}"),
    }
}

/// Collects the errors of a command over several objects: each is shown, the command fails with 1.
#[derive(Debug, Default)]
pub struct Collected(Vec<String>);

impl Collected {
    /// Remembers an error.
    pub fn add(&mut self, error: &anyhow::Error) {
        self.0.push(format!("{error:#}"));
    }

    /// Success when nothing was collected.
    pub fn finish(self) -> anyhow::Result<u8> {
        if self.0.is_empty() {
            Ok(0)
        } else {
            Err(Failure::error(self.0.join("\n"), 1))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(message: &str, kind: Option<&str>) -> anyhow::Error {
        Refused {
            status: 400,
            message: message.into(),
            kind: kind.map(Into::into),
        }
        .into()
    }

    #[test]
    fn kind_decides_before_text() {
        assert_eq!(
            start_code(&refused("x: permission denied", Some("command_not_found"))),
            127
        );
        assert_eq!(
            start_code(&refused("whatever", Some("command_not_executable"))),
            126
        );
        assert_eq!(
            start_code(&refused("mount x: no such file or directory", Some(""))),
            125
        );
    }

    #[test]
    fn text_decides_without_kind() {
        assert_eq!(
            start_code(&refused(
                "exec: \"x\": executable file not found in $PATH: unknown",
                None
            )),
            127
        );
        assert_eq!(
            start_code(&refused(
                "exec: \"/etc/passwd\": permission denied: unknown",
                None
            )),
            126
        );
        assert_eq!(start_code(&refused("port is already allocated", None)), 125);
    }
}
