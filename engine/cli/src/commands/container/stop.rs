//! `stop`.

use std::collections::HashMap;
use std::thread;

use anyhow::anyhow;

use super::{each, path};
use crate::argv::{Arity, Command, Flag, Parsed, int, value};
use crate::session::Session;

/// How many requests are under way at a time, as with docker.
const AT_ONCE: usize = 50;

/// The flags of `stop` and `restart`.
pub const FLAGS: &[Flag] = &[
    value("signal", "string", "Signal to send to the container").short('s'),
    int("timeout", "Seconds to wait before killing the container").short('t'),
    int("time", "Seconds to wait before killing the container").hidden(),
];

/// `kelson stop`.
pub static COMMAND: Command = Command {
    names: &["container stop", "stop"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Stop one or more running containers",
    flags: &[FLAGS],
    arity: Arity::AtLeast(1),
    first_argument_ends_flags: false,
    run,
};

/// Sends `stop` or `restart` to many containers at once: their graces run side by side.
pub fn all(session: &Session, parsed: &Parsed, verb: &str) -> anyhow::Result<u8> {
    let timeout = parsed.text("timeout").or_else(|| parsed.text("time"));
    let mut results = HashMap::new();
    for some in parsed.args.chunks(AT_ONCE) {
        thread::scope(|scope| -> anyhow::Result<()> {
            let mut threads = Vec::new();
            for container in some {
                let client = session.client.sibling()?;
                let stop = move || {
                    let post = client.post(path(container, verb));
                    let post = post.maybe("signal", parsed.text("signal")).maybe("t", timeout);
                    post.send().map(drop)
                };
                threads.push((container.clone(), scope.spawn(stop)));
            }
            for (container, thread) in threads {
                let result = thread
                    .join()
                    .unwrap_or_else(|_| Err(anyhow!("the request failed")));
                results.insert(container, result);
            }
            Ok(())
        })?;
    }
    each(parsed, |container| results.remove(container).unwrap_or(Ok(())))
}

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    all(session, parsed, "/stop")
}
