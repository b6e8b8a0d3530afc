//! A network of the user's own: what was asked for, checked, as it is kept, and as kelson-network is told.

use std::net::{IpAddr, Ipv4Addr};

use kelson_api::{Ipam, IpamConfig, Map, Network, NetworkCreateRequest};
use kelson_network::{Ipv4Net, NetworkConfig, valid_subnet};
use serde::{Deserialize, Serialize};

use crate::config::NetworkSettings;
use crate::error::{Error, Result};

/// Longest name of a network, bytes.
const MAX_NAME: usize = 255;
/// Hex digits of the id in a bridge's name: with `kls` in front they fill the 15 characters of a link's name.
const BRIDGE_DIGITS: usize = 12;

const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
const ICC: &str = "com.docker.network.bridge.enable_icc";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
const GATEWAY_MODE: &str = "com.docker.network.bridge.gateway_mode_ipv4";
const DEFAULT_BRIDGE: &str = "com.docker.network.bridge.default_bridge";
const MTU: &str = "com.docker.network.driver.mtu";
const LINK_PREFIX: &str = "com.docker.network.container_iface_prefix";

/// The record: `DATA_ROOT/networks/ID/network.json`. Nothing of it ever changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    pub format: u32,
    pub id: String,
    pub name: String,
    pub created: String,
    pub internal: bool,
    pub attachable: bool,
    pub labels: Map<String>,
    pub options: Map<String>,
    pub ipam_options: Option<Map<String>>,
    pub subnet: Ipv4Net,
    pub gateway: Ipv4Addr,
    pub range: Option<Ipv4Net>,
    /// Addresses that are somebody else's, by name.
    pub auxiliary: Map<Ipv4Addr>,
    /// Whether the user chose the subnet: only then may a container choose its address.
    pub own_subnet: bool,
    /// Fields of a newer release of the same format.
    #[serde(flatten)]
    pub unknown: Map<serde_json::Value>,
}

/// What a request says about addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub subnet: Option<Ipv4Net>,
    pub gateway: Option<Ipv4Addr>,
    pub range: Option<Ipv4Net>,
    pub auxiliary: Map<Ipv4Addr>,
}

impl NetworkRecord {
    /// How the bridge is to be made.
    ///
    /// # Errors
    /// `Invalid` for an option's value.
    pub fn config(&self, engine: &NetworkSettings) -> Result<NetworkConfig> {
        let options = &self.options;
        let text = |key: &str| options.get(key).map(String::as_str).filter(|v| !v.is_empty());
        let bad = |key: &str, value: &str| Error::invalid(format!("invalid value for {key}: {value:?}"));
        let flag = |key: &str, default: bool| -> Result<bool> {
            match text(key) {
                None => Ok(default),
                Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
                Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
                Some(value) => Err(bad(key, value)),
            }
        };
        let host_ip = match text(HOST_BINDING) {
            Some(value) => Some(value.parse::<IpAddr>().map_err(|_| bad(HOST_BINDING, value))?),
            None => engine.default_host_ip,
        };
        let mtu = match text(MTU) {
            Some(value) => {
                let mtu = value.parse().ok().filter(|mtu| (68..=65535).contains(mtu));
                Some(mtu.ok_or_else(|| bad(MTU, value))?)
            }
            None => engine.mtu,
        };
        match text(GATEWAY_MODE) {
            None | Some("nat") => {}
            Some(mode) => {
                return Err(Error::unsupported(format!(
                    "gateway mode {mode:?} is not supported by Kelson yet; \"nat\" is"
                )));
            }
        }
        if options.contains_key(DEFAULT_BRIDGE) {
            return Err(Error::invalid(format!(
                "{DEFAULT_BRIDGE} is for the network bridge alone"
            )));
        }
        let bridge =
            text(BRIDGE_NAME).map_or_else(|| format!("kls{}", &self.id[..BRIDGE_DIGITS]), str::to_owned);
        let valid = (1..=15).contains(&bridge.len())
            && bridge.starts_with(|c: char| c.is_ascii_alphabetic())
            && bridge
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
        if !valid {
            return Err(bad(BRIDGE_NAME, &bridge));
        }
        Ok(NetworkConfig {
            bridge: Some(bridge),
            bip: Some(Ipv4Net::new_assert(self.gateway, self.subnet.prefix_len())),
            mtu,
            default_host_ip: host_ip,
            // The default bridge has the switch in its care; where there is none, each network.
            ip_forward: engine.ip_forward,
            firewall: engine.firewall,
            masquerade: flag(MASQUERADE, true)?,
            inter_container: flag(ICC, true)?,
            internal: self.internal,
            range: self.range,
            reserved: self.auxiliary.values().copied().collect(),
            ..NetworkConfig::default()
        })
    }

    /// Name of a container's link, of those it has; the lowest number that is free.
    pub fn link_name(&self, taken: &[&str]) -> String {
        link_name(self.options.get(LINK_PREFIX).map_or("eth", String::as_str), taken)
    }

    /// As the API shows it, without containers.
    pub fn describe(&self) -> Network {
        let auxiliary: Map<String> = self
            .auxiliary
            .iter()
            .map(|(name, ip)| (name.clone(), ip.to_string()))
            .collect();
        let pool = IpamConfig {
            subnet: self.subnet.to_string(),
            ip_range: self.range.map(|r| r.to_string()).unwrap_or_default(),
            gateway: self.gateway.to_string(),
            auxiliary_addresses: (!auxiliary.is_empty()).then_some(auxiliary),
        };
        Network {
            name: self.name.clone(),
            id: self.id.clone(),
            created: self.created.clone(),
            scope: "local".into(),
            driver: "bridge".into(),
            enable_ipv4: true,
            ipam: Ipam {
                driver: "default".into(),
                options: self.ipam_options.clone(),
                config: Some(vec![pool]),
            },
            internal: self.internal,
            attachable: self.attachable,
            containers: Some(Map::new()),
            options: Some(self.options.clone()),
            labels: Some(self.labels.clone()),
            ..Network::default()
        }
    }
}

/// `eth0`, `eth1`, ...: the first nobody has.
pub(crate) fn link_name(prefix: &str, taken: &[&str]) -> String {
    (0..=taken.len())
        .map(|n| format!("{prefix}{n}"))
        .find(|name| !taken.contains(&name.as_str()))
        .unwrap_or_default()
}

/// Refuses what a request asks for in vain, in docker's words where it has some.
pub(crate) fn check(request: &NetworkCreateRequest) -> Result<()> {
    let name = request.name.as_str();
    if name.trim().is_empty() {
        return Err(Error::invalid("network name cannot be empty"));
    }
    if name.len() > MAX_NAME || name.contains(['/', '\0', '\n']) || name.trim() != name {
        return Err(Error::invalid(format!("invalid network name: {name:?}")));
    }
    if super::NAMES.iter().any(|(predefined, _)| *predefined == name)
        || matches!(name, "default" | "container")
    {
        return Err(Error::denied(format!(
            "operation is not permitted on predefined {name} network"
        )));
    }
    match request.driver.as_str() {
        "" | "default" | "bridge" => {}
        "host" | "null" => {
            let driver = &request.driver;
            return Err(Error::denied(format!(
                "only one instance of \"{driver}\" network is allowed"
            )));
        }
        driver @ ("macvlan" | "ipvlan" | "overlay") => {
            return Err(Error::unsupported(format!(
                "network driver {driver:?} is not supported by Kelson yet; \"bridge\" is"
            )));
        }
        driver => {
            return Err(Error::not_found(format!(
                "could not find plugin {driver} in v1 plugin registry: plugin not found"
            )));
        }
    }
    let ipv6_only = request.enable_ipv4 == Some(false);
    let refusals = [
        (
            request.enable_ipv6 == Some(true),
            "networks with IPv6 (EnableIPv6)",
        ),
        (ipv6_only, "networks without IPv4 (EnableIPv4)"),
        (request.ingress, "ingress networks"),
        (request.config_only, "configuration-only networks (ConfigOnly)"),
        (
            request
                .config_from
                .as_ref()
                .is_some_and(|c| !c.network.is_empty()),
            "networks by another's configuration (ConfigFrom)",
        ),
        (
            !matches!(request.scope.as_str(), "" | "local"),
            "networks of another scope than \"local\"",
        ),
    ];
    match refusals.iter().find(|(hit, _)| *hit) {
        Some((_, what)) => Err(Error::unsupported(format!(
            "{what} are not supported by Kelson yet"
        ))),
        None => Ok(()),
    }
}

/// Reads the IPAM part of a request.
///
/// # Errors
/// `Invalid`, naming the field; `Unsupported` for more than one subnet.
pub(crate) fn addresses(ipam: Option<&Ipam>) -> Result<Addresses> {
    let Some(ipam) = ipam else {
        return Ok(Addresses::default());
    };
    if !matches!(ipam.driver.as_str(), "" | "default") {
        return Err(Error::not_found(format!(
            "could not find IPAM plugin {} in v1 plugin registry: plugin not found",
            ipam.driver
        )));
    }
    // A subnet of IPv6 means nothing in a network without IPv6.
    let mut v4 = ipam.config.iter().flatten().filter(|c| !c.subnet.contains(':'));
    let Some(config) = v4.next() else {
        return Ok(Addresses::default());
    };
    if v4.next().is_some() {
        return Err(Error::invalid("bridge driver doesn't support multiple subnets"));
    }
    pool(config).map_err(|what| Error::invalid(format!("invalid network config: {what}")))
}

fn pool(config: &IpamConfig) -> std::result::Result<Addresses, String> {
    let net = |what: &str, text: &str| -> std::result::Result<Option<Ipv4Net>, String> {
        if text.is_empty() {
            return Ok(None);
        }
        let net: Ipv4Net = text
            .parse()
            .map_err(|_| format!("invalid {what} {text}: invalid CIDR block notation"))?;
        if net.trunc() != net {
            return Err(format!("invalid {what} {text}: it should be {}", net.trunc()));
        }
        Ok(Some(net))
    };
    let subnet = net("subnet", &config.subnet)?;
    let range = net("ip-range", &config.ip_range)?;
    let inside = |what: &str, text: &str| -> std::result::Result<Ipv4Addr, String> {
        let ip: Ipv4Addr = text
            .parse()
            .map_err(|_| format!("invalid {what} {text}: invalid address"))?;
        let subnet = subnet.ok_or_else(|| format!("{what} {text} without a subnet"))?;
        let usable = subnet.contains(&ip) && ip != subnet.network() && ip != subnet.broadcast();
        if usable {
            Ok(ip)
        } else {
            Err(format!(
                "invalid {what} {text}: parent subnet {subnet} doesn't contain it"
            ))
        }
    };
    let gateway = match config.gateway.as_str() {
        "" => None,
        text => Some(inside("gateway", text)?),
    };
    if let Some(subnet) = subnet {
        valid_subnet(subnet).map_err(|e| e.to_string())?;
    }
    if let Some(range) = range {
        let subnet = subnet.ok_or_else(|| format!("ip-range {range} without a subnet"))?;
        if !subnet.contains(&range) {
            return Err(format!(
                "invalid ip-range {range}: parent subnet {subnet} doesn't contain ip-range"
            ));
        }
    }
    let mut auxiliary = Map::new();
    for (name, text) in config.auxiliary_addresses.iter().flatten() {
        auxiliary.insert(name.clone(), inside(&format!("auxiliary address {name}"), text)?);
    }
    Ok(Addresses {
        subnet,
        gateway,
        range,
        auxiliary,
    })
}

/// The gateway when nobody chose one: the first address of the subnet.
pub(crate) fn first_address(subnet: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from_bits(subnet.network().to_bits() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn record(options: &[(&str, &str)]) -> NetworkRecord {
        NetworkRecord {
            format: 1,
            id: "0123456789abcdef".repeat(4),
            name: "back".into(),
            created: String::new(),
            internal: false,
            attachable: false,
            labels: Map::new(),
            options: options
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            ipam_options: None,
            subnet: "10.5.0.0/24".parse().unwrap(),
            gateway: "10.5.0.1".parse().unwrap(),
            range: None,
            auxiliary: Map::new(),
            own_subnet: true,
            unknown: Map::new(),
        }
    }

    #[test]
    fn options_reach_the_bridge() {
        let settings = NetworkSettings::default();
        let plain = record(&[]).config(&settings).unwrap();
        assert_eq!(plain.bridge.as_deref(), Some("kls0123456789ab"));
        assert_eq!(plain.bip.unwrap().to_string(), "10.5.0.1/24");
        assert!(plain.masquerade && plain.inter_container);
        let all = [
            (BRIDGE_NAME, "br-own"),
            (ICC, "false"),
            (MASQUERADE, "0"),
            (HOST_BINDING, "127.0.0.1"),
            (MTU, "1400"),
        ];
        let config = record(&all).config(&settings).unwrap();
        assert_eq!(config.bridge.as_deref(), Some("br-own"));
        assert!(!config.masquerade && !config.inter_container);
        assert_eq!(config.default_host_ip, Some([127, 0, 0, 1].into()));
        assert_eq!(config.mtu, Some(1400));
        for wrong in [
            (BRIDGE_NAME, "a name"),
            (ICC, "perhaps"),
            (MTU, "1"),
            (HOST_BINDING, "x"),
            (GATEWAY_MODE, "routed"),
            (DEFAULT_BRIDGE, "true"),
        ] {
            assert!(record(&[wrong]).config(&settings).is_err(), "{wrong:?}");
        }
    }

    fn ipam(subnet: &str, range: &str, gateway: &str) -> Result<Addresses> {
        addresses(Some(&Ipam {
            driver: "default".into(),
            options: None,
            config: Some(vec![IpamConfig {
                subnet: subnet.into(),
                ip_range: range.into(),
                gateway: gateway.into(),
                auxiliary_addresses: None,
            }]),
        }))
    }

    #[test]
    fn addresses_are_checked_against_their_subnet() {
        let good = ipam("10.5.0.0/16", "10.5.1.0/24", "10.5.9.9").unwrap();
        assert_eq!(good.gateway, Some([10, 5, 9, 9].into()));
        assert_eq!(ipam("", "", "").unwrap(), Addresses::default());
        assert_eq!(ipam("fd00::/64", "", "").unwrap(), Addresses::default());
        for (subnet, range, gateway, word) in [
            ("10.5.0.1/16", "", "", "it should be 10.5.0.0/16"),
            ("10.5.0.0", "", "", "CIDR"),
            ("10.5.0.0/16", "", "10.6.0.1", "gateway"),
            ("10.5.0.0/16", "", "10.5.0.0", "gateway"),
            ("", "", "10.6.0.1", "without a subnet"),
            ("10.5.0.0/16", "10.6.0.0/24", "", "ip-range"),
            ("10.5.0.0/31", "", "", "prefix"),
            ("10.0.0.0/8", "", "", "prefix"),
        ] {
            let error = ipam(subnet, range, gateway).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{subnet}");
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn requests_are_refused_in_dockers_words() {
        let request = |change: &dyn Fn(&mut NetworkCreateRequest)| {
            let mut request = NetworkCreateRequest {
                name: "n".into(),
                ..NetworkCreateRequest::default()
            };
            change(&mut request);
            check(&request).map_err(|e| e.kind())
        };
        assert_eq!(request(&|_| {}), Ok(()));
        assert_eq!(request(&|r| r.name = " ".into()), Err(Kind::Invalid));
        assert_eq!(request(&|r| r.name = "host".into()), Err(Kind::Denied));
        assert_eq!(request(&|r| r.driver = "null".into()), Err(Kind::Denied));
        assert_eq!(request(&|r| r.driver = "macvlan".into()), Err(Kind::Unsupported));
        assert_eq!(request(&|r| r.driver = "weave".into()), Err(Kind::NotFound));
        assert_eq!(request(&|r| r.enable_ipv6 = Some(true)), Err(Kind::Unsupported));
    }

    #[test]
    fn links_of_a_container_have_the_lowest_free_number() {
        assert_eq!(link_name("eth", &[]), "eth0");
        assert_eq!(link_name("eth", &["eth0", "eth2"]), "eth1");
        assert_eq!(link_name("eth", &["eth0", "eth1"]), "eth2");
    }
}
