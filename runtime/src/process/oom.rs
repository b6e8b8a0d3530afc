//! `process.oomScoreAdj`.

use std::fmt::Display;
use std::fs;

use crate::error::{Doing, Result};

/// Sets it for a process, a number or `self`, through the host's /proc; absent, it is left alone.
///
/// # Errors
/// `EACCES` when it is below the present one and the caller lacks `CAP_SYS_RESOURCE`.
pub fn adjust(process: impl Display, score: Option<i32>) -> Result<()> {
    let Some(score) = score else { return Ok(()) };
    fs::write(format!("/proc/{process}/oom_score_adj"), score.to_string())
        .doing(|| format!("process.oomScoreAdj: set {score}"))
}
