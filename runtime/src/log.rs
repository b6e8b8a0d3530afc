//! runc's log file: one line per message, as text or JSON; engines read their error text from it.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::error::{Doing, Error, Result};

/// `--log` and `--log-format`.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// The file; messages also go to standard error.
    pub file: Option<OsString>,
    /// JSON lines instead of text.
    pub json: bool,
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
        self.append(b"")
    }

    /// Writes one error, with its kind and errno.
    pub fn error(&self, text: &str, error: Option<&Error>) {
        let line = Line {
            level: "error",
            msg: text,
            time: rfc3339(SystemTime::now()),
            kind: error.map(|e| e.kind().name()),
            errno: error.and_then(Error::errno),
        };
        self.line(&line);
    }

    /// Writes one warning to the file, or to standard error where there is none.
    pub fn warn(&self, text: &str) {
        self.line(&Line {
            level: "warning",
            msg: text,
            time: rfc3339(SystemTime::now()),
            kind: None,
            errno: None,
        });
        if self.file.is_none() {
            stderr(&format!("warning: {text}"));
        }
    }

    fn line(&self, line: &Line<'_>) {
        if self.file.is_none() {
            return;
        }
        let mut out = if self.json {
            serde_json::to_vec(line).unwrap_or_default()
        } else {
            format!("time={:?} level={} msg={:?}", line.time, line.level, line.msg).into_bytes()
        };
        out.push(b'\n');
        // There is nowhere left to report that the log cannot be written; standard error has the message.
        let _ = self.append(&out);
    }

    fn append(&self, bytes: &[u8]) -> Result<()> {
        let Some(path) = &self.file else { return Ok(()) };
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .and_then(|mut f| f.write_all(bytes))
            .doing(|| format!("write log {}", path.display()))
    }
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
}
