//! `inspect`: whatever has this name, containers first.

use anyhow::bail;

use crate::argv::{Arity, Command, Flag, Parsed, switch, value};
use crate::commands::{container, formats, image, inspecting, network, volume};
use crate::error::{Failure, status_of};
use crate::session::Session;

const FLAGS: &[Flag] = &[
    formats::OBJECT,
    switch("size", "Display total file sizes if the type is container").short('s'),
    value("type", "string", "Only inspect objects of the given type"),
];

/// `kelson inspect`.
pub static COMMAND: Command = Command {
    names: &["inspect"],
    usage: "[OPTIONS] NAME|ID [NAME|ID...]",
    about: "Return low-level information on Kelson objects",
    flags: &[FLAGS],
    arity: Arity::AtLeast(1),
    first_argument_ends_flags: false,
    run,
};

const TYPES: &[&str] = &["container", "image", "network", "volume"];

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let size = parsed.on("size");
    let kind = parsed.text("type");
    match kind {
        Some("") => bail!("type is empty: must be one of \"{}\"", TYPES.join("\", \"")),
        Some(kind) if !TYPES.contains(&kind) => {
            bail!(
                "unknown type: {kind:?}: must be one of \"{}\"",
                TYPES.join("\", \"")
            )
        }
        _ => {}
    }
    inspecting::show(&parsed.args, parsed.text("format"), |name| {
        if let Some(kind) = kind {
            return fetch(session, kind, name, size);
        }
        for kind in TYPES {
            match fetch(session, kind, name, size) {
                // Not this kind; perhaps the next. A name that one kind cannot have is not found either.
                Err(error) if matches!(status_of(&error), Some(404 | 400)) => {}
                result => return result,
            }
        }
        Err(Failure::error(format!("Error: No such object: {name}"), 1))
    })
}

fn fetch(session: &Session, kind: &str, name: &str, size: bool) -> anyhow::Result<Vec<u8>> {
    match kind {
        "container" => container::inspect::fetch(session, name, size),
        "image" => image::inspect::fetch(session, name),
        "network" => session.client.get(network::path(name)).send()?.bytes(),
        _ => session.client.get(volume::path(name)).send()?.bytes(),
    }
}
