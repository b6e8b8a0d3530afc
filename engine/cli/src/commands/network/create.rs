//! `network create`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::bail;
use kelson_api::{ConfigReference, Ipam, IpamConfig, NetworkCreateRequest, NetworkCreateResponse};

use crate::argv::{Arity, Command, Flag, Parsed, list, switch, value};
use crate::commands::container::options::env::to_map;
use crate::output;
use crate::session::Session;

const FLAGS: &[Flag] = &[
    switch("attachable", "Enable manual container attachment"),
    list(
        "aux-address",
        "Auxiliary IPv4 or IPv6 addresses used by Network driver",
    )
    .typed("map")
    .default("map[]"),
    value(
        "config-from",
        "string",
        "The network from which to copy the configuration",
    ),
    switch("config-only", "Create a configuration only network"),
    value("driver", "string", "Driver to manage the Network")
        .short('d')
        .default("\"bridge\""),
    list("gateway", "IPv4 or IPv6 Gateway for the master subnet").typed("strings"),
    switch("ingress", "Create swarm routing-mesh network"),
    switch("internal", "Restrict external access to the network"),
    list("ip-range", "Allocate container ip from a sub-range").typed("strings"),
    value("ipam-driver", "string", "IP Address Management Driver").default("\"default\""),
    list("ipam-opt", "Set IPAM driver specific options")
        .typed("map")
        .default("map[]"),
    switch("ipv4", "Enable or disable IPv4 address assignment"),
    switch("ipv6", "Enable or disable IPv6 address assignment"),
    list("label", "Set metadata on a network"),
    list("opt", "Set driver specific options")
        .typed("map")
        .short('o')
        .default("map[]"),
    value("scope", "string", "Control the network's scope"),
    list(
        "subnet",
        "Subnet in CIDR format that represents a network segment",
    )
    .typed("strings"),
];

/// `kelson network create`.
pub static COMMAND: Command = Command {
    names: &["network create"],
    usage: "[OPTIONS] NETWORK",
    about: "Create a network",
    flags: &[FLAGS],
    arity: Arity::Exactly(1),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let map = |flag: &str| to_map(parsed.list(flag));
    let text = |flag: &str| parsed.text(flag).unwrap_or_default().to_owned();
    let options = map("ipam-opt");
    let config = pools(
        &split(parsed, "subnet"),
        &split(parsed, "ip-range"),
        &split(parsed, "gateway"),
        &map("aux-address"),
    )?;
    let request = NetworkCreateRequest {
        name: parsed.args[0].clone(),
        driver: parsed.text("driver").unwrap_or("bridge").into(),
        scope: text("scope"),
        enable_ipv4: parsed.switch("ipv4"),
        enable_ipv6: parsed.switch("ipv6"),
        ipam: Some(Ipam {
            driver: parsed.text("ipam-driver").unwrap_or("default").into(),
            options: Some(options),
            config: Some(config),
        }),
        internal: parsed.on("internal"),
        attachable: parsed.on("attachable"),
        ingress: parsed.on("ingress"),
        config_only: parsed.on("config-only"),
        config_from: parsed.text("config-from").map(|network| ConfigReference {
            network: network.to_owned(),
        }),
        options: Some(map("opt")),
        labels: Some(map("label")),
        ..NetworkCreateRequest::default()
    };
    let answer: NetworkCreateResponse = session
        .client
        .post("/networks/create")
        .json(&request)?
        .send()?
        .json()?;
    output::line(&answer.id)?;
    Ok(0)
}

/// Values of a flag that may be given again, or hold several with commas.
fn split(parsed: &Parsed, flag: &str) -> Vec<String> {
    let all = parsed.list(flag).flat_map(|text| text.split(','));
    all.filter(|text| !text.is_empty()).map(str::to_owned).collect()
}

/// Gives each range, gateway and auxiliary address to the subnet it lies in.
fn pools(
    subnets: &[String],
    ranges: &[String],
    gateways: &[String],
    auxiliary: &BTreeMap<String, String>,
) -> anyhow::Result<Vec<IpamConfig>> {
    if subnets.len() < ranges.len() || subnets.len() < gateways.len() {
        bail!("every ip-range or gateway must have a corresponding subnet");
    }
    let mut pools: Vec<IpamConfig> = Vec::with_capacity(subnets.len());
    for subnet in subnets {
        let Some(net) = Net::parse(subnet) else {
            bail!("invalid subnet {subnet}: invalid CIDR address: {subnet}");
        };
        for other in &pools {
            if Net::parse(&other.subnet).is_some_and(|other| other.has(net.ip) || net.has(other.ip)) {
                bail!("multiple overlapping subnet configuration is not supported");
            }
        }
        pools.push(IpamConfig {
            subnet: subnet.clone(),
            ..IpamConfig::default()
        });
    }
    for range in ranges {
        let pool = pool_of(&mut pools, range, "range")?;
        if !pool.ip_range.is_empty() {
            bail!(
                "cannot configure multiple ranges ({range}, {}) on the same subnet ({})",
                pool.ip_range,
                pool.subnet
            );
        }
        pool.ip_range.clone_from(range);
    }
    for gateway in gateways {
        let pool = pool_of(&mut pools, gateway, "gateway")?;
        if !pool.gateway.is_empty() {
            bail!(
                "cannot configure multiple gateways ({gateway}, {}) for the same subnet ({})",
                pool.gateway,
                pool.subnet
            );
        }
        pool.gateway.clone_from(gateway);
    }
    for (name, ip) in auxiliary {
        let pool = pool_of(&mut pools, ip, "aux-address")?;
        let map = pool.auxiliary_addresses.get_or_insert_default();
        map.insert(name.clone(), ip.clone());
    }
    Ok(pools)
}

/// The pool whose subnet holds an address, or the address a range begins with.
fn pool_of<'a>(pools: &'a mut [IpamConfig], text: &str, what: &str) -> anyhow::Result<&'a mut IpamConfig> {
    let ip: Option<IpAddr> = text.split('/').next().and_then(|ip| ip.parse().ok());
    let holds = |pool: &&mut IpamConfig| {
        ip.zip(Net::parse(&pool.subnet))
            .is_some_and(|(ip, net)| net.has(ip))
    };
    match pools.iter_mut().find(holds) {
        Some(pool) => Ok(pool),
        None => bail!("no matching subnet for {what} {text}"),
    }
}

/// An address with the length of its prefix.
#[derive(Debug, Clone, Copy)]
struct Net {
    ip: IpAddr,
    prefix: u32,
}

impl Net {
    fn parse(text: &str) -> Option<Self> {
        let (ip, prefix) = text.split_once('/')?;
        let (ip, prefix): (IpAddr, u32) = (ip.parse().ok()?, prefix.parse().ok()?);
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        (prefix <= longest).then_some(Self { ip, prefix })
    }

    fn has(self, ip: IpAddr) -> bool {
        let bits = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => u128::from(ip.to_bits()) << 96,
            IpAddr::V6(ip) => ip.to_bits(),
        };
        let mask = if self.prefix == 0 {
            0
        } else {
            u128::MAX << (128 - self.prefix)
        };
        self.ip.is_ipv4() == ip.is_ipv4() && bits(self.ip) & mask == bits(ip) & mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn everything_goes_to_the_subnet_it_lies_in() {
        let auxiliary = BTreeMap::from([("router".to_owned(), "fd00::5".to_owned())]);
        let pools = pools(
            &texts(&["10.1.0.0/16", "fd00::/64"]),
            &texts(&["10.1.2.0/24"]),
            &texts(&["fd00::1", "10.1.0.9"]),
            &auxiliary,
        )
        .unwrap();
        assert_eq!(
            (pools[0].ip_range.as_str(), pools[0].gateway.as_str()),
            ("10.1.2.0/24", "10.1.0.9")
        );
        assert_eq!(pools[1].gateway, "fd00::1");
        assert_eq!(
            pools[1].auxiliary_addresses.as_ref().unwrap()["router"],
            "fd00::5"
        );
    }

    #[test]
    fn what_belongs_nowhere_is_refused() {
        let none = BTreeMap::new();
        let error = |subnets: &[&str], ranges: &[&str], gateways: &[&str]| {
            pools(&texts(subnets), &texts(ranges), &texts(gateways), &none)
                .unwrap_err()
                .to_string()
        };
        assert!(error(&[], &[], &["10.1.0.1"]).contains("corresponding subnet"));
        assert!(error(&["10.1.0.0/16"], &[], &["10.2.0.1"]).contains("no matching subnet for gateway"));
        assert!(error(&["10.1.0.0/16"], &["10.2.0.0/24"], &[]).contains("no matching subnet for range"));
        assert!(error(&["10.1.0.0/16", "10.1.2.0/24"], &[], &[]).contains("overlapping"));
        assert!(error(&["10.1.0.0"], &[], &[]).contains("invalid CIDR"));
    }
}
