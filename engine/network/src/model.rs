//! The nouns of the crate's interface: configuration, endpoints, ports. Data only.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::ipam::Pool;

/// How a bridge network is to be made. dockerd's flags map onto it one to one, and so do the bridge driver's options.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Link name of the bridge (`--bridge`). `None`: `kls0`, or the next `klsN` when another kelsond owns it.
    pub bridge: Option<String>,
    /// The bridge's own address and prefix (`--bip`), instead of a pool.
    pub bip: Option<Ipv4Net>,
    /// Candidate subnets, first free one wins (`--default-address-pool`).
    pub pools: Vec<Ipv4Net>,
    /// MTU of the bridge and of container links (`--mtu`). `None`: that of the default route's link, else 1500.
    pub mtu: Option<u32>,
    /// Host address of published ports that name none (`--ip`). `None`: all IPv4 and all IPv6 addresses.
    pub default_host_ip: Option<IpAddr>,
    /// Turn IPv4 forwarding on (`--ip-forward`).
    pub ip_forward: bool,
    /// Write firewall rules (`--iptables`). Without them published ports work through the shim's sockets only.
    pub firewall: bool,
    /// Translate outgoing connections to the host's address (`--ip-masq`).
    pub masquerade: bool,
    /// Let containers of the bridge talk to each other (`--icc`).
    pub inter_container: bool,
    /// No way out of the network, and none into it.
    pub internal: bool,
    /// The part of the subnet that addresses nobody asked for come from.
    pub range: Option<Ipv4Net>,
    /// Addresses that are somebody else's.
    pub reserved: Vec<Ipv4Addr>,
}

impl NetworkConfig {
    /// The addresses of the bridge that has this one.
    pub(crate) fn pool(&self, address: Ipv4Net) -> Pool {
        Pool::new(address).limited(self.range, &self.reserved)
    }
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            bridge: None,
            bip: None,
            pools: default_pools(),
            mtu: None,
            default_host_ip: None,
            ip_forward: true,
            firewall: true,
            masquerade: true,
            inter_container: true,
            internal: false,
            range: None,
            reserved: Vec::new(),
        }
    }
}

/// 172.30 first, as it lies at the far end of docker's own pools (172.17 upwards), then ranges docker seldom takes.
fn default_pools() -> Vec<Ipv4Net> {
    let net = |a, b, prefix| Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), prefix);
    let mut pools: Vec<Ipv4Net> = [30, 31, 29, 28, 27, 26]
        .into_iter()
        .map(|b| net(172, b, 16))
        .collect();
    pools.extend([net(10, 230, 16), net(10, 231, 16)]);
    pools.extend((0..4u8).map(|i| Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 192 + i * 16, 0), 20)));
    pools
}

/// The default network as `network inspect` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkInfo {
    /// Link name of the bridge.
    pub bridge: String,
    /// The subnet addresses come from.
    pub subnet: Ipv4Net,
    /// The bridge's own address.
    pub gateway: Ipv4Addr,
    /// MTU of the bridge and of container links, bytes.
    pub mtu: u32,
}

/// A link-layer address. Prints and parses as `02:42:ac:1e:00:02`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Docker's rule: a locally administered prefix and the address, so a reused address never meets a stale ARP entry.
    pub fn of(ip: Ipv4Addr) -> Self {
        let [a, b, c, d] = ip.octets();
        Self([0x02, 0x42, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl TryFrom<String> for Mac {
    type Error = String;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl std::str::FromStr for Mac {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{text:?} is not a MAC address");
        let mut bytes = [0u8; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            Err(wrong())
        } else {
            Ok(Self(bytes))
        }
    }
}

/// One container's place on the bridge. Goes into the container's record as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The container's full id.
    pub container_id: String,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Length of the subnet's prefix.
    pub prefix_len: u8,
    /// Default route: the bridge's address.
    pub gateway: Ipv4Addr,
    /// MAC address of the container's link.
    pub mac: Mac,
    /// The bridge it hangs on.
    pub bridge: String,
    /// Name of the host's end of the veth pair, `klsv` and eight hex digits of the id.
    pub host_link: String,
    /// Name of the container's end.
    pub container_link: String,
    /// MTU, bytes.
    pub mtu: u32,
    /// Whether the container's default route leaves by it: of several networks one has it, an internal one never.
    #[serde(default = "yes")]
    pub default_route: bool,
    /// Link-local addresses beside it, of 169.254.0.0/16.
    #[serde(default)]
    pub link_local: Vec<Ipv4Addr>,
}

fn yes() -> bool {
    true
}

/// What an endpoint shall have; what is left open is chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// Address.
    pub ip: Option<Ipv4Addr>,
    /// MAC address. `None`: it follows from the address.
    pub mac: Option<Mac>,
    /// Name of the container's end; `eth0`.
    pub container_link: Option<String>,
    /// Another network has the default route.
    pub no_default_route: bool,
    /// Link-local addresses beside the other one.
    pub link_local: Vec<Ipv4Addr>,
}

/// Transport protocol of a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Proto {
    /// `tcp` or `udp`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A wish: publish `container_port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// Protocol.
    pub proto: Proto,
    /// Host address. `None`: the configured default, else every IPv4 and IPv6 address.
    pub host_ip: Option<IpAddr>,
    /// First host port; 0 lets the kernel choose.
    pub host_port: u16,
    /// Last host port of a range of which one is taken (`-p 8000-8010:80`). Equal to `host_port` for a single one.
    pub host_port_end: u16,
    /// Port inside the container.
    pub container_port: u16,
}

impl PortSpec {
    /// One host port (0: the kernel chooses) on every host address.
    pub fn new(proto: Proto, host_port: u16, container_port: u16) -> Self {
        Self {
            proto,
            host_ip: None,
            host_port,
            host_port_end: host_port,
            container_port,
        }
    }
}

/// A published port as it came out; goes into the container's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PortMapping {
    /// Protocol.
    pub proto: Proto,
    /// Host address; unspecified (`0.0.0.0`, `::`) means all of that family.
    pub host_ip: IpAddr,
    /// Host port, never 0.
    pub host_port: u16,
    /// Port inside the container.
    pub container_port: u16,
}

/// A mapping and the socket that holds it: listening (tcp) or bound (udp). Non-blocking is not set, close-on-exec is.
/// The socket goes to the shim, which forwards what arrives there to `Endpoint::ip : container_port`.
#[derive(Debug)]
pub struct BoundPort {
    /// What it stands for.
    pub mapping: PortMapping,
    /// The socket.
    pub listener: OwnedFd,
}

/// A container that still runs, as core's records tell at start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveEndpoint {
    /// Its endpoint as `allocate` returned it.
    pub endpoint: Endpoint,
    /// Its published ports.
    pub ports: Vec<PortMapping>,
}

/// What `reconcile` found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReconcileReport {
    /// Orphaned links that were removed.
    pub removed_links: Vec<String>,
    /// Ids of live containers whose link has gone; they have no network any more.
    pub without_link: Vec<String>,
    /// Whether the firewall had to be written anew.
    pub firewall_rebuilt: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_prints_parses_and_follows_the_address() {
        let mac = Mac::of(Ipv4Addr::new(172, 30, 0, 2));
        assert_eq!(mac.to_string(), "02:42:ac:1e:00:02");
        assert_eq!("02:42:ac:1e:00:02".parse(), Ok(mac));
        for wrong in [
            "",
            "02:42",
            "02:42:ac:1e:00:02:03",
            "02:42:ac:1e:00:zz",
            "2:42:ac:1e:00:02",
        ] {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
    }
}
