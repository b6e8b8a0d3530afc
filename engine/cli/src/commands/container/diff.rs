//! `diff`.

use serde::Deserialize;

use super::path;
use crate::argv::{Arity, Command, Parsed};
use crate::error::Failure;
use crate::output;
use crate::session::Session;

/// `kelson diff`.
pub static COMMAND: Command = Command {
    names: &["container diff", "diff"],
    usage: "CONTAINER",
    about: "Inspect changes to files or directories on a container's filesystem",
    flags: &[],
    arity: Arity::Exactly(1),
    first_argument_ends_flags: false,
    run,
};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Change {
    path: String,
    kind: u8,
}

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let container = &parsed.args[0];
    if container.is_empty() {
        return Err(Failure::error("Container name cannot be empty", 1));
    }
    let changes: Option<Vec<Change>> = session.client.get(path(container, "/changes")).send()?.json()?;
    let mut text = String::new();
    for change in changes.unwrap_or_default() {
        let letter = match change.kind {
            0 => 'C',
            1 => 'A',
            2 => 'D',
            _ => '?',
        };
        text += &format!("{letter} {}\n", change.path);
    }
    output::out(text.as_bytes())?;
    Ok(0)
}
