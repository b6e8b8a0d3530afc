//! `network ls`.

use kelson_api::Network;
use serde_json::json;

use crate::argv::{Arity, Command, Flag, Parsed, switch};
use crate::commands::{filters, formats};
use crate::format::listing::{Listing, join_labels, row};
use crate::format::units;
use crate::output;
use crate::session::Session;

const LISTING: Listing = Listing {
    kind: "*network.networkContext",
    headers: &[
        ("ID", "NETWORK ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("IPv4", "IPV4"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("Labels", "LABELS"),
        ("CreatedAt", "CREATED AT"),
    ],
};

const TABLE: &str = "table {{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}";

const FLAGS: &[Flag] = &[
    filters::FLAG,
    formats::LIST,
    switch("no-trunc", "Do not truncate the output"),
    switch("quiet", "Only display network IDs").short('q'),
];

/// `kelson network ls`.
pub static COMMAND: Command = Command {
    names: &["network ls", "network list"],
    usage: "[OPTIONS]",
    about: "List networks",
    flags: &[FLAGS],
    arity: Arity::None,
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let filters = filters::of(parsed);
    let get = session.client.get("/networks");
    let get = if filters.is_empty() {
        get
    } else {
        get.query("filters", filters.encode())
    };
    let mut networks: Vec<Network> = get.send()?.json()?;
    networks.sort_by(|a, b| a.name.cmp(&b.name));
    let format = formats::of_list(session, parsed, "networksFormat", TABLE, Some("{{.ID}}"));
    let rows: Vec<_> = networks
        .iter()
        .map(|network| {
            let labels = json!(network.labels);
            let pairs = labels.as_object().map(|map| {
                let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
                map.iter()
                    .map(|(key, value)| (key.clone(), text(value)))
                    .collect::<Vec<_>>()
            });
            let pairs = pairs.unwrap_or_default();
            let id = if parsed.on("no-trunc") {
                &network.id
            } else {
                units::short_id(&network.id)
            };
            row(
                labels,
                [
                    ("ID", id.into()),
                    ("Name", network.name.clone().into()),
                    ("Driver", network.driver.clone().into()),
                    ("Scope", network.scope.clone().into()),
                    ("IPv4", network.enable_ipv4.to_string().into()),
                    ("IPv6", network.enable_ipv6.to_string().into()),
                    ("Internal", network.internal.to_string().into()),
                    (
                        "Labels",
                        join_labels(pairs.iter().map(|(key, value)| (key, value))).into(),
                    ),
                    ("CreatedAt", units::go_time_of(&network.created).into()),
                ],
            )
        })
        .collect();
    output::out(LISTING.show(&format, &rows)?.as_bytes())?;
    Ok(0)
}
