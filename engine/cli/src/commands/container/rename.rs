//! `rename`.

use anyhow::bail;

use super::path;
use crate::argv::{Arity, Command, Parsed};
use crate::error::status_of;
use crate::session::Session;

/// `kelson rename`.
pub static COMMAND: Command = Command {
    names: &["container rename", "rename"],
    usage: "CONTAINER NEW_NAME",
    about: "Rename a container",
    flags: &[],
    arity: Arity::Exactly(2),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let (old, new) = (parsed.args[0].trim(), parsed.args[1].trim());
    if old.is_empty() || new.is_empty() {
        bail!("Error: Neither old nor new names may be empty");
    }
    match session
        .client
        .post(path(old, "/rename"))
        .query("name", new)
        .send()
    {
        Ok(_) => Ok(0),
        Err(error) if status_of(&error).is_none() => Err(error),
        Err(error) => bail!("{error:#}\nError: failed to rename container named {old}"),
    }
}
