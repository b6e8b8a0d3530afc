//! `image prune`.

use kelson_api::ImagesPruneReport;

use crate::argv::{Arity, Command, Flag, Parsed, switch};
use crate::commands::container::prune::reclaimed;
use crate::commands::{filters, prompt};
use crate::output;
use crate::session::Session;

const FLAGS: &[Flag] = &[
    switch("all", "Remove all unused images, not just dangling ones").short('a'),
    filters::LONG_FLAG,
    switch("force", "Do not prompt for confirmation").short('f'),
];

/// `kelson image prune`.
pub static COMMAND: Command = Command {
    names: &["image prune"],
    usage: "[OPTIONS]",
    about: "Remove unused images",
    flags: &[FLAGS],
    arity: Arity::None,
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let all = parsed.on("all");
    let what = if all {
        "WARNING! This will remove all images without at least one container associated to them."
    } else {
        "WARNING! This will remove all dangling images."
    };
    if !parsed.on("force") && !prompt::confirm(what)? {
        return Ok(0);
    }
    let mut filters = filters::of(parsed);
    filters.add("dangling", if all { "false" } else { "true" });
    let report: ImagesPruneReport = session
        .client
        .post("/images/prune")
        .query("filters", filters.encode())
        .send()?
        .json()?;
    let deleted = report.images_deleted.unwrap_or_default();
    let mut text = String::new();
    if !deleted.is_empty() {
        text += "Deleted Images:\n";
        for item in &deleted {
            text += &super::rm::item_line(item);
        }
        text.push('\n');
    }
    text += &reclaimed(report.space_reclaimed);
    output::out(text.as_bytes())?;
    Ok(0)
}
