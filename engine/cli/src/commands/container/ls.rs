//! `ps`.

use kelson_api::ContainerSummary;

use crate::argv::{Arity, Command, Flag, Parsed, int, switch};
use crate::commands::{filters, formats};
use crate::format::containers::{LISTING, TABLE, container_row};
use crate::output;
use crate::session::Session;

const FLAGS: &[Flag] = &[
    switch("all", "Show all containers (default shows just running)").short('a'),
    filters::FLAG,
    formats::LIST,
    int("last", "Show n last created containers (includes all states)")
        .short('n')
        .default("-1"),
    switch(
        "latest",
        "Show the latest created container (includes all states)",
    )
    .short('l'),
    formats::NO_TRUNC,
    switch("quiet", "Only display container IDs").short('q'),
    switch("size", "Display total file sizes").short('s'),
];

/// `kelson ps`.
pub static COMMAND: Command = Command {
    names: &["container ls", "container list", "container ps", "ps"],
    usage: "[OPTIONS]",
    about: "List containers",
    flags: &[FLAGS],
    arity: Arity::None,
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let size = parsed.on("size");
    let table = if size {
        format!("{TABLE}\t{{{{.Size}}}}")
    } else {
        TABLE.to_owned()
    };
    let format = formats::of_list(session, parsed, "psFormat", &table, Some("{{.ID}}"));
    let ignored = parsed.on("quiet") && parsed.given("format");
    let format = if ignored {
        output::note("WARNING: Ignoring custom format, because both --format and --quiet are set.");
        "{{.ID}}".to_owned()
    } else {
        format
    };
    let filters = filters::of(parsed);
    let last = if parsed.on("latest") {
        Some(1)
    } else {
        parsed.int("last").filter(|n| *n >= 0)
    };
    let get = session
        .client
        .get("/containers/json")
        .flag("all", parsed.on("all"));
    let get = get.maybe("limit", last.map(|n| n.to_string()).as_deref());
    // Sizes cost the engine a walk through the file system: only where they are shown.
    let get = get.flag(
        "size",
        size || format.contains(".Size") || format.contains("json .}}"),
    );
    let get = if filters.is_empty() {
        get
    } else {
        get.query("filters", filters.encode())
    };
    let containers: Vec<ContainerSummary> = get.send()?.json()?;
    let truncate = !parsed.on("no-trunc");
    let rows: Vec<_> = containers
        .iter()
        .map(|container| container_row(container, truncate))
        .collect();
    output::out(LISTING.show(&format, &rows)?.as_bytes())?;
    Ok(0)
}
