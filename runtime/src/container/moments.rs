//! The hooks that run in the runtime's namespaces, each with the state of its moment. The other two run in the
//! container's first process (`init/child.rs`).

use nix::unistd::Pid;

use super::launch::Plan;
use super::state::{Record, Status};
use crate::error::Result;
use crate::hooks;
use crate::log::Log;

/// prestart and createRuntime. Gives the state for those that run inside.
///
/// # Errors
/// The first hook that fails.
#[allow(deprecated)] // prestart is deprecated in the specification, and still what most hooks use
pub(super) fn early(plan: &Plan, record: &Record, pid: Pid) -> Result<String> {
    let mut record = record.clone();
    record.pid = pid.as_raw();
    // "created" from step 3 of the lifecycle on, which is theirs (runtime-spec, runtime.md, state).
    let state = record.oci_state(Status::Created);
    if let Some(h) = &plan.config.hooks {
        hooks::run_all("prestart", h.prestart().as_ref(), &state)?;
        hooks::run_all("createRuntime", h.create_runtime().as_ref(), &state)?;
    }
    Ok(String::from_utf8_lossy(&state).into_owned())
}

/// poststart, once the program runs.
///
/// # Errors
/// The first hook that fails; the container is to be stopped then (runtime.md, lifecycle step 9).
pub(super) fn poststart(record: &Record) -> Result<()> {
    match record.hooks.as_ref().and_then(|h| h.poststart().as_ref()) {
        Some(list) => hooks::run_all("poststart", Some(list), &record.oci_state(Status::Running)),
        None => Ok(()),
    }
}

/// poststop, once the container is gone. Each runs, whatever became of those before it; one that fails is a warning
/// (runtime.md, lifecycle step 13).
pub(super) fn poststop(record: &Record, log: &Log) {
    let Some(list) = record.hooks.as_ref().and_then(|h| h.poststop().as_ref()) else {
        return;
    };
    let state = record.oci_state(Status::Stopped);
    for (i, hook) in list.iter().enumerate() {
        if let Err(e) = hooks::run_one("poststop", i, hook, &state, &[]) {
            log.warn(&e.chain());
        }
    }
}
