//! `kill`.

use super::{each, path};
use crate::argv::{Arity, Command, Flag, Parsed, value};
use crate::session::Session;

const FLAGS: &[Flag] = &[value("signal", "string", "Signal to send to the container").short('s')];

/// `kelson kill`.
pub static COMMAND: Command = Command {
    names: &["container kill", "kill"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Kill one or more running containers",
    flags: &[FLAGS],
    arity: Arity::AtLeast(1),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    each(parsed, |container| {
        let post = session.client.post(path(container, "/kill"));
        post.maybe("signal", parsed.text("signal")).send().map(drop)
    })
}
