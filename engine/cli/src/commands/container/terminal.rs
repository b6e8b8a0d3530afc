//! What `run`, `start -a`, `attach` and `exec -it` share: keys, sizes and signals.

use anyhow::anyhow;
use nix::sys::signal::Signal;

use super::path;
use crate::argv::Parsed;
use crate::client::Client;
use crate::error::Failure;
use crate::output;
use crate::session::Session;
use crate::stream::{DEFAULT_DETACH_KEYS, parse_detach_keys};
use crate::tty;

/// After so many interruptions the user means us, not the container.
const PATIENCE: u32 = 3;

/// The keys of `--detach-keys`, else of the config file, else docker's.
pub fn detach_keys(session: &Session, parsed: &Parsed) -> anyhow::Result<(String, Vec<u8>)> {
    let given = parsed.text("detach-keys").map(str::to_owned);
    let text = given
        .or_else(|| session.setting("detachKeys"))
        .unwrap_or_else(|| DEFAULT_DETACH_KEYS.into());
    let keys = parse_detach_keys(&text).map_err(|why| anyhow!("invalid detach keys ({text}): {why}"))?;
    Ok((text, keys))
}

/// A terminal was asked for while our input is something else.
pub fn require_terminal(stdin: bool, tty: bool) -> anyhow::Result<()> {
    if stdin && tty && !tty::stdin_is_terminal() {
        return Err(Failure::error("the input device is not a TTY", 1));
    }
    Ok(())
}

/// Tells the engine the size of our terminal, for a container or an exec (`/exec/ID`).
pub fn resize(client: &Client, object: &str) {
    if let Some(size) = tty::size() {
        let request = client.post(format!("{object}/resize"));
        // A terminal of the wrong size is no reason to end anything.
        let _ = request
            .query("h", size.rows.to_string())
            .query("w", size.columns.to_string())
            .send();
    }
}

/// Follows our terminal's size with `object`'s, or passes signals on to the container.
///
/// With a terminal the keys reach the container as bytes, so only the size is followed.
pub fn follow(
    client: &Client,
    container: &str,
    object: &str,
    with_tty: bool,
    proxy: bool,
) -> anyhow::Result<()> {
    if with_tty && tty::stdout_is_terminal() {
        let (client, object) = (client.sibling()?, object.to_owned());
        return tty::watch(&[Signal::SIGWINCH], move |_| resize(&client, &object));
    }
    if proxy && !with_tty {
        let (client, target) = (client.sibling()?, path(container, "/kill"));
        let mut interruptions = 0;
        return tty::watch(tty::PROXIED, move |signal| {
            if matches!(signal, Signal::SIGINT | Signal::SIGTERM) {
                interruptions += 1;
                if interruptions >= PATIENCE {
                    output::note("\ngot 3 SIGTERM/SIGINTs, forcefully exiting");
                    tty::die_of(signal);
                }
            }
            // The container may just have ended; its end is reported anyway.
            let _ = client
                .post(target.clone())
                .query("signal", signal.as_str())
                .send();
        });
    }
    Ok(())
}
