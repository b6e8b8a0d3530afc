//! `volume inspect`.

use super::path;
use crate::argv::{Arity, Command, Flag, Parsed};
use crate::commands::{formats, inspecting};
use crate::session::Session;

const FLAGS: &[Flag] = &[formats::OBJECT];

/// `kelson volume inspect`.
pub static COMMAND: Command = Command {
    names: &["volume inspect"],
    usage: "[OPTIONS] VOLUME [VOLUME...]",
    about: "Display detailed information on one or more volumes",
    flags: &[FLAGS],
    arity: Arity::AtLeast(1),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    inspecting::show(&parsed.args, parsed.text("format"), |name| {
        session.client.get(path(name)).send()?.bytes()
    })
}
