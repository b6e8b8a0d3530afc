//! `process`.

use super::super::model::Process;
use crate::error::{Error, Result};
use crate::process::{affinity, scheduler};

/// Checks a process: `at` is `process`, or empty for a file of its own.
///
/// # Errors
/// `Invalid` for the first rule that does not hold.
pub fn process(p: &Process, at: &str) -> Result<()> {
    let field = |name: &str| {
        if at.is_empty() {
            name.to_owned()
        } else {
            format!("{at}.{name}")
        }
    };
    if p.args.is_empty() || p.args[0].is_empty() {
        return Err(Error::field(field("args"), "must name a program"));
    }
    if !p.cwd.starts_with('/') {
        let why = if p.cwd.is_empty() {
            "is required".to_owned()
        } else {
            format!("{:?} is not absolute", p.cwd)
        };
        return Err(Error::field(field("cwd"), why));
    }
    for (name, list) in [("args", &p.args), ("env", &p.env)] {
        if let Some(i) = list.iter().position(|s| s.contains('\0')) {
            return Err(Error::field(format!("{}[{i}]", field(name)), "holds a NUL byte"));
        }
    }
    if p.cwd.contains('\0') {
        return Err(Error::field(field("cwd"), "holds a NUL byte"));
    }
    if let Some(mask) = p.user.umask.filter(|m| *m > 0o777) {
        let why = format!("{mask} ({mask:#o}) is above 511 (0o777)");
        return Err(Error::field(field("user.umask"), why));
    }
    for (i, limit) in p.rlimits.iter().enumerate() {
        if limit.soft() > limit.hard() {
            let why = format!("soft {} is above hard {}", limit.soft(), limit.hard());
            return Err(Error::field(format!("{}[{i}]", field("rlimits")), why));
        }
        if p.rlimits[..i].iter().any(|other| other.typ() == limit.typ()) {
            return Err(Error::field(
                format!("{}[{i}]", field("rlimits")),
                "the same type twice",
            ));
        }
    }
    if let Some(adj) = p.oom_score_adj
        && !(-1000..=1000).contains(&adj)
    {
        return Err(Error::field(
            field("oomScoreAdj"),
            format!("{adj} is not between -1000 and 1000"),
        ));
    }
    if let Some(s) = &p.scheduler {
        scheduler::decide(s, &field("scheduler"))?;
    }
    if let Some(io) = &p.io_priority {
        scheduler::io_priority(io, &field("ioPriority"))?;
    }
    if let Some(a) = &p.exec_cpu_affinity {
        affinity::decide(Some(a), &field("execCPUAffinity"))?;
    }
    Ok(())
}
