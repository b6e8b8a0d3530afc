//! `search`.

use kelson_api::SearchResult;
use serde_json::{Value, json};

use super::DEFAULT;
use crate::argv::{Arity, Command, Flag, Parsed, int, value};
use crate::commands::image::pull::auth_header;
use crate::commands::{filters, formats};
use crate::format::listing::{Listing, row};
use crate::format::units;
use crate::output;
use crate::session::Session;

const FLAGS: &[Flag] = &[
    filters::FLAG,
    value("format", "string", "Pretty-print search using a Go template"),
    int("limit", "Max number of search results"),
    formats::NO_TRUNC,
];

const LISTING: Listing = Listing {
    kind: "*formatter.searchContext",
    headers: &[
        ("Name", "NAME"),
        ("Description", "DESCRIPTION"),
        ("StarCount", "STARS"),
        ("IsOfficial", "OFFICIAL"),
        ("IsAutomated", "AUTOMATED"),
    ],
};

const TABLE: &str = "table {{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}";
const DESCRIPTION_LIMIT: usize = 45;

/// `kelson search`.
pub static COMMAND: Command = Command {
    names: &["search"],
    usage: "[OPTIONS] TERM",
    about: "Search Docker Hub for images",
    flags: &[FLAGS],
    arity: Arity::Exactly(1),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let term = parsed.args[0].as_str();
    let domain = match term.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => DEFAULT,
    };
    let filters = filters::of(parsed);
    let mut get = session
        .client
        .get("/images/search")
        .query("term", term)
        .maybe("limit", parsed.text("limit"));
    if !filters.is_empty() {
        get = get.query("filters", filters.encode());
    }
    if let Some(header) = auth_header(session, domain)? {
        get = get.field("X-Registry-Auth", header);
    }
    let mut found: Vec<SearchResult> = get.send()?.json()?;
    found.sort_by_key(|one| std::cmp::Reverse(one.star_count));
    let format = formats::of_list(session, parsed, "", TABLE, None);
    let rows: Vec<_> = found
        .iter()
        .map(|one| search_row(one, !parsed.on("no-trunc")))
        .collect();
    output::out(LISTING.show(&format, &rows)?.as_bytes())?;
    Ok(0)
}

fn search_row(found: &SearchResult, truncate: bool) -> Value {
    let description = found.description.replace(['\n', '\r'], " ");
    let description = match truncate {
        true => units::ellipsis(&description, DESCRIPTION_LIMIT),
        false => description,
    };
    let mark = |on: bool| if on { "[OK]" } else { "" };
    row(
        json!({}),
        [
            ("Name", found.name.clone().into()),
            ("Description", description.into()),
            ("StarCount", found.star_count.to_string().into()),
            ("IsOfficial", mark(found.is_official).into()),
            ("IsAutomated", mark(found.is_automated).into()),
        ],
    )
}
