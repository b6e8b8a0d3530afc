//! `image inspect`.

use super::path;
use crate::argv::{Arity, Command, Flag, Parsed};
use crate::commands::{formats, inspecting};
use crate::session::Session;

const FLAGS: &[Flag] = &[formats::OBJECT];

/// `kelson image inspect`.
pub static COMMAND: Command = Command {
    names: &["image inspect"],
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    about: "Display detailed information on one or more images",
    flags: &[FLAGS],
    arity: Arity::AtLeast(1),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    inspecting::show(&parsed.args, parsed.text("format"), |name| fetch(session, name))
}

/// The image's JSON as the engine wrote it.
pub fn fetch(session: &Session, name: &str) -> anyhow::Result<Vec<u8>> {
    session.client.get(path(name, "/json")).send()?.bytes()
}
