//! Our table: what every rule says and why. Pure. `tests/ruleset.rs` compares what the kernel then holds with the
//! same table as text, read by `nft`.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use crate::model::{PortMapping, Proto};
use crate::netlink::nf_tables::{Chain, Hook, RawElement, Set, Table};
use crate::netlink::nft_rule::{Is, Rule, link_name};

/// Ports published on every IPv4 address of the host.
const MAP_ANY: &str = "publish_any";
/// Ports published on one address of the host.
const MAP_IP: &str = "publish_ip";
/// The host's links to the outside.
const SET_OUTSIDE: &str = "outside";
/// The chain that looks published ports up.
const PUBLISHED: &str = "published";

/// Numbers of hooks (`enum nf_inet_hooks`) and of priorities.
const PRE_ROUTING: u32 = 0;
const FORWARD: u32 = 2;
const LOCAL_OUT: u32 = 3;
const POST_ROUTING: u32 = 4;
const PRIORITY_DSTNAT: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SRCNAT: i32 = 100;
/// `nft`'s numbers of data types. A concatenation has six bits for each of its fields.
const TYPE_IPV4_ADDR: u32 = 7;
const TYPE_INET_PROTO: u32 = 12;
const TYPE_INET_SERVICE: u32 = 13;
const TYPE_IFNAME: u32 = 41;

/// What the table is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TablePlan {
    pub(crate) table: String,
    pub(crate) bridge: String,
    pub(crate) subnet: Ipv4Net,
    pub(crate) masquerade: bool,
    pub(crate) inter_container: bool,
    /// No way out and none in.
    pub(crate) internal: bool,
    /// The host's links to the outside, when it forwards only because we made it; else empty.
    pub(crate) outside: Vec<String>,
}

/// One published port: where a packet must be going, and where it goes instead.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Element {
    pub(crate) host_ip: Option<Ipv4Addr>,
    pub(crate) proto: Proto,
    pub(crate) host_port: u16,
    pub(crate) container_ip: Ipv4Addr,
    pub(crate) container_port: u16,
    /// Who it belongs to, shown as its comment.
    pub(crate) owner: String,
}

impl Element {
    /// The element a mapping needs; none for IPv6 and loopback, which the shim forwards from the bound socket.
    /// (Translating 127/8 would need `route_localnet`, which opens loopback services to the network.)
    pub(crate) fn of(mapping: &PortMapping, container_ip: Ipv4Addr, owner: &str) -> Option<Self> {
        let IpAddr::V4(host_ip) = mapping.host_ip else {
            return None;
        };
        (!host_ip.is_loopback()).then(|| Self {
            host_ip: (!host_ip.is_unspecified()).then_some(host_ip),
            proto: mapping.proto,
            host_port: mapping.host_port,
            container_ip,
            container_port: mapping.container_port,
            owner: owner.chars().take(12).collect(),
        })
    }

    /// What makes it unique in its map.
    pub(crate) fn key(&self) -> (Option<Ipv4Addr>, Proto, u16) {
        (self.host_ip, self.proto, self.host_port)
    }

    fn map(&self) -> &'static str {
        if self.host_ip.is_some() { MAP_IP } else { MAP_ANY }
    }

    /// As it goes to the kernel.
    pub(crate) fn raw(&self) -> RawElement {
        const IPPROTO_TCP: u8 = 6;
        const IPPROTO_UDP: u8 = 17;
        let port = |port: u16| {
            let [high, low] = port.to_be_bytes();
            [high, low, 0, 0]
        };
        let proto = match self.proto {
            Proto::Tcp => IPPROTO_TCP,
            Proto::Udp => IPPROTO_UDP,
        };
        let mut key: Vec<u8> = self.host_ip.map(|ip| ip.octets().to_vec()).unwrap_or_default();
        key.extend([proto, 0, 0, 0]);
        key.extend(port(self.host_port));
        let mut value = self.container_ip.octets().to_vec();
        value.extend(port(self.container_port));
        RawElement {
            map: self.map(),
            key,
            value,
            comment: self.owner.clone(),
        }
    }
}

/// The whole table.
pub(crate) fn table<'a>(plan: &TablePlan, elements: impl Iterator<Item = &'a Element>) -> Table {
    let mut raw: Vec<RawElement> = elements.map(Element::raw).collect();
    raw.extend(plan.outside.iter().map(|name| RawElement {
        map: SET_OUTSIDE,
        key: link_name(name).to_vec(),
        value: Vec::new(),
        comment: String::new(),
    }));
    // Neighbours of one map share a message.
    raw.sort_by_key(|e| e.map);
    Table {
        name: plan.table.clone(),
        sets: sets(plan),
        chains: chains(plan),
        elements: raw,
    }
}

fn sets(plan: &TablePlan) -> Vec<Set> {
    let target = Some((TYPE_IPV4_ADDR << 6 | TYPE_INET_SERVICE, 8));
    let port = TYPE_INET_PROTO << 6 | TYPE_INET_SERVICE;
    let mut sets = vec![
        Set {
            name: MAP_ANY,
            key_type: port,
            key_length: 8,
            data: target,
            host_order: false,
        },
        Set {
            name: MAP_IP,
            key_type: TYPE_IPV4_ADDR << 12 | port,
            key_length: 12,
            data: target,
            host_order: false,
        },
    ];
    if !plan.outside.is_empty() {
        sets.push(Set {
            name: SET_OUTSIDE,
            key_type: TYPE_IFNAME,
            key_length: 16,
            data: None,
            host_order: true,
        });
    }
    sets
}

fn chains(plan: &TablePlan) -> Vec<Chain> {
    let nat = |number, priority| {
        Some(Hook {
            kind: "nat",
            number,
            priority,
        })
    };
    let published = || Rule::new().daddr_is_local().jump(PUBLISHED);
    // Where containers may not reach each other, one that asks for a published port gets the shim's socket: a
    // translated packet would be stopped between the isolated ports of the bridge.
    let incoming = if plan.inter_container {
        published()
    } else {
        Rule::new()
            .iifname(Is::NotEqual, &plan.bridge)
            .daddr_is_local()
            .jump(PUBLISHED)
    };
    // Loopback addresses reach the bound sockets, which the shim forwards.
    let loopback = Rule::new()
        .ip_daddr(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8))
        .leave();
    let lookups = vec![
        Rule::new().dnat_by_address_and_port(MAP_IP),
        Rule::new().dnat_by_port(MAP_ANY),
    ];
    vec![
        Chain {
            name: PUBLISHED,
            hook: None,
            rules: lookups,
        },
        Chain {
            name: "prerouting",
            hook: nat(PRE_ROUTING, PRIORITY_DSTNAT),
            rules: vec![incoming],
        },
        Chain {
            name: "output",
            hook: nat(LOCAL_OUT, PRIORITY_DSTNAT),
            rules: vec![loopback, published()],
        },
        Chain {
            name: "postrouting",
            hook: nat(POST_ROUTING, PRIORITY_SRCNAT),
            rules: postrouting(plan),
        },
        Chain {
            name: "forward",
            hook: Some(Hook {
                kind: "filter",
                number: FORWARD,
                priority: PRIORITY_FILTER,
            }),
            rules: forward(plan),
        },
    ]
}

fn postrouting(plan: &TablePlan) -> Vec<Rule> {
    if plan.internal {
        return Vec::new();
    }
    let from_us = || Rule::new().ip_saddr(plan.subnet.trunc());
    let mut rules = Vec::new();
    if plan.masquerade {
        rules.push(from_us().oifname(Is::NotEqual, &plan.bridge).masquerade());
    }
    // A container that asks for a port of the host and is sent to its neighbour, or to itself: the answer must come
    // back through us to be translated back, so we stand in as its source.
    rules.push(from_us().oifname(Is::Equal, &plan.bridge).ct_dnat().masquerade());
    rules
}

fn forward(plan: &TablePlan) -> Vec<Rule> {
    let from = || Rule::new().iifname(Is::Equal, &plan.bridge);
    let to = || Rule::new().oifname(Is::Equal, &plan.bridge);
    if plan.internal {
        let mut rules = vec![
            from().oifname(Is::NotEqual, &plan.bridge).drop(),
            to().iifname(Is::NotEqual, &plan.bridge).drop(),
        ];
        if !plan.inter_container {
            rules.push(from().oifname(Is::Equal, &plan.bridge).drop());
        }
        return rules;
    }
    let mut rules = vec![to().ct_established_related().accept()];
    if !plan.inter_container {
        // On the wire the ports are isolated from each other; this is for packets sent to the gateway's MAC.
        rules.push(from().oifname(Is::Equal, &plan.bridge).drop());
    }
    rules.push(from().accept());
    rules.push(to().ct_dnat().accept());
    // Who has a route to the subnet still reaches no port that is not published.
    rules.push(to().drop());
    if !plan.outside.is_empty() {
        // We switched forwarding on: that must not make a router of the host.
        rules.push(Rule::new().between_links_of(SET_OUTSIDE).drop());
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> TablePlan {
        TablePlan {
            table: "kelson".into(),
            bridge: "kls0".into(),
            subnet: "172.30.0.1/16".parse().unwrap(),
            masquerade: true,
            inter_container: true,
            internal: false,
            outside: vec![],
        }
    }

    fn mapping(host_ip: [u8; 4], host_port: u16) -> PortMapping {
        PortMapping {
            proto: Proto::Tcp,
            host_ip: IpAddr::from(host_ip),
            host_port,
            container_port: 80,
        }
    }

    fn element(host_ip: [u8; 4], host_port: u16) -> Option<Element> {
        Element::of(
            &mapping(host_ip, host_port),
            Ipv4Addr::new(172, 30, 0, 2),
            "0123456789abcdef",
        )
    }

    #[test]
    fn loopback_and_ipv6_are_not_translated() {
        assert!(element([127, 0, 0, 1], 8080).is_none());
        let v6 = PortMapping {
            host_ip: "::".parse().unwrap(),
            ..mapping([0; 4], 8080)
        };
        assert!(Element::of(&v6, Ipv4Addr::new(172, 30, 0, 2), "a").is_none());
    }

    #[test]
    fn elements_have_the_kernels_layout() {
        let any = element([0, 0, 0, 0], 8080).unwrap().raw();
        assert_eq!(any.map, MAP_ANY);
        assert_eq!(any.key, [6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        assert_eq!(any.value, [172, 30, 0, 2, 0, 80, 0, 0]);
        let one = element([10, 0, 0, 1], 53).unwrap().raw();
        assert_eq!(
            (one.map, one.key.as_slice()),
            (MAP_IP, &[10, 0, 0, 1, 6, 0, 0, 0, 0, 53, 0, 0][..])
        );
    }

    #[test]
    fn switches_change_the_chains_they_name() {
        let open = table(&plan(), [].iter());
        let closed = TablePlan {
            masquerade: false,
            inter_container: false,
            outside: vec!["eth0".into()],
            ..plan()
        };
        let closed = table(&closed, [].iter());
        let rules = |table: &Table| {
            table
                .chains
                .iter()
                .map(|c| (c.name, c.rules.len()))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            rules(&open),
            [
                (PUBLISHED, 2),
                ("prerouting", 1),
                ("output", 2),
                ("postrouting", 2),
                ("forward", 4)
            ]
        );
        assert_eq!(
            rules(&closed),
            [
                (PUBLISHED, 2),
                ("prerouting", 1),
                ("output", 2),
                ("postrouting", 1),
                ("forward", 6)
            ]
        );
        assert_eq!((open.elements.len(), closed.elements.len()), (0, 1));
        let internal = TablePlan {
            internal: true,
            ..plan()
        };
        assert_eq!(
            rules(&table(&internal, [].iter()))[3..],
            [("postrouting", 0), ("forward", 2)]
        );
    }
}
