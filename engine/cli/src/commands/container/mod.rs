//! Commands about containers.

pub mod attach;
pub mod commit;
pub mod cp;
pub mod create;
pub mod diff;
pub mod exec;
pub mod export;
pub mod flags;
pub mod inspect;
pub mod kill;
pub mod logs;
pub mod ls;
pub mod options;
pub mod pause;
pub mod port;
pub mod prune;
pub mod rename;
pub mod request;
pub mod restart;
pub mod rm;
pub mod run;
pub mod start;
pub mod stats;
pub mod stop;
pub mod terminal;
pub mod top;
pub mod update;
pub mod wait;

use crate::argv::Parsed;
use crate::client::segment;
use crate::error::Collected;
use crate::output;

/// The API path of a container.
pub fn path(container: &str, rest: &str) -> String {
    format!("/containers/{}{rest}", segment(container.trim_start_matches('/')))
}

/// Does something to each container named; its name is printed when it worked, and errors are collected.
pub fn each(parsed: &Parsed, mut act: impl FnMut(&str) -> anyhow::Result<()>) -> anyhow::Result<u8> {
    let mut errors = Collected::default();
    for container in &parsed.args {
        match act(container) {
            Ok(()) => output::line(container)?,
            Err(error) => errors.add(&error),
        }
    }
    errors.finish()
}
