//! `container inspect`.

use super::path;
use crate::argv::{Arity, Command, Flag, Parsed, switch};
use crate::commands::{formats, inspecting};
use crate::session::Session;

const FLAGS: &[Flag] = &[
    formats::OBJECT,
    switch("size", "Display total file sizes").short('s'),
];

/// `kelson container inspect`.
pub static COMMAND: Command = Command {
    names: &["container inspect"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Display detailed information on one or more containers",
    flags: &[FLAGS],
    arity: Arity::AtLeast(1),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    inspecting::show(&parsed.args, parsed.text("format"), |name| {
        fetch(session, name, parsed.on("size"))
    })
}

/// The container's JSON as the engine wrote it.
pub fn fetch(session: &Session, name: &str, size: bool) -> anyhow::Result<Vec<u8>> {
    session
        .client
        .get(path(name, "/json"))
        .flag("size", size)
        .send()?
        .bytes()
}
