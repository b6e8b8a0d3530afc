//! What an engine of Docker's API does: asked by raw HTTP, judged by its answers, by its containers' programs and by the kernel.

mod archive;
mod attach;
mod configuration;
mod create;
mod events;
mod exec;
mod images;
mod lifecycle;
mod list;
mod logs;
mod network;
mod networks;
mod registry;
mod removal;
mod restart;
mod snapshots;
mod stats;
mod system;
mod volumes;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::case::Case;
use crate::engine::Answer;

/// All of them.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    all.extend(system::cases());
    all.extend(create::cases());
    all.extend(configuration::cases());
    all.extend(lifecycle::cases());
    all.extend(restart::cases());
    all.extend(removal::cases());
    all.extend(list::cases());
    all.extend(network::cases());
    all.extend(networks::cases());
    all.extend(volumes::cases());
    all.extend(exec::cases());
    all.extend(attach::cases());
    all.extend(logs::cases());
    all.extend(stats::cases());
    all.extend(events::cases());
    all.extend(archive::cases());
    all.extend(images::cases());
    all.extend(snapshots::cases());
    all.extend(registry::cases());
    all
}

/// That a request was refused with this status; the message.
fn refused(answer: Answer, status: u16) -> Result<String> {
    let body = answer.expect(status)?.json()?;
    let message = body["message"].as_str().context("an error without a message")?;
    ensure!(!message.is_empty(), "the error's message is empty");
    Ok(message.to_owned())
}

/// That a text is the one that is wanted.
fn says(seen: &str, wanted: &str) -> Result<()> {
    ensure!(seen == wanted, "it says {seen:?}, not {wanted:?}");
    Ok(())
}

/// That a text holds another.
fn contains(what: &str, seen: &str, wanted: &str) -> Result<()> {
    ensure!(seen.contains(wanted), "{what} is {seen:?}, without {wanted:?}");
    Ok(())
}

/// A field of each document.
fn field(documents: &[Value], name: &str) -> Vec<String> {
    documents
        .iter()
        .filter_map(|one| one[name].as_str())
        .map(str::to_owned)
        .collect()
}
