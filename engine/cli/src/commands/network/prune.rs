//! `network prune`.

use kelson_api::NetworksPruneReport;

use crate::argv::{Arity, Command, Flag, Parsed, switch};
use crate::commands::{filters, prompt};
use crate::output;
use crate::session::Session;

const FLAGS: &[Flag] = &[
    filters::LONG_FLAG,
    switch("force", "Do not prompt for confirmation").short('f'),
];

/// `kelson network prune`.
pub static COMMAND: Command = Command {
    names: &["network prune"],
    usage: "[OPTIONS]",
    about: "Remove all unused networks",
    flags: &[FLAGS],
    arity: Arity::None,
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let what = "WARNING! This will remove all custom networks not used by at least one container.";
    if !parsed.on("force") && !prompt::confirm(what)? {
        return Ok(0);
    }
    let filters = filters::of(parsed);
    let post = session.client.post("/networks/prune");
    let post = if filters.is_empty() {
        post
    } else {
        post.query("filters", filters.encode())
    };
    let report: NetworksPruneReport = post.send()?.json()?;
    let deleted = report.networks_deleted.unwrap_or_default();
    if !deleted.is_empty() {
        output::out(format!("Deleted Networks:\n{}\n\n", deleted.join("\n")).as_bytes())?;
    }
    Ok(0)
}
