//! `process.oomScoreAdj`.

use std::fmt::Display;
use std::fs;
use std::io;

use rustix::process::{DumpableBehavior, geteuid, set_dumpable_behavior};

use crate::error::{Doing, Result};
use crate::fault;

/// Sets it for a process, a number or `self`, through the host's /proc; absent, it is left alone.
///
/// # Errors
/// `EACCES` when it is below the present one and the caller lacks `CAP_SYS_RESOURCE`.
pub fn adjust(process: impl Display, score: Option<i32>) -> Result<()> {
    let Some(score) = score.filter(|_| !fault::is_planted("oom-score-adj")) else {
        return Ok(());
    };
    let path = format!("/proc/{process}/oom_score_adj");
    match fs::write(&path, score.to_string()) {
        // Engines of unprivileged users ask for what there is, which needs no right.
        Err(e)
            if e.kind() == io::ErrorKind::PermissionDenied
                && fs::read_to_string(&path).is_ok_and(|now| now.trim() == score.to_string()) =>
        {
            Ok(())
        }
        other => other.doing(|| format!("process.oomScoreAdj: set {score}")),
    }
}

/// The same for this process, which is undumpable: its file is root's then, and an unprivileged runtime must be dumpable
/// for a moment to write it. To be called before any namespace of a container is entered.
///
/// # Errors
/// As [`adjust`], and the errno of prctl.
pub fn adjust_own(score: Option<i32>) -> Result<()> {
    if score.is_none() || geteuid().is_root() {
        return adjust("self", score);
    }
    let doing = || "process.oomScoreAdj: gain access to it";
    set_dumpable_behavior(DumpableBehavior::Dumpable).doing(doing)?;
    let done = adjust("self", score);
    set_dumpable_behavior(DumpableBehavior::NotDumpable).doing(doing)?;
    done
}
