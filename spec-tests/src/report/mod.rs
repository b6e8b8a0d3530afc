//! What a run says: for eyes, for CI systems, and for later comparison.

pub mod compare;
pub mod formats;
pub mod totals;

use serde::{Deserialize, Serialize};

use crate::case::Record;
use crate::runner::Run;

/// A run as it is written with `--format json`, and read by `report`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Of this document; a reader refuses a newer one.
    pub format: u32,
    /// Path of the program, or address of the engine, that was judged.
    pub runtime: String,
    /// What it says of its version.
    pub version: String,
    /// The newest specification it claims to follow.
    pub claims: Option<String>,
    /// Of the judged machine: kernel and cgroups.
    pub machine: String,
    /// What the reader should know.
    pub notes: Vec<String>,
    /// Wall time in milliseconds.
    pub milliseconds: u64,
    /// One for each case.
    pub cases: Vec<Record>,
}

/// The format that this program writes.
pub const FORMAT: u32 = 2;

impl Report {
    /// Of a run.
    #[must_use]
    pub fn of(run: &Run) -> Self {
        Self {
            format: FORMAT,
            runtime: run.subject.clone(),
            version: run.version.clone(),
            claims: run.claims.map(|version| version.to_string()),
            machine: machine(),
            notes: run.notes.clone(),
            milliseconds: u64::try_from(run.wall.as_millis()).unwrap_or(u64::MAX),
            cases: run.records.clone(),
        }
    }
}

pub(crate) fn machine() -> String {
    use crate::cgroup::{Version, hierarchies};
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let all = hierarchies().unwrap_or_default();
    let has = |version| all.iter().any(|hierarchy| hierarchy.version == version);
    let cgroups = match (has(Version::V1), has(Version::V2)) {
        (true, true) => "cgroup v1 and v2",
        (true, false) => "cgroup v1",
        (false, true) => "cgroup v2",
        (false, false) => "no cgroups",
    };
    format!("Linux {}, {cgroups}, {}", kernel.trim(), std::env::consts::ARCH)
}
