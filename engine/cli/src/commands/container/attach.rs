//! `attach`: our streams become those of a running container.

use anyhow::bail;
use serde_json::Value;

use super::run::exit_code;
use super::{path, terminal};
use crate::argv::{Arity, Command, Flag, Parsed, switch, value};
use crate::error::Failure;
use crate::session::Session;
use crate::stream::{self, End, Plan};
use crate::tty::RawMode;

const FLAGS: &[Flag] = &[
    value(
        "detach-keys",
        "string",
        "Override the key sequence for detaching a container",
    ),
    switch("no-stdin", "Do not attach STDIN"),
    switch("sig-proxy", "Proxy all received signals to the process").default("true"),
];

/// `kelson attach`.
pub static COMMAND: Command = Command {
    names: &["container attach", "attach"],
    usage: "[OPTIONS] CONTAINER",
    about: "Attach local standard input, output, and error streams to a running container",
    flags: &[FLAGS],
    arity: Arity::Exactly(1),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let client = &session.client;
    let inspect: Value = client.get(path(&parsed.args[0], "/json")).send()?.json()?;
    let is = |field: &str| inspect["State"][field].as_bool().unwrap_or(false);
    if !is("Running") {
        bail!("You cannot attach to a stopped container, start it first");
    }
    if is("Paused") {
        bail!("You cannot attach to a paused container, unpause it first");
    }
    if is("Restarting") {
        bail!("You cannot attach to a restarting container, wait until it is running");
    }
    let id = inspect["Id"].as_str().unwrap_or(&parsed.args[0]).to_owned();
    let tty = inspect["Config"]["Tty"].as_bool().unwrap_or(false);
    let stdin = !parsed.on("no-stdin") && inspect["Config"]["OpenStdin"].as_bool().unwrap_or(false);
    terminal::require_terminal(stdin, tty)?;
    let (keys_text, keys) = terminal::detach_keys(session, parsed)?;
    let object = path(&id, "");
    terminal::follow(
        client,
        &id,
        &object,
        tty,
        parsed.switch("sig-proxy").unwrap_or(true),
    )?;
    // The listener first: the container may end while we attach.
    let mut exit = client.post(path(&id, "/wait")).send()?.body();
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
    let raw = if tty && stdin { RawMode::enter()? } else { None };
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
        End::Detached => Err(Failure::error("read escape sequence", 1)),
        End::Closed => exit_code(&mut exit),
    }
}
