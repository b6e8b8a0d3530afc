//! `logs`.

use anyhow::{Context, anyhow};
use serde_json::Value;

use super::path;
use crate::argv::{Arity, Command, Flag, Parsed, switch, value};
use crate::format::timestamp;
use crate::session::Session;
use crate::stream;

const FLAGS: &[Flag] = &[
    switch("details", "Show extra details provided to logs"),
    switch("follow", "Follow log output").short('f'),
    value(
        "since",
        "string",
        "Show logs since timestamp (e.g. \"2013-01-02T13:23:37Z\") or relative (e.g. \"42m\" for 42 minutes)",
    ),
    value(
        "tail",
        "string",
        "Number of lines to show from the end of the logs",
    )
    .short('n')
    .default("\"all\""),
    switch("timestamps", "Show timestamps").short('t'),
    value(
        "until",
        "string",
        "Show logs before a timestamp (e.g. \"2013-01-02T13:23:37Z\") or relative (e.g. \"42m\" for 42 minutes)",
    ),
];

/// `kelson logs`.
pub static COMMAND: Command = Command {
    names: &["container logs", "logs"],
    usage: "[OPTIONS] CONTAINER",
    about: "Fetch the logs of a container",
    flags: &[FLAGS],
    arity: Arity::Exactly(1),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let client = &session.client;
    let container = &parsed.args[0];
    let inspect: Value = client.get(path(container, "/json")).send()?.json()?;
    let tty = inspect["Config"]["Tty"].as_bool().unwrap_or(false);
    let id = inspect["Id"].as_str().context("the engine gave no id")?;
    let time = |flag: &str| -> anyhow::Result<Option<String>> {
        let Some(text) = parsed.text(flag).filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        timestamp::parse(text)
            .map(Some)
            .map_err(|why| anyhow!("invalid value for \"{flag}\": {why}"))
    };
    let get = client
        .get(path(id, "/logs"))
        .flag("stdout", true)
        .flag("stderr", true);
    let get = get
        .flag("follow", parsed.on("follow"))
        .flag("timestamps", parsed.on("timestamps"));
    let get = get
        .flag("details", parsed.on("details"))
        .query("tail", parsed.text("tail").unwrap_or("all"));
    let response = get
        .maybe("since", time("since")?.as_deref())
        .maybe("until", time("until")?.as_deref())
        .send()?;
    let raw = match response.field("Content-Type") {
        Some("application/vnd.docker.multiplexed-stream") => false,
        Some("application/vnd.docker.raw-stream") if tty => true,
        _ => tty,
    };
    stream::copy_output(response.body(), raw)?;
    Ok(0)
}
