//! `volume ls`.

use kelson_api::VolumeList;
use serde_json::json;

use crate::argv::{Arity, Command, Flag, Parsed, switch};
use crate::commands::{filters, formats};
use crate::format::listing::{Listing, join_labels, row};
use crate::output;
use crate::session::Session;

/// What `volume ls --format` can show.
pub const LISTING: Listing = Listing {
    kind: "*formatter.volumeContext",
    headers: &[
        ("Name", "VOLUME NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Labels", "LABELS"),
        ("Links", "LINKS"),
        ("Size", "SIZE"),
        ("Availability", "AVAILABILITY"),
        ("Group", "GROUP"),
        ("Status", "STATUS"),
    ],
};

const FLAGS: &[Flag] = &[
    filters::FLAG,
    formats::LIST,
    switch("quiet", "Only display volume names").short('q'),
];

/// `kelson volume ls`.
pub static COMMAND: Command = Command {
    names: &["volume ls", "volume list"],
    usage: "[OPTIONS]",
    about: "List volumes",
    flags: &[FLAGS],
    arity: Arity::None,
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let filters = filters::of(parsed);
    let get = session.client.get("/volumes");
    let get = if filters.is_empty() {
        get
    } else {
        get.query("filters", filters.encode())
    };
    let mut volumes = get
        .send()?
        .json::<VolumeList>()?
        .volumes
        .into_iter()
        .collect::<Vec<_>>();
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    let format = formats::of_list(
        session,
        parsed,
        "volumesFormat",
        "table {{.Driver}}\t{{.Name}}",
        Some("{{.Name}}"),
    );
    let rows: Vec<_> = volumes
        .iter()
        .map(|volume| {
            let labels = volume.labels.clone().unwrap_or_default();
            row(
                json!(labels),
                [
                    ("Name", volume.name.clone().into()),
                    ("Driver", volume.driver.clone().into()),
                    ("Scope", volume.scope.clone().into()),
                    ("Mountpoint", volume.mountpoint.clone().into()),
                    ("Labels", join_labels(&labels).into()),
                    ("Links", "N/A".into()),
                    ("Size", "N/A".into()),
                    ("Availability", "N/A".into()),
                    ("Group", "N/A".into()),
                    ("Status", "N/A".into()),
                ],
            )
        })
        .collect();
    output::out(LISTING.show(&format, &rows)?.as_bytes())?;
    Ok(0)
}
