//! `network inspect`.

use super::path;
use crate::argv::{Arity, Command, Flag, Parsed, switch};
use crate::commands::{formats, inspecting};
use crate::session::Session;

const FLAGS: &[Flag] = &[
    formats::OBJECT,
    switch("verbose", "Verbose output for diagnostics").short('v'),
];

/// `kelson network inspect`.
pub static COMMAND: Command = Command {
    names: &["network inspect"],
    usage: "[OPTIONS] NETWORK [NETWORK...]",
    about: "Display detailed information on one or more networks",
    flags: &[FLAGS],
    arity: Arity::AtLeast(1),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let verbose = parsed.on("verbose");
    inspecting::show(&parsed.args, parsed.text("format"), |name| {
        session
            .client
            .get(path(name))
            .flag("verbose", verbose)
            .send()?
            .bytes()
    })
}
