//! `network rm`.

use super::path;
use crate::argv::{Arity, Command, Flag, Parsed, switch};
use crate::commands::container::each;
use crate::error::status_of;
use crate::session::Session;

const FLAGS: &[Flag] = &[switch("force", "Do not error if the network does not exist").short('f')];

/// `kelson network rm`.
pub static COMMAND: Command = Command {
    names: &["network rm", "network remove"],
    usage: "NETWORK [NETWORK...]",
    about: "Remove one or more networks",
    flags: &[FLAGS],
    arity: Arity::AtLeast(1),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let force = parsed.on("force");
    each(parsed, |name| match session.client.delete(path(name)).send() {
        Err(error) if force && status_of(&error) == Some(404) => Ok(()),
        result => result.map(drop),
    })
}
