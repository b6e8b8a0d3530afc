//! `stop`.

use super::{each, path};
use crate::argv::{Arity, Command, Flag, Parsed, int, value};
use crate::session::Session;

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

/// Sends `stop` or `restart` to every container at once: their graces run side by side.
pub fn all(session: &Session, parsed: &Parsed, verb: &str) -> anyhow::Result<u8> {
    // The version first, so that the threads need not ask for it.
    session.client.version()?;
    let timeout = parsed.text("timeout").or_else(|| parsed.text("time"));
    let mut results = std::collections::HashMap::new();
    let (endpoint, version) = (session.client.endpoint(), session.client.version()?);
    std::thread::scope(|scope| {
        let threads: Vec<_> = parsed
            .args
            .iter()
            .map(|container| {
                let thread = scope.spawn(move || {
                    let client =
                        crate::client::Client::new(endpoint.clone(), false, Some(version.to_owned()));
                    let post = client
                        .post(path(container, verb))
                        .maybe("signal", parsed.text("signal"));
                    post.maybe("t", timeout).send().map(drop)
                });
                (container.clone(), thread)
            })
            .collect();
        for (container, thread) in threads {
            let result = thread
                .join()
                .unwrap_or_else(|_| Err(anyhow::anyhow!("the request failed")));
            results.entry(container).or_insert(result);
        }
    });
    each(parsed, |container| results.remove(container).unwrap_or(Ok(())))
}

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    all(session, parsed, "/stop")
}
