//! `pause` and `unpause`.

use super::{each, path};
use crate::argv::{Arity, Command, Parsed};
use crate::session::Session;

/// `kelson pause`.
pub static COMMAND: Command = Command {
    names: &["container pause", "pause"],
    usage: "CONTAINER [CONTAINER...]",
    about: "Pause all processes within one or more containers",
    flags: &[],
    arity: Arity::AtLeast(1),
    first_argument_ends_flags: false,
    run: |session, parsed| act(session, parsed, "/pause"),
};

/// `kelson unpause`.
pub static UNPAUSE: Command = Command {
    names: &["container unpause", "unpause"],
    usage: "CONTAINER [CONTAINER...]",
    about: "Unpause all processes within one or more containers",
    flags: &[],
    arity: Arity::AtLeast(1),
    first_argument_ends_flags: false,
    run: |session, parsed| act(session, parsed, "/unpause"),
};

fn act(session: &Session, parsed: &Parsed, verb: &str) -> anyhow::Result<u8> {
    each(parsed, |container| {
        session.client.post(path(container, verb)).send().map(drop)
    })
}
