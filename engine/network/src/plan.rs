//! Every decision of the network that can be made without touching the machine: names, subnets, who owns a bridge,
//! which sockets a port needs, what the host's forwarding switch may become.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::Ipv4Net;

use crate::error::{Error, Kind, Result};
use crate::model::{NetworkConfig, PortSpec};
use crate::netlink::route::{Link, Route};

/// First bridge name, and the prefix of the ones tried when another kelsond has it.
const BRIDGE_PREFIX: &str = "kls";
/// How many bridge names are tried.
const BRIDGES: u8 = 10;
/// Prefix of the host's end of a veth pair. The full name has 12 of the 15 characters a link name may have.
pub(crate) const VETH_PREFIX: &str = "klsv";
/// Hex digits of the container's id in a link name.
const VETH_DIGITS: usize = 8;
/// Mark on bridges of ours, followed by the state directory of the kelsond that made it.
const ALIAS_PREFIX: &str = "kelson ";
/// The kernel's IFALIASZ less its terminator.
const ALIAS_MAX: usize = 255;
const TABLE: &str = "kelson";
/// Prefixes with room for a gateway and one container.
const LONGEST_PREFIX: u8 = 30;
/// Bounds the pool's bitmap: 2^20 addresses take 128 KiB.
const SHORTEST_PREFIX: u8 = 12;

/// The bridge names to try, in order.
pub(crate) fn bridge_names(config: &NetworkConfig) -> Vec<String> {
    match &config.bridge {
        Some(name) => vec![name.clone()],
        None => (0..BRIDGES).map(|n| format!("{BRIDGE_PREFIX}{n}")).collect(),
    }
}

/// The firewall table belonging to a bridge. The ordinary one is plain `kelson`.
pub(crate) fn table_name(bridge: &str) -> String {
    if bridge == "kls0" {
        TABLE.to_owned()
    } else {
        format!("{TABLE}-{bridge}")
    }
}

/// The mark that says which kelsond a bridge belongs to.
pub(crate) fn bridge_alias(state_dir: &str) -> String {
    let mut alias = format!("{ALIAS_PREFIX}{state_dir}");
    while alias.len() > ALIAS_MAX {
        alias.pop();
    }
    alias
}

/// The owner a bridge's mark names, if it is one of ours.
pub(crate) fn alias_owner(alias: &str) -> Option<&str> {
    alias.strip_prefix(ALIAS_PREFIX)
}

/// A link's or a config value's name as the kernel takes it (`dev_valid_name`) and as it may stand in an nft script.
pub(crate) fn valid_link_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
}

/// The host's end of a container's veth pair: eight hex digits of its id; later ones when the first are taken.
pub(crate) fn host_link_name(container_id: &str, taken: impl Fn(&str) -> bool) -> Result<String> {
    let valid = container_id.len() >= VETH_DIGITS && container_id.bytes().all(|b| b.is_ascii_hexdigit());
    if !valid {
        return Err(Error::new(
            Kind::Invalid,
            format!("container id {container_id:?} is not hexadecimal"),
        ));
    }
    (0..=container_id.len() - VETH_DIGITS)
        .filter_map(|start| container_id.get(start..start + VETH_DIGITS))
        .map(|digits| format!("{VETH_PREFIX}{digits}"))
        .find(|name| !taken(name))
        .ok_or_else(|| {
            Error::new(
                Kind::Conflict,
                format!("no free link name for container {container_id}"),
            )
        })
}

/// Whether a link is the host's end of one of our veth pairs, judged by its name.
pub(crate) fn is_host_link(name: &str) -> bool {
    name.strip_prefix(VETH_PREFIX)
        .is_some_and(|rest| rest.len() == VETH_DIGITS && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The bridge's address and subnet: `--bip`, else what it had last time, else the first pool no route of the host
/// meets. `routes` are those over links other than our bridge.
pub(crate) fn choose_subnet(
    config: &NetworkConfig,
    last: Option<Ipv4Net>,
    routes: &[Route],
) -> Result<Ipv4Net> {
    if let Some(bip) = config.bip {
        return valid_subnet(bip).map(|()| bip);
    }
    let free = |candidate: &Ipv4Net| {
        // The default route meets everything and says nothing about what is in use.
        !routes
            .iter()
            .map(|r| r.destination)
            .any(|net| net.prefix_len() > 0 && overlap(&net, candidate))
    };
    if let Some(last) = last.filter(|l| config.pools.iter().any(|pool| pool.contains(&l.trunc())) && free(l))
    {
        return Ok(last);
    }
    for pool in config.pools.iter().map(Ipv4Net::trunc) {
        valid_subnet(pool)?;
        if free(&pool) {
            let gateway = Ipv4Addr::from_bits(pool.network().to_bits() + 1);
            return Ok(Ipv4Net::new_assert(gateway, pool.prefix_len()));
        }
    }
    let tried: Vec<String> = config.pools.iter().map(ToString::to_string).collect();
    let why = format!(
        "no free subnet among {}: routes of this host cover them all",
        tried.join(", ")
    );
    Err(Error::new(
        Kind::Unavailable,
        why + ". hint: give one with --bip ADDRESS/PREFIX",
    ))
}

/// Whether a subnet has room for containers, and no more than is wise.
///
/// # Errors
/// `Invalid` with the limits.
pub fn valid_subnet(net: Ipv4Net) -> Result<()> {
    if (SHORTEST_PREFIX..=LONGEST_PREFIX).contains(&net.prefix_len()) {
        Ok(())
    } else {
        let limits = format!("between /{SHORTEST_PREFIX} and /{LONGEST_PREFIX}");
        Err(Error::new(
            Kind::Invalid,
            format!("subnet {net}: the prefix must lie {limits}"),
        ))
    }
}

pub(crate) fn overlap(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// MTU of the link the default route leaves by; 1500 where there is none.
pub(crate) fn default_mtu(links: &[Link], routes: &[Route]) -> u32 {
    const ETHERNET: u32 = 1500;
    let index = routes
        .iter()
        .find(|r| r.destination.prefix_len() == 0)
        .and_then(|r| r.link);
    // A tunnel may report 65535 or 0; a veth takes 68 to 65535, and containers expect an ethernet's.
    links
        .iter()
        .find(|l| Some(l.index) == index)
        .map_or(ETHERNET, |l| l.mtu)
        .clamp(576, 9216)
}

/// What to do about a link that has the name we want for our bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BridgeClaim {
    /// There is none: make it.
    Make,
    /// It is ours, or its owner's state has gone: use it.
    Adopt,
    /// Another kelsond's: try another name.
    Taken(String),
    /// A bridge of the administrator's: use its address, never delete it. Only when named by `--bridge`.
    Foreign,
    /// Not a bridge at all.
    Unusable,
}

/// Decides that. `owner_exists` tells whether a state directory is still there.
pub(crate) fn judge_bridge(
    link: Option<&Link>,
    state_dir: &str,
    named_by_user: bool,
    owner_exists: impl Fn(&str) -> bool,
) -> BridgeClaim {
    let Some(link) = link else {
        return BridgeClaim::Make;
    };
    if link.kind != "bridge" {
        return BridgeClaim::Unusable;
    }
    match alias_owner(&link.alias) {
        Some(_) if link.alias == bridge_alias(state_dir) => BridgeClaim::Adopt,
        Some(owner) if owner_exists(owner) => BridgeClaim::Taken(owner.to_owned()),
        Some(_) => BridgeClaim::Adopt,
        None if named_by_user => BridgeClaim::Foreign,
        None => BridgeClaim::Unusable,
    }
}

/// Links through which the host meets the outside: physical ones and what is stacked on them. When we turn
/// forwarding on, nothing shall be forwarded from one of these to another on our account. Bridges, tunnels and veths
/// of others are left out on purpose: who made them decides about them.
pub(crate) fn outside_links(links: &[Link]) -> Vec<String> {
    let outside = |l: &&Link| !l.loopback && matches!(l.kind.as_str(), "" | "vlan" | "bond" | "team");
    links
        .iter()
        .filter(outside)
        .map(|l| l.name.clone())
        .filter(|n| valid_link_name(n))
        .collect()
}

/// Whether forwarding may be switched off again: only when no link hints at another user of it.
pub(crate) fn may_stop_forwarding(links: &[Link]) -> bool {
    links
        .iter()
        .all(|l| l.loopback || matches!(l.kind.as_str(), "" | "vlan" | "bond" | "team" | "dummy" | "ifb"))
}

/// Whether `reconcile` deletes a link: one of our names on our bridge, or on none (its bridge has been deleted, and
/// ours are always made on one), that no live container has.
pub(crate) fn is_orphan(link: &Link, bridge_index: Option<u32>, live: impl Fn(&str) -> bool) -> bool {
    link.kind == "veth"
        && is_host_link(&link.name)
        && (link.master.is_none() || link.master == bridge_index)
        && !live(&link.name)
}

/// The host addresses a port wish needs sockets on, and whether the second may be left out when the host has no
/// IPv6.
pub(crate) fn socket_addresses(spec: &PortSpec, config: &NetworkConfig) -> (IpAddr, Option<IpAddr>) {
    match spec.host_ip.or(config.default_host_ip) {
        Some(ip) => (ip, None),
        None => (Ipv4Addr::UNSPECIFIED.into(), Some(Ipv6Addr::UNSPECIFIED.into())),
    }
}

/// Checks a wish: `0` cannot be part of a range, and a range runs upwards.
pub(crate) fn check_port(spec: &PortSpec) -> Result<()> {
    let PortSpec {
        host_port,
        host_port_end,
        container_port,
        ..
    } = *spec;
    let wrong = |what: String| Err(Error::new(Kind::Invalid, what));
    if container_port == 0 {
        wrong("invalid containerPort: 0".to_owned())
    } else if host_port_end < host_port || (host_port == 0 && host_port_end != 0) {
        wrong(format!(
            "invalid range of host ports: {host_port}-{host_port_end}"
        ))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Proto;

    fn route(net: &str, link: u32) -> Route {
        Route {
            destination: net.parse().unwrap(),
            link: Some(link),
        }
    }

    fn link(name: &str, kind: &str) -> Link {
        Link {
            name: name.into(),
            kind: kind.into(),
            ..Link::default()
        }
    }

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn subnet_is_the_first_no_route_meets() {
        let config = NetworkConfig::default();
        let none = choose_subnet(&config, None, &[route("0.0.0.0/0", 2)]).unwrap();
        assert_eq!(none.to_string(), "172.30.0.1/16");
        // A route into the pool, one over the pool, and a host route all rule it out.
        for met in ["172.30.5.0/24", "172.16.0.0/12", "172.30.0.9/32"] {
            let chosen = choose_subnet(&config, None, &[route(met, 2)]).unwrap();
            assert!(!overlap(&chosen, &met.parse().unwrap()), "{met}: {chosen}");
        }
    }

    #[test]
    fn last_subnet_is_kept_while_it_is_free_and_allowed() {
        let config = NetworkConfig::default();
        let last: Ipv4Net = "172.29.0.1/16".parse().unwrap();
        assert_eq!(choose_subnet(&config, Some(last), &[]).unwrap(), last);
        assert_ne!(
            choose_subnet(&config, Some(last), &[route("172.29.0.0/16", 3)]).unwrap(),
            last
        );
        let foreign = "10.99.0.1/24".parse().unwrap();
        assert_ne!(choose_subnet(&config, Some(foreign), &[]).unwrap(), foreign);
    }

    #[test]
    fn no_pool_left_and_silly_prefixes_are_errors() {
        let config = NetworkConfig {
            pools: vec!["10.0.0.0/24".parse().unwrap()],
            ..NetworkConfig::default()
        };
        let full = choose_subnet(&config, None, &[route("10.0.0.0/8", 2)]).unwrap_err();
        assert_eq!(full.kind(), Kind::Unavailable);
        for bip in ["10.0.0.1/8", "10.0.0.1/31"] {
            let config = NetworkConfig {
                bip: bip.parse().ok(),
                ..NetworkConfig::default()
            };
            assert_eq!(
                choose_subnet(&config, None, &[]).unwrap_err().kind(),
                Kind::Invalid,
                "{bip}"
            );
        }
    }

    #[test]
    fn link_names_fit_and_step_aside() {
        assert_eq!(host_link_name(ID, |_| false).unwrap(), "klsv01234567");
        assert_eq!(
            host_link_name(ID, |n| n == "klsv01234567").unwrap(),
            "klsv12345678"
        );
        assert!(is_host_link("klsv01234567") && !is_host_link("klsv0123") && !is_host_link("kls0"));
        assert!(host_link_name("web", |_| false).is_err());
    }

    #[test]
    fn bridges_of_others_are_left_alone() {
        let ours = Link {
            alias: bridge_alias("/s"),
            ..link("kls0", "bridge")
        };
        assert_eq!(judge_bridge(None, "/s", false, |_| true), BridgeClaim::Make);
        assert_eq!(
            judge_bridge(Some(&ours), "/s", false, |_| true),
            BridgeClaim::Adopt
        );
        assert_eq!(
            judge_bridge(Some(&ours), "/t", false, |_| true),
            BridgeClaim::Taken("/s".into())
        );
        assert_eq!(
            judge_bridge(Some(&ours), "/t", false, |_| false),
            BridgeClaim::Adopt
        );
        assert_eq!(
            judge_bridge(Some(&link("kls0", "bridge")), "/s", false, |_| true),
            BridgeClaim::Unusable
        );
        assert_eq!(
            judge_bridge(Some(&link("br0", "bridge")), "/s", true, |_| true),
            BridgeClaim::Foreign
        );
        assert_eq!(
            judge_bridge(Some(&link("kls0", "veth")), "/s", true, |_| true),
            BridgeClaim::Unusable
        );
    }

    #[test]
    fn orphans_are_ours_by_name_and_place() {
        let on = |master| Link {
            master,
            ..link("klsv01234567", "veth")
        };
        assert!(is_orphan(&on(Some(7)), Some(7), |_| false));
        assert!(is_orphan(&on(None), Some(7), |_| false));
        assert!(!is_orphan(&on(Some(8)), Some(7), |_| false));
        assert!(!is_orphan(&on(Some(7)), Some(7), |_| true));
        assert!(!is_orphan(&link("klsv01234567", "dummy"), Some(7), |_| false));
        assert!(!is_orphan(&link("veth0", "veth"), Some(7), |_| false));
    }

    #[test]
    fn forwarding_stays_on_for_others() {
        let lo = Link {
            loopback: true,
            ..link("lo", "")
        };
        assert!(may_stop_forwarding(&[lo.clone(), link("eth0", "")]));
        assert!(may_stop_forwarding(&[lo.clone(), link("ifb0", "ifb")]));
        assert!(!may_stop_forwarding(&[lo.clone(), link("docker0", "bridge")]));
        assert_eq!(
            outside_links(&[lo, link("eth0", ""), link("docker0", "bridge")]),
            ["eth0"]
        );
    }

    #[test]
    fn default_mtu_follows_the_default_route() {
        let links = [Link {
            index: 2,
            mtu: 1450,
            ..link("eth0", "")
        }];
        assert_eq!(default_mtu(&links, &[route("0.0.0.0/0", 2)]), 1450);
        assert_eq!(default_mtu(&links, &[]), 1500);
    }

    #[test]
    fn port_wishes() {
        let spec = PortSpec::new(Proto::Tcp, 8080, 80);
        assert!(check_port(&spec).is_ok());
        assert!(
            check_port(&PortSpec {
                host_port_end: 8079,
                ..spec.clone()
            })
            .is_err()
        );
        assert!(
            check_port(&PortSpec {
                host_port: 0,
                ..spec.clone()
            })
            .is_err()
        );
        assert!(
            check_port(&PortSpec {
                container_port: 0,
                ..spec.clone()
            })
            .is_err()
        );
        let config = NetworkConfig {
            default_host_ip: Some([10, 0, 0, 1].into()),
            ..NetworkConfig::default()
        };
        assert_eq!(socket_addresses(&spec, &config), ([10, 0, 0, 1].into(), None));
        assert!(socket_addresses(&spec, &NetworkConfig::default()).1.is_some());
    }
}
