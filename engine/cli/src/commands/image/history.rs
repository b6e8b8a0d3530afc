//! `history`.

use kelson_api::HistoryItem;

use super::path;
use crate::argv::{Arity, Command, Flag, Parsed, switch};
use crate::commands::formats;
use crate::format::images::{HISTORY, HISTORY_TABLE, history_row};
use crate::output;
use crate::session::Session;

const FLAGS: &[Flag] = &[
    formats::LIST,
    switch("human", "Print sizes and dates in human readable format")
        .short('H')
        .default("true"),
    formats::NO_TRUNC,
    switch("quiet", "Only show image IDs").short('q'),
];

/// `kelson history`.
pub static COMMAND: Command = Command {
    names: &["image history", "history"],
    usage: "[OPTIONS] IMAGE",
    about: "Show the history of an image",
    flags: &[FLAGS],
    arity: Arity::Exactly(1),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let items: Vec<HistoryItem> = session
        .client
        .get(path(&parsed.args[0], "/history"))
        .send()?
        .json()?;
    let format = formats::of_list(session, parsed, "", HISTORY_TABLE, Some("{{.ID}}"));
    let (truncate, human) = (!parsed.on("no-trunc"), parsed.switch("human").unwrap_or(true));
    let rows: Vec<_> = items
        .iter()
        .map(|item| history_row(item, truncate, human))
        .collect();
    output::out(HISTORY.show(&format, &rows)?.as_bytes())?;
    Ok(0)
}
