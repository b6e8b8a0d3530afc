//! `export`.

use super::path;
use crate::argv::{Arity, Command, Flag, Parsed, value};
use crate::commands::image::save;
use crate::session::Session;

const FLAGS: &[Flag] = &[value("output", "string", "Write to a file, instead of STDOUT").short('o')];

/// `kelson export`.
pub static COMMAND: Command = Command {
    names: &["container export", "export"],
    usage: "[OPTIONS] CONTAINER",
    about: "Export a container's filesystem as a tar archive",
    flags: &[FLAGS],
    arity: Arity::Exactly(1),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let request = session.client.get(path(&parsed.args[0], "/export"));
    save::to_output(request, parsed.text("output"))
}
