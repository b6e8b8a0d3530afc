//! The text of our table: what every rule says and why. Pure; a snapshot test holds the result.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use crate::model::{PortMapping, Proto};
use crate::netlink::nf_tables::RawElement;

/// Ports published on every IPv4 address of the host.
const MAP_ANY: &str = "publish_any";
/// Ports published on one address of the host.
const MAP_IP: &str = "publish_ip";

/// What the table is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TablePlan {
    pub(crate) table: String,
    pub(crate) bridge: String,
    pub(crate) subnet: Ipv4Net,
    pub(crate) masquerade: bool,
    pub(crate) inter_container: bool,
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

    fn text(&self) -> String {
        let Self {
            proto,
            host_port,
            container_ip,
            container_port,
            owner,
            ..
        } = self;
        let ip = self.host_ip.map(|ip| format!("{ip} . ")).unwrap_or_default();
        format!("{ip}{proto} . {host_port} comment \"{owner}\" : {container_ip} . {container_port}")
    }
}

/// The script for `nft -f -` that makes the whole table in one transaction, in place of the one there is.
pub(crate) fn render<'a>(
    plan: &TablePlan,
    elements: impl Iterator<Item = &'a Element> + Clone,
    replace: bool,
) -> String {
    let table = &plan.table;
    let mut out = String::new();
    if replace {
        // Adding what is there does nothing, and deleting what is not would fail.
        let _ = writeln!(out, "add table inet {table}\ndelete table inet {table}");
    }
    let _ = writeln!(out, "table inet {table} {{");
    map(
        &mut out,
        MAP_ANY,
        "inet_proto . inet_service",
        elements.clone().filter(|e| e.host_ip.is_none()),
    );
    map(
        &mut out,
        MAP_IP,
        "ipv4_addr . inet_proto . inet_service",
        elements.filter(|e| e.host_ip.is_some()),
    );
    chain(
        &mut out,
        "published",
        None,
        &[
            format!("dnat ip to ip daddr . meta l4proto . th dport map @{MAP_IP}"),
            format!("dnat ip to meta l4proto . th dport map @{MAP_ANY}"),
        ],
    );
    let published = "fib daddr type local jump published";
    // Where containers may not reach each other, one that asks for a published port gets the shim's socket: a
    // translated packet would be stopped between the isolated ports of the bridge.
    let from = if plan.inter_container {
        String::new()
    } else {
        format!("iifname != \"{}\" ", plan.bridge)
    };
    chain(
        &mut out,
        "prerouting",
        Some("nat hook prerouting priority dstnat"),
        &[format!("{from}{published}")],
    );
    // Loopback addresses reach the bound sockets, which the shim forwards.
    let loopback = "ip daddr 127.0.0.0/8 return".to_owned();
    chain(
        &mut out,
        "output",
        // nft knows the name dstnat in prerouting only.
        Some("nat hook output priority -100"),
        &[loopback, published.to_owned()],
    );
    chain(
        &mut out,
        "postrouting",
        Some("nat hook postrouting priority srcnat"),
        &postrouting(plan),
    );
    chain(
        &mut out,
        "forward",
        Some("filter hook forward priority filter"),
        &forward(plan),
    );
    out.push_str("}\n");
    out
}

fn postrouting(plan: &TablePlan) -> Vec<String> {
    let TablePlan { bridge, subnet, .. } = plan;
    let subnet = subnet.trunc();
    let mut rules = Vec::new();
    if plan.masquerade {
        rules.push(format!("ip saddr {subnet} oifname != \"{bridge}\" masquerade"));
    }
    // A container that asks for a port of the host and is sent to its neighbour, or to itself: the answer must come
    // back through us to be translated back, so we stand in as its source.
    rules.push(format!(
        "ip saddr {subnet} oifname \"{bridge}\" ct status dnat masquerade"
    ));
    rules
}

fn forward(plan: &TablePlan) -> Vec<String> {
    let bridge = format!("\"{}\"", plan.bridge);
    let mut rules = vec![format!("oifname {bridge} ct state established,related accept")];
    if !plan.inter_container {
        // On the wire the ports are isolated from each other; this is for packets sent to the gateway's MAC.
        rules.push(format!("iifname {bridge} oifname {bridge} drop"));
    }
    rules.push(format!("iifname {bridge} accept"));
    rules.push(format!("oifname {bridge} ct status dnat accept"));
    // Who has a route to the subnet still reaches no port that is not published.
    rules.push(format!("oifname {bridge} drop"));
    if !plan.outside.is_empty() {
        let links: Vec<String> = plan.outside.iter().map(|name| format!("\"{name}\"")).collect();
        let links = links.join(", ");
        // We switched forwarding on: that must not make a router of the host.
        rules.push(format!("iifname {{ {links} }} oifname {{ {links} }} drop"));
    }
    rules
}

fn map<'a>(out: &mut String, name: &str, key: &str, elements: impl Iterator<Item = &'a Element>) {
    let elements: Vec<String> = elements.map(Element::text).collect();
    let _ = writeln!(out, "\tmap {name} {{\n\t\ttype {key} : ipv4_addr . inet_service");
    if !elements.is_empty() {
        let _ = writeln!(out, "\t\telements = {{ {} }}", elements.join(",\n\t\t\t"));
    }
    out.push_str("\t}\n");
}

fn chain(out: &mut String, name: &str, hook: Option<&str>, rules: &[String]) {
    let _ = writeln!(out, "\tchain {name} {{");
    if let Some(hook) = hook {
        let _ = writeln!(out, "\t\ttype {hook}; policy accept;");
    }
    for rule in rules {
        let _ = writeln!(out, "\t\t{rule}");
    }
    out.push_str("\t}\n");
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
    fn rendered_table() {
        let elements = [
            element([0, 0, 0, 0], 8080).unwrap(),
            element([10, 0, 0, 1], 53).unwrap(),
        ];
        let text = render(&plan(), elements.iter(), true);
        assert_eq!(text, include_str!("../../tests/data/table.nft"));
    }

    #[test]
    fn switches_change_the_rules_they_name() {
        let closed = TablePlan {
            masquerade: false,
            inter_container: false,
            outside: vec!["eth0".into()],
            ..plan()
        };
        let text = render(&closed, [].iter(), false);
        assert!(text.starts_with("table inet kelson {"));
        assert!(!text.contains("oifname != \"kls0\" masquerade"));
        assert!(text.contains("iifname \"kls0\" oifname \"kls0\" drop"));
        assert!(text.contains("iifname { \"eth0\" } oifname { \"eth0\" } drop"));
        assert!(!text.contains("elements"));
    }
}
