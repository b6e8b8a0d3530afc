//! `network connect`.

use std::collections::BTreeMap;

use kelson_api::{EndpointIpamConfig, EndpointSettings, NetworkConnectRequest};

use super::path;
use crate::argv::{Arity, Command, Flag, Parsed, int, list, value};
use crate::commands::container::options::{checks, env::to_map};
use crate::session::Session;

const FLAGS: &[Flag] = &[
    list("alias", "Add network-scoped alias for the container").typed("strings"),
    list("driver-opt", "driver options for the network").typed("strings"),
    int(
        "gw-priority",
        "Highest gw-priority provides the default gateway. Accepts positive and negative values.",
    ),
    value("ip", "string", "IPv4 address (e.g., \"172.30.100.104\")"),
    value("ip6", "string", "IPv6 address (e.g., \"2001:db8::33\")"),
    list("link", "Add link to another container").checked(checks::link),
    list("link-local-ip", "Add a link-local address for the container").typed("strings"),
];

/// `kelson network connect`.
pub static COMMAND: Command = Command {
    names: &["network connect"],
    usage: "[OPTIONS] NETWORK CONTAINER",
    about: "Connect a container to a network",
    flags: &[FLAGS],
    arity: Arity::Exactly(2),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let all = |flag: &str| {
        let values: Vec<String> = parsed.list(flag).map(str::to_owned).collect();
        (!values.is_empty()).then_some(values)
    };
    let text = |flag: &str| parsed.text(flag).unwrap_or_default().to_owned();
    let options: BTreeMap<String, String> = to_map(parsed.list("driver-opt"));
    let ipam = EndpointIpamConfig {
        ipv4_address: text("ip"),
        ipv6_address: text("ip6"),
        link_local_ips: all("link-local-ip"),
    };
    let request = NetworkConnectRequest {
        container: parsed.args[1].clone(),
        endpoint_config: Some(EndpointSettings {
            ipam_config: Some(ipam),
            links: all("link"),
            aliases: all("alias"),
            driver_opts: (!options.is_empty()).then_some(options),
            gw_priority: parsed.int("gw-priority").unwrap_or(0),
            ..EndpointSettings::default()
        }),
    };
    let path = format!("{}/connect", path(&parsed.args[0]));
    session.client.post(path).json(&request)?.send()?;
    Ok(0)
}
