//! The exit record: what is known of a container's end when nobody was there to ask.
//!
//! Written by the shim, atomically and synced, after the last byte of output and before `Wait` answers.
use serde::{Deserialize, Serialize};

/// How a container's first process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// [`crate::FORMAT`].
    pub format: u32,
    /// The container's id.
    pub id: String,
    /// The first process, in the host's pid namespace; 0 if none was ever made.
    pub pid: u32,
    /// Exit status; 128 + N when ended by signal N; 255 when it is not known.
    pub status: u32,
    /// The signal that ended it.
    pub signal: Option<u32>,
    /// Whether the kernel's out-of-memory killer ended a process of the container.
    pub oom_killed: bool,
    /// RFC 3339 with nanoseconds, UTC: when `Start` let it run; `null` if it never ran its command.
    #[serde(default)]
    pub started_at: Option<String>,
    /// RFC 3339 with nanoseconds, UTC: when the process was reaped, not when the record was written.
    pub exited_at: String,
    /// What went wrong in the shim itself, for a human; `null` in every ordinary end.
    pub error: Option<String>,
}

impl ExitRecord {
    /// Reads a record file's content.
    ///
    /// # Errors
    /// Text that is not a record, or one of another `format`.
    pub fn decode(json: &[u8]) -> Result<Self, String> {
        let record: Self = serde_json::from_slice(json).map_err(|e| format!("exit record: {e}"))?;
        if record.format != crate::FORMAT {
            return Err(format!(
                "exit record of format {}, known is {}",
                record.format,
                crate::FORMAT
            ));
        }
        Ok(record)
    }

    /// The record file's content, with a newline at its end.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = serde_json::to_vec(self).unwrap_or_default();
        out.push(b'\n');
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let record = ExitRecord {
            format: 1,
            id: "c".into(),
            pid: 7,
            status: 137,
            signal: Some(9),
            oom_killed: true,
            started_at: Some("2026-11-21T03:00:00Z".into()),
            exited_at: "2026-11-21T04:00:00.5Z".into(),
            error: None,
        };
        let text = record.encode();
        assert!(text.ends_with(b"\"error\":null}\n"));
        assert_eq!(ExitRecord::decode(&text).unwrap(), record);
        assert!(ExitRecord::decode(b"{}").is_err());
    }
}
