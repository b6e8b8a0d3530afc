//! `container prune`.

use kelson_api::ContainersPruneReport;

use crate::argv::{Arity, Command, Flag, Parsed, switch};
use crate::commands::{filters, prompt};
use crate::format::units;
use crate::output;
use crate::session::Session;

const FLAGS: &[Flag] = &[
    filters::LONG_FLAG,
    switch("force", "Do not prompt for confirmation").short('f'),
];

/// `kelson container prune`.
pub static COMMAND: Command = Command {
    names: &["container prune"],
    usage: "[OPTIONS]",
    about: "Remove all stopped containers",
    flags: &[FLAGS],
    arity: Arity::None,
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    if !parsed.on("force") && !prompt::confirm("WARNING! This will remove all stopped containers.")? {
        return Ok(0);
    }
    let filters = filters::of(parsed);
    let post = session.client.post("/containers/prune");
    let post = if filters.is_empty() {
        post
    } else {
        post.query("filters", filters.encode())
    };
    let report: ContainersPruneReport = post.send()?.json()?;
    let deleted = report.containers_deleted.unwrap_or_default();
    let mut text = String::new();
    if !deleted.is_empty() {
        text = format!("Deleted Containers:\n{}\n\n", deleted.join("\n"));
    }
    text += &reclaimed(report.space_reclaimed);
    output::out(text.as_bytes())?;
    Ok(0)
}

/// The last line of every prune.
#[expect(clippy::cast_precision_loss, reason = "shown with four digits")]
pub fn reclaimed(bytes: u64) -> String {
    format!("Total reclaimed space: {}\n", units::size4(bytes as f64))
}
