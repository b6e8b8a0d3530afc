//! `logout`.

use kelson_formats::credentials::store_key;

use super::DEFAULT;
use crate::argv::{Arity, Command, Parsed};
use crate::output;
use crate::session::Session;

/// `kelson logout`.
pub static COMMAND: Command = Command {
    names: &["logout"],
    usage: "[SERVER]",
    about: "Log out from a registry.\nIf no server is specified, the default is defined by the daemon.",
    flags: &[],
    arity: Arity::AtMost(1),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let server = parsed.args.first().map_or(DEFAULT, String::as_str);
    let mut config = session.config()?.clone();
    let key = store_key(server);
    if config.erase(server)? {
        output::line(&format!("Removing login credentials for {key}"))?;
    } else {
        output::line(&format!("Not logged in to {key}"))?;
    }
    Ok(0)
}
