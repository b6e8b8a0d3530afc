//! What a pull, load or import tells the user while it runs: docker's states, line by line.

/// One line of progress. `id` and `status` together identify a bar; a line without id is printed as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Layer (12 hex digits of its digest), or the tag in the first line; none for `Digest:` and `Status:` lines.
    pub id: Option<String>,
    /// Docker's wording, e.g. "Downloading" or "Status: Image is up to date for x:latest".
    pub status: String,
    /// Bytes done, where it makes sense.
    pub current: Option<u64>,
    /// Bytes in all, where known.
    pub total: Option<u64>,
}

impl Progress {
    pub(crate) fn line(status: impl Into<String>) -> Self {
        Self {
            id: None,
            status: status.into(),
            current: None,
            total: None,
        }
    }

    pub(crate) fn of(id: impl Into<String>, status: impl Into<String>) -> Self {
        Self {
            id: Some(id.into()),
            status: status.into(),
            current: None,
            total: None,
        }
    }

    pub(crate) fn bytes(id: impl Into<String>, status: impl Into<String>, current: u64, total: u64) -> Self {
        Self {
            id: Some(id.into()),
            status: status.into(),
            current: Some(current),
            total: Some(total),
        }
    }
}
