//! `top`.

use kelson_api::TopResponse;

use super::path;
use crate::argv::{Arity, Command, Parsed};
use crate::format::listing::align_with;
use crate::output;
use crate::session::Session;

/// Docker's cells here are twenty columns wide, three of them blank.
const CELL: usize = 17;

/// `kelson top`.
pub static COMMAND: Command = Command {
    names: &["container top", "top"],
    usage: "CONTAINER [ps OPTIONS]",
    about: "Display the running processes of a container",
    flags: &[],
    arity: Arity::AtLeast(1),
    first_argument_ends_flags: true,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let arguments = parsed.args[1..].join(" ");
    let get = session.client.get(path(&parsed.args[0], "/top"));
    let get = if arguments.is_empty() {
        get
    } else {
        get.query("ps_args", arguments)
    };
    let top: TopResponse = get.send()?.json()?;
    let mut text = top.titles.join("\t") + "\n";
    for process in &top.processes {
        text += &(process.join("\t") + "\n");
    }
    output::out(align_with(&text, CELL)?.as_bytes())?;
    Ok(0)
}
