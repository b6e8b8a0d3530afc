//! `volume create`.

use kelson_api::{Volume, VolumeCreateRequest};

use crate::argv::{Arity, Command, Flag, Parsed, list, value};
use crate::commands::container::options::env::to_map;
use crate::error::Failure;
use crate::output;
use crate::session::Session;

const FLAGS: &[Flag] = &[
    value("driver", "string", "Specify volume driver name")
        .short('d')
        .default("\"local\""),
    list("label", "Set metadata for a volume"),
    list("opt", "Set driver specific options")
        .typed("map")
        .short('o')
        .default("map[]"),
    value("name", "string", "Specify volume name").hidden(),
];

/// `kelson volume create`.
pub static COMMAND: Command = Command {
    names: &["volume create"],
    usage: "[OPTIONS] [VOLUME]",
    about: "Create a volume",
    flags: &[FLAGS],
    arity: Arity::AtMost(1),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let named = parsed.args.first().map(String::as_str);
    if named.is_some() && parsed.given("name") {
        return Err(Failure::error(
            "conflicting options: cannot specify a volume-name through both --name and as a positional arg",
            1,
        ));
    }
    let request = VolumeCreateRequest {
        name: named.or_else(|| parsed.text("name")).unwrap_or_default().into(),
        driver: parsed.text("driver").unwrap_or("local").into(),
        driver_opts: Some(to_map(parsed.list("opt"))),
        labels: Some(to_map(parsed.list("label"))),
    };
    let volume: Volume = session
        .client
        .post("/volumes/create")
        .json(&request)?
        .send()?
        .json()?;
    output::line(&volume.name)?;
    Ok(0)
}
