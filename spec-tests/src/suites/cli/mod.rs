//! What engines rely on beyond the specification: runc's command line, as containerd, Docker, Podman and CRI-O call it.
//!
//! What a case rests on is no clause but a reliance: who calls it so.

mod commands;
mod exec;
mod invocation;
mod systemd;

use crate::case::Case;
use crate::lab::{Lab, Ran};

/// All of them.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut all = invocation::cases();
    all.extend(exec::cases());
    all.extend(commands::cases());
    all.extend(systemd::cases());
    all
}

/// Whether a command is known at all: some runtimes leave some out.
fn has(lab: &Lab, command: &str) -> anyhow::Result<bool> {
    let help = lab.call(&[command, "--help"])?;
    Ok(help.succeeded())
}

/// Standard output as JSON.
fn json_of(ran: &Ran) -> anyhow::Result<serde_json::Value> {
    use anyhow::Context;
    serde_json::from_str(&ran.stdout).with_context(|| format!("{} says no JSON: {:?}", ran.line, ran.stdout))
}
