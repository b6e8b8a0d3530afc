//! The log: one line per message, as text or JSON; engines read their error text from it.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::error::{Doing, Error, Kind, Result};

const JOURNAL: &str = "/run/systemd/journal/socket";
const SYSLOG: &str = "/dev/log";

/// How much a message matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// Stages, for who looks for a fault.
    Debug,
    /// Nothing is written at this level yet; runc's default.
    Info,
    /// Something asked for was left out.
    #[default]
    Warning,
    /// The command failed.
    Error,
}

impl Level {
    /// By its name, or one that logrus has for it.
    pub fn parse(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "debug" | "trace" => Some(Self::Debug),
            "info" => Some(Self::Info),
            "warning" | "warn" => Some(Self::Warning),
            "error" | "fatal" | "panic" => Some(Self::Error),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }

    /// syslog's severity.
    fn severity(self) -> u8 {
        match self {
            Self::Debug => 7,
            Self::Info => 6,
            Self::Warning => 4,
            Self::Error => 3,
        }
    }
}

/// Where messages go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Target {
    /// Standard error alone.
    #[default]
    Stderr,
    /// A file, appended to.
    File(PathBuf),
    /// systemd's journal, under this identifier.
    Journald(String),
    /// syslog, under this identifier.
    Syslog(String),
}

impl Target {
    /// The value of `--log`: a path, or one of crun's forms `file:PATH`, `journald:IDENT`, `syslog:IDENT`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(value: &OsStr) -> std::result::Result<Self, String> {
        let bytes = value.as_bytes();
        let ident = |rest: &[u8]| match std::str::from_utf8(rest) {
            Ok(ident) if !ident.is_empty() && ident.bytes().all(|b| b.is_ascii_graphic()) => {
                Ok(ident.to_owned())
            }
            _ => Err(format!(
                "{}: an identifier is printable and not empty",
                value.display()
            )),
        };
        if let Some(rest) = bytes.strip_prefix(b"journald:") {
            return ident(rest).map(Self::Journald);
        }
        if let Some(rest) = bytes.strip_prefix(b"syslog:") {
            return ident(rest).map(Self::Syslog);
        }
        let path = bytes.strip_prefix(b"file:").unwrap_or(bytes);
        if path.is_empty() {
            return Ok(Self::Stderr);
        }
        Ok(Self::File(PathBuf::from(OsString::from(OsStr::from_bytes(path)))))
    }
}

/// `--log`, `--log-format` and `--log-level`.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// Where messages go.
    pub target: Target,
    /// JSON lines instead of text.
    pub json: bool,
    /// What is below it is left out.
    pub level: Level,
}

#[derive(Serialize)]
struct Line<'a> {
    level: &'a str,
    msg: &'a str,
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno: Option<i32>,
}

impl Log {
    /// Makes the file if it is named and missing, so that an unusable path is found before any work.
    ///
    /// # Errors
    /// What opening reported.
    pub fn open(&self) -> Result<()> {
        match &self.target {
            Target::File(path) => append(path, b""),
            _ => Ok(()),
        }
    }

    /// Writes the error that ends the command, with its kind and errno; people see its text on standard error as well.
    /// Where that is all there is, it is marked as an error, for those who look for the word; but not what a program
    /// said that did not start, which stands as it would in a shell.
    pub fn fatal(&self, text: &str, error: &Error) {
        if self.target == Target::Stderr && !self.json {
            return match error.kind() {
                Kind::CommandNotFound | Kind::CommandNotExecutable => stderr(text),
                _ => stderr(&format!("error: {text}")),
            };
        }
        self.write(Level::Error, text, Some((error.kind().name(), error.errno())));
        if self.target != Target::Stderr {
            stderr(text);
        }
    }

    /// Writes one warning.
    pub fn warn(&self, text: &str) {
        if self.target == Target::Stderr && !self.json && self.level <= Level::Warning {
            return stderr(&format!("warning: {text}"));
        }
        self.write(Level::Warning, text, None);
    }

    /// Whether [`Log::debug`] writes anything.
    pub fn is_debug(&self) -> bool {
        self.level == Level::Debug
    }

    /// Writes a stage that was reached; the text is built only when it is wanted.
    pub fn debug<T: AsRef<str>>(&self, text: impl FnOnce() -> T) {
        if self.is_debug() {
            self.write(Level::Debug, text().as_ref(), None);
        }
    }

    fn write(&self, level: Level, text: &str, error: Option<(&'static str, Option<i32>)>) {
        if level < self.level {
            return;
        }
        let line = self.line(level, text, error);
        // There is nowhere left to report that the log cannot be written; standard error has what ends a command.
        let _ = match &self.target {
            Target::Stderr => {
                stderr(line.trim_end_matches('\n'));
                Ok(())
            }
            Target::File(path) => append(path, line.as_bytes()),
            Target::Journald(ident) => send(Path::new(JOURNAL), &journal_entry(ident, level, text)),
            Target::Syslog(ident) => send(Path::new(SYSLOG), &syslog_entry(ident, level, text)),
        };
    }

    fn line(&self, level: Level, text: &str, error: Option<(&'static str, Option<i32>)>) -> String {
        let line = Line {
            level: level.name(),
            msg: text,
            time: rfc3339(SystemTime::now()),
            kind: error.map(|e| e.0),
            errno: error.and_then(|e| e.1),
        };
        if self.json {
            serde_json::to_string(&line).unwrap_or_default() + "\n"
        } else {
            format!("time={:?} level={} msg={:?}\n", line.time, line.level, line.msg)
        }
    }
}

fn append(path: &Path, bytes: &[u8]) -> Result<()> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut f| f.write_all(bytes))
        .doing(|| format!("write log {}", path.display()))
}

/// One datagram; a receiver that is busy or not there loses it rather than hold us up.
fn send(socket: &Path, bytes: &[u8]) -> Result<()> {
    let doing = || format!("write log to {}", socket.display());
    let from = UnixDatagram::unbound().doing(doing)?;
    from.set_nonblocking(true).doing(doing)?;
    from.send_to(bytes, socket).map(drop).doing(doing)
}

/// The journal's native protocol: a value with a newline is preceded by its length (little endian, 64 bits).
fn journal_entry(ident: &str, level: Level, text: &str) -> Vec<u8> {
    let mut out = format!("PRIORITY={}\nSYSLOG_IDENTIFIER={ident}\n", level.severity()).into_bytes();
    out.extend(b"MESSAGE\n");
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
    out.push(b'\n');
    out
}

/// RFC 3164 as the local socket takes it: facility "daemon", no time, no host.
fn syslog_entry(ident: &str, level: Level, text: &str) -> Vec<u8> {
    const DAEMON: u8 = 3;
    let priority = DAEMON << 3 | level.severity();
    let line = text.replace('\n', " ");
    format!("<{priority}>{ident}[{}]: {line}", std::process::id()).into_bytes()
}

/// Writes one line to standard error, ignoring that it may be closed.
pub fn stderr(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Nanosecond RFC 3339 in UTC. Days are turned into a date by counting from 0000-03-01, so that a leap day is
/// the last of its year.
pub fn rfc3339(t: SystemTime) -> String {
    let since = t.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (secs, nanos) = (since.as_secs(), since.subsec_nanos());
    let (days, second) = (secs / 86_400, secs % 86_400);
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{nanos:09}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_around_leap_days() {
        let at = |s| rfc3339(UNIX_EPOCH + Duration::new(s, 7));
        assert_eq!(at(0), "1970-01-01T00:00:00.000000007Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000000007Z");
        assert_eq!(at(1_709_251_199), "2024-02-29T23:59:59.000000007Z");
        assert_eq!(at(1_709_251_200), "2024-03-01T00:00:00.000000007Z");
    }

    #[test]
    fn targets() {
        let parse = |v: &str| Target::parse(OsStr::new(v));
        assert_eq!(parse("/a:b"), Ok(Target::File("/a:b".into())));
        assert_eq!(parse("file:/a"), Ok(Target::File("/a".into())));
        assert_eq!(parse("journald:web"), Ok(Target::Journald("web".into())));
        assert_eq!(parse("syslog:web"), Ok(Target::Syslog("web".into())));
        assert_eq!(parse(""), Ok(Target::Stderr));
        for bad in ["journald:", "syslog:", "syslog:a b", "journald:a\nPRIORITY=0"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn entries_cannot_be_forged_by_their_text() {
        let entry = journal_entry("web", Level::Error, "a\nPRIORITY=7");
        assert_eq!(
            entry,
            b"PRIORITY=3\nSYSLOG_IDENTIFIER=web\nMESSAGE\n\x0c\0\0\0\0\0\0\0a\nPRIORITY=7\n"
        );
        let entry = String::from_utf8(syslog_entry("web", Level::Warning, "a\nb")).unwrap();
        assert_eq!(entry, format!("<28>web[{}]: a b", std::process::id()));
    }

    #[test]
    fn a_datagram_arrives_and_a_missing_receiver_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        assert!(send(&path, b"x").is_err());
        let receiver = UnixDatagram::bind(&path).unwrap();
        send(&path, b"hello").unwrap();
        let mut buffer = [0u8; 16];
        assert_eq!(receiver.recv(&mut buffer).unwrap(), 5);
        assert_eq!(&buffer[..5], b"hello");
    }

    #[test]
    fn levels_leave_out_what_is_below() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = |level| Log {
            target: Target::File(path.clone()),
            json: true,
            level,
        };
        log(Level::Error).warn("unseen");
        log(Level::Warning).debug(|| "unseen");
        log(Level::Debug).debug(|| "seen");
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 1);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&line["level"], &line["msg"]), (&"debug".into(), &"seen".into()));
    }
}
