//! `network disconnect`.

use kelson_api::NetworkDisconnectRequest;

use super::path;
use crate::argv::{Arity, Command, Flag, Parsed, switch};
use crate::session::Session;

const FLAGS: &[Flag] = &[switch("force", "Force the container to disconnect from a network").short('f')];

/// `kelson network disconnect`.
pub static COMMAND: Command = Command {
    names: &["network disconnect"],
    usage: "[OPTIONS] NETWORK CONTAINER",
    about: "Disconnect a container from a network",
    flags: &[FLAGS],
    arity: Arity::Exactly(2),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let request = NetworkDisconnectRequest {
        container: parsed.args[1].clone(),
        force: parsed.on("force"),
    };
    let path = format!("{}/disconnect", path(&parsed.args[0]));
    session.client.post(path).json(&request)?.send()?;
    Ok(0)
}
