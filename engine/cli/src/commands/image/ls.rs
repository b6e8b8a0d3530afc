//! `images`.

use kelson_api::ImageSummary;

use crate::argv::{Arity, Command, Flag, Parsed, switch};
use crate::commands::{filters, formats};
use crate::format::images::{DIGEST_TABLE, LISTING, TABLE, image_rows};
use crate::output;
use crate::session::Session;

const FLAGS: &[Flag] = &[
    switch("all", "Show all images (default hides intermediate images)").short('a'),
    switch("digests", "Show digests"),
    filters::FLAG,
    formats::LIST,
    formats::NO_TRUNC,
    switch("quiet", "Only show image IDs").short('q'),
];

/// `kelson images`.
pub static COMMAND: Command = Command {
    names: &["image ls", "image list", "images"],
    usage: "[OPTIONS] [REPOSITORY[:TAG]]",
    about: "List images",
    flags: &[FLAGS],
    arity: Arity::AtMost(1),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let mut filters = filters::of(parsed);
    if let Some(name) = parsed.args.first() {
        filters.add("reference", name);
    }
    let get = session.client.get("/images/json").flag("all", parsed.on("all"));
    let get = if filters.is_empty() {
        get
    } else {
        get.query("filters", filters.encode())
    };
    let mut images: Vec<ImageSummary> = get.send()?.json()?;
    images.sort_by_key(|image| std::cmp::Reverse(image.created));
    let digests = parsed.on("digests");
    let table = if digests { DIGEST_TABLE } else { TABLE };
    let format = formats::of_list(session, parsed, "imagesFormat", table, Some("{{.ID}}"));
    let with_digest = digests || format.contains(".Digest");
    let truncate = !parsed.on("no-trunc");
    let rows: Vec<_> = images
        .iter()
        .flat_map(|image| image_rows(image, truncate, with_digest))
        .collect();
    output::out(LISTING.show(&format, &rows)?.as_bytes())?;
    Ok(0)
}
