//! `wait`.

use kelson_api::WaitResponse;

use super::path;
use crate::argv::{Arity, Command, Parsed};
use crate::error::{Collected, Failure};
use crate::output;
use crate::session::Session;

/// `kelson wait`.
pub static COMMAND: Command = Command {
    names: &["container wait", "wait"],
    usage: "CONTAINER [CONTAINER...]",
    about: "Block until one or more containers stop, then print their exit codes",
    flags: &[],
    arity: Arity::AtLeast(1),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let mut errors = Collected::default();
    for container in &parsed.args {
        match one(session, container) {
            Ok(code) => output::line(&code.to_string())?,
            Err(error) => errors.add(&error),
        }
    }
    errors.finish()
}

fn one(session: &Session, container: &str) -> anyhow::Result<i64> {
    let answer: WaitResponse = session.client.post(path(container, "/wait")).send()?.json()?;
    match answer.error.filter(|error| !error.message.is_empty()) {
        Some(error) => Err(Failure::error(error.message, 1)),
        None => Ok(answer.status_code),
    }
}
