//! `restart`.

use super::stop;
use crate::argv::{Arity, Command, Parsed};
use crate::session::Session;

/// `kelson restart`.
pub static COMMAND: Command = Command {
    names: &["container restart", "restart"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Restart one or more containers",
    flags: &[stop::FLAGS],
    arity: Arity::AtLeast(1),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    stop::all(session, parsed, "/restart")
}
