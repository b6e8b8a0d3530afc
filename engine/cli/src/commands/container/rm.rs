//! `rm`.

use anyhow::bail;

use super::{each, path};
use crate::argv::{Arity, Command, Flag, Parsed, switch};
use crate::error::status_of;
use crate::output;
use crate::session::Session;

const FLAGS: &[Flag] = &[
    switch("force", "Force the removal of a running container (uses SIGKILL)").short('f'),
    switch("link", "Remove the specified link").short('l'),
    switch(
        "volumes",
        "Remove anonymous volumes associated with the container",
    )
    .short('v'),
];

/// `kelson rm`.
pub static COMMAND: Command = Command {
    names: &["container rm", "container remove", "rm"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Remove one or more containers",
    flags: &[FLAGS],
    arity: Arity::AtLeast(1),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let force = parsed.on("force");
    let mut absent = Vec::new();
    let code = each(parsed, |container| {
        if container.trim_matches('/').is_empty() {
            bail!("Container name cannot be empty");
        }
        let delete = session.client.delete(path(container, ""));
        let delete = delete
            .flag("force", force)
            .flag("link", parsed.on("link"))
            .flag("v", parsed.on("volumes"));
        match delete.send() {
            // What is gone already is what `-f` wants: shown, but no failure.
            Err(error) if force && status_of(&error) == Some(404) => {
                absent.push(format!("{error:#}"));
                Err(error)
            }
            result => result.map(drop),
        }
    });
    match code {
        Err(error) if !absent.is_empty() && error.to_string() == absent.join("\n") => {
            output::note(&absent.join("\n"));
            Ok(0)
        }
        other => other,
    }
}
