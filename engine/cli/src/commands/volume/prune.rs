//! `volume prune`.

use kelson_api::VolumesPruneReport;

use crate::argv::{Arity, Command, Flag, Parsed, switch};
use crate::commands::container::prune::reclaimed;
use crate::commands::{filters, prompt};
use crate::output;
use crate::session::Session;

const FLAGS: &[Flag] = &[
    switch("all", "Remove all unused volumes, not just anonymous ones").short('a'),
    filters::LONG_FLAG,
    switch("force", "Do not prompt for confirmation").short('f'),
];

/// `kelson volume prune`.
pub static COMMAND: Command = Command {
    names: &["volume prune"],
    usage: "[OPTIONS]",
    about: "Remove unused local volumes",
    flags: &[FLAGS],
    arity: Arity::None,
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let all = parsed.on("all");
    let what = if all {
        "WARNING! This will remove all local volumes not used by at least one container."
    } else {
        "WARNING! This will remove anonymous local volumes not used by at least one container."
    };
    if !parsed.on("force") && !prompt::confirm(what)? {
        return Ok(0);
    }
    let mut filters = filters::of(parsed);
    if all {
        filters.add("all", "1");
    }
    let post = session.client.post("/volumes/prune");
    let post = if filters.is_empty() {
        post
    } else {
        post.query("filters", filters.encode())
    };
    let report: VolumesPruneReport = post.send()?.json()?;
    let deleted = report.volumes_deleted.unwrap_or_default();
    let mut text = String::new();
    if !deleted.is_empty() {
        text = format!("Deleted Volumes:\n{}\n\n", deleted.join("\n"));
    }
    text += &reclaimed(report.space_reclaimed);
    output::out(text.as_bytes())?;
    Ok(0)
}
