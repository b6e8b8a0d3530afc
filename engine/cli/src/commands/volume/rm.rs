//! `volume rm`.

use super::path;
use crate::argv::{Arity, Command, Flag, Parsed, switch};
use crate::commands::container::each;
use crate::session::Session;

const FLAGS: &[Flag] = &[switch("force", "Force the removal of one or more volumes").short('f')];

/// `kelson volume rm`.
pub static COMMAND: Command = Command {
    names: &["volume rm", "volume remove"],
    usage: "[OPTIONS] VOLUME [VOLUME...]",
    about: "Remove one or more volumes. You cannot remove a volume that is in use by a container.",
    flags: &[FLAGS],
    arity: Arity::AtLeast(1),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    each(parsed, |name| {
        session
            .client
            .delete(path(name))
            .flag("force", parsed.on("force"))
            .send()
            .map(drop)
    })
}
