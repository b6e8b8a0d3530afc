//! `start`, also attached.

use anyhow::bail;
use serde_json::Value;

use super::run::exit_code;
use super::{path, terminal};
use crate::argv::{Arity, Command, Flag, Parsed, switch, value};
use crate::error::{Failure, start_code};
use crate::output;
use crate::session::Session;
use crate::stream::{self, End, Plan};
use crate::tty::RawMode;

const FLAGS: &[Flag] = &[
    switch("attach", "Attach STDOUT/STDERR and forward signals").short('a'),
    value(
        "detach-keys",
        "string",
        "Override the key sequence for detaching a container",
    ),
    switch("interactive", "Attach container's STDIN").short('i'),
];

/// `kelson start`.
pub static COMMAND: Command = Command {
    names: &["container start", "start"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Start one or more stopped containers",
    flags: &[FLAGS],
    arity: Arity::AtLeast(1),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    if parsed.on("attach") || parsed.on("interactive") {
        if parsed.args.len() > 1 {
            bail!("you cannot start and attach multiple containers at once");
        }
        return attached(session, parsed, &parsed.args[0]);
    }
    let mut failed = Vec::new();
    for container in &parsed.args {
        match session.client.post(path(container, "/start")).send() {
            Ok(_) => output::line(container)?,
            Err(error) if crate::error::status_of(&error).is_none() => return Err(error),
            Err(error) => {
                output::note(&format!("{error:#}"));
                failed.push(container.as_str());
            }
        }
    }
    if failed.is_empty() {
        return Ok(0);
    }
    Err(Failure::error(
        format!("Error: failed to start containers: {}", failed.join(", ")),
        1,
    ))
}

fn attached(session: &Session, parsed: &Parsed, container: &str) -> anyhow::Result<u8> {
    let client = &session.client;
    let inspect: Value = client.get(path(container, "/json")).send()?.json()?;
    let id = inspect["Id"].as_str().unwrap_or(container).to_owned();
    let config = &inspect["Config"];
    let tty = config["Tty"].as_bool().unwrap_or(false);
    let stdin = parsed.on("interactive") && config["OpenStdin"].as_bool().unwrap_or(false);
    let rm = inspect["HostConfig"]["AutoRemove"].as_bool().unwrap_or(false);
    let (keys_text, keys) = terminal::detach_keys(session, parsed)?;
    let object = path(&id, "");
    terminal::follow(client, &id, &object, tty, true)?;
    let post = client
        .post(path(&id, "/attach"))
        .flag("stream", true)
        .flag("stdin", stdin);
    let post = post.flag("stdout", true).flag("stderr", true);
    let post = if parsed.given("detach-keys") {
        post.query("detachKeys", &keys_text)
    } else {
        post
    };
    let hijacked = post.hijack()?;
    let condition = if rm { "removed" } else { "next-exit" };
    let mut exit = client
        .post(path(&id, "/wait"))
        .query("condition", condition)
        .send()?
        .body();
    let raw = if tty && stdin { RawMode::enter()? } else { None };
    if let Err(error) = client.post(path(&id, "/start")).send() {
        drop(raw);
        let code = start_code(&error);
        // Docker's `start` knows 1 for what its `run` calls 125.
        return Err(Failure::error(
            format!("{error:#}"),
            if code == crate::error::ENGINE { 1 } else { code },
        ));
    }
    if tty {
        terminal::resize(client, &object);
    }
    let end = stream::exchange(
        hijacked,
        &Plan {
            stdin,
            tty,
            detach_keys: keys,
        },
    )?;
    drop(raw);
    match end {
        End::Detached => Ok(0),
        End::Closed => exit_code(&mut exit),
    }
}
