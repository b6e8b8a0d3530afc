//! Links, addresses and routes: the few rtnetlink calls a bridge network needs.
//!
//! Requests are built with `netlink-packet-route`. Answers are read attribute by attribute instead, since a strict
//! parser would turn one unknown attribute of somebody else's link into a failure of ours.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::Ipv4Net;
use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::attributes::find;
use super::{Answer, Channel, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST};
use crate::model::Mac;

const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_INFO_KIND: u16 = 1;
const IFINFOMSG: usize = 16;
const IFA_LOCAL: u16 = 2;
const IFADDRMSG: usize = 8;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTMSG: usize = 12;

/// Link group of links about to be deleted ("kels" in ASCII). Nothing else is ever put into it.
const DOOMED_GROUP: u32 = 0x6b65_6c73;
/// Of 169.254.0.0/16.
const LINK_LOCAL_PREFIX: u8 = 16;
/// Attempts at a dump that others' changes interrupt.
const DUMP_ATTEMPTS: usize = 5;

/// What we need to know about a link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// `bridge`, `veth`, ...; empty for a physical device and for loopback.
    pub(crate) kind: String,
    pub(crate) master: Option<u32>,
    pub(crate) mtu: u32,
    pub(crate) alias: String,
    pub(crate) loopback: bool,
    pub(crate) up: bool,
}

/// An IPv4 route of any table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) destination: Ipv4Net,
    pub(crate) link: Option<u32>,
}

/// What a veth pair is made of.
#[derive(Debug)]
pub(crate) struct VethPlan<'a> {
    pub(crate) host_name: &'a str,
    pub(crate) bridge_index: u32,
    pub(crate) peer_name: &'a str,
    pub(crate) peer_mac: Mac,
    pub(crate) mtu: u32,
    /// Cut our end off from the bridge's other isolated ports; it still reaches the bridge itself.
    pub(crate) isolated: bool,
}

/// An rtnetlink socket.
#[derive(Debug)]
pub(crate) struct Rtnl(Channel);

impl Rtnl {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        Channel::open(NETLINK_ROUTE).map(Self)
    }

    /// Makes a bridge that is down and has no address.
    pub(crate) fn add_bridge(&mut self, name: &str, mac: Mac, mtu: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::Address(mac.0.to_vec()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        self.acknowledged(vec![(
            RouteNetlinkMessage::NewLink(link),
            NLM_F_CREATE | NLM_F_EXCL,
        )])
    }

    /// Gives the bridge its owner's mark and its address, and brings it up.
    pub(crate) fn configure_bridge(
        &mut self,
        index: u32,
        alias: &str,
        address: Ipv4Addr,
        prefix_len: u8,
    ) -> io::Result<()> {
        let mut mark = LinkMessage::default();
        mark.header.index = index;
        mark.attributes.push(LinkAttribute::IfAlias(alias.into()));
        self.acknowledged(vec![
            (RouteNetlinkMessage::SetLink(mark), 0),
            (
                new_address(index, address, prefix_len, Some(broadcast(address, prefix_len))),
                // A bridge that is taken over has it already.
                NLM_F_CREATE | NLM_F_REPLACE,
            ),
            (set_up(index), 0),
        ])
    }

    /// Makes the veth pair in one request: our end on the bridge and up, the other inside `netns`.
    /// That one cannot come up in the same request: the kernel opens it before the pair is joined (ENOTCONN).
    pub(crate) fn add_veth(&mut self, plan: &VethPlan<'_>, netns: BorrowedFd<'_>) -> io::Result<()> {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(plan.peer_name.into()),
            LinkAttribute::Address(plan.peer_mac.0.to_vec()),
            LinkAttribute::Mtu(plan.mtu),
            LinkAttribute::NetNsFd(netns.as_raw_fd()),
        ];
        let mut link = LinkMessage::default();
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        link.attributes = vec![
            LinkAttribute::IfName(plan.host_name.into()),
            LinkAttribute::Mtu(plan.mtu),
            LinkAttribute::Controller(plan.bridge_index),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        self.acknowledged(vec![
            (RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL),
            (bridge_port(plan.host_name, plan.isolated), 0),
        ])
    }

    /// Puts a host link on a bridge again.
    pub(crate) fn attach(&mut self, name: &str, bridge_index: u32, isolated: bool) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::Controller(bridge_index),
        ];
        self.acknowledged(vec![
            (RouteNetlinkMessage::SetLink(link), 0),
            (bridge_port(name, isolated), 0),
        ])
    }

    /// Inside a container's namespace: brings the link up with its address, and the default route if it has it.
    pub(crate) fn configure_container_link(
        &mut self,
        index: u32,
        (address, prefix_len): (Ipv4Addr, u8),
        link_local: &[Ipv4Addr],
        gateway: Option<Ipv4Addr>,
    ) -> io::Result<()> {
        let add = |ip, prefix_len| {
            let new = new_address(index, ip, prefix_len, Some(broadcast(ip, prefix_len)));
            (new, NLM_F_CREATE)
        };
        let mut messages = vec![(set_up(index), 0), add(address, prefix_len)];
        messages.extend(link_local.iter().map(|ip| add(*ip, LINK_LOCAL_PREFIX)));
        if let Some(gateway) = gateway {
            let route = default_route(Some((index, gateway)));
            messages.push((RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE));
        }
        self.acknowledged(messages)
    }

    /// Replaces the default route, or deletes it; one that has gone is fine.
    pub(crate) fn set_default_route(&mut self, via: Option<(u32, Ipv4Addr)>) -> io::Result<()> {
        let route = default_route(via);
        if via.is_some() {
            let flags = NLM_F_CREATE | NLM_F_REPLACE;
            return self.acknowledged(vec![(RouteNetlinkMessage::NewRoute(route), flags)]);
        }
        match self.acknowledged(vec![(RouteNetlinkMessage::DelRoute(route), 0)]) {
            Err(e) if e.raw_os_error() == Some(nix::libc::ESRCH) => Ok(()),
            result => result,
        }
    }

    /// Brings a link up.
    pub(crate) fn set_up(&mut self, index: u32) -> io::Result<()> {
        self.acknowledged(vec![(set_up(index), 0)])
    }

    /// Deletes a link by name; `Ok(false)` when there is none.
    pub(crate) fn delete_link(&mut self, name: &str) -> io::Result<bool> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.into()));
        match self.acknowledged(vec![(RouteNetlinkMessage::DelLink(link), 0)]) {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(nix::libc::ENODEV) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Deletes links by name; missing ones are fine. The kernel waits about 20 ms for each deletion request, so
    /// several links go as one group.
    pub(crate) fn delete_links(&mut self, names: &[&str]) -> io::Result<()> {
        if let [name] = names {
            return self.delete_link(name).map(|_| ());
        }
        let mut found = false;
        for name in names {
            let mut link = LinkMessage::default();
            link.attributes = vec![
                LinkAttribute::IfName((*name).into()),
                LinkAttribute::Group(DOOMED_GROUP),
            ];
            match self.acknowledged(vec![(RouteNetlinkMessage::SetLink(link), 0)]) {
                Ok(()) => found = true,
                Err(e) if e.raw_os_error() == Some(nix::libc::ENODEV) => {}
                Err(e) => return Err(e),
            }
        }
        if !found {
            return Ok(());
        }
        let mut group = LinkMessage::default();
        group.attributes.push(LinkAttribute::Group(DOOMED_GROUP));
        match self.acknowledged(vec![(RouteNetlinkMessage::DelLink(group), 0)]) {
            // Their namespaces have ended meanwhile.
            Err(e) if e.raw_os_error() == Some(nix::libc::ENODEV) => Ok(()),
            result => result,
        }
    }

    /// The link of that name.
    pub(crate) fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.into()));
        match self.request(vec![(RouteNetlinkMessage::GetLink(link), NLM_F_ACK)]) {
            Ok(answers) => Ok(answers.iter().find_map(parse_link)),
            Err(e) if e.raw_os_error() == Some(nix::libc::ENODEV) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// All links of the namespace. Not for the path that starts a container.
    pub(crate) fn links(&mut self) -> io::Result<Vec<Link>> {
        let answers = self.dump(|| RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(answers.iter().filter_map(parse_link).collect())
    }

    /// The IPv4 addresses of one link.
    pub(crate) fn addresses(&mut self, index: u32) -> io::Result<Vec<Ipv4Net>> {
        let answers = self.dump(|| {
            let mut all = AddressMessage::default();
            all.header.family = AddressFamily::Inet;
            RouteNetlinkMessage::GetAddress(all)
        })?;
        Ok(answers
            .iter()
            .filter_map(parse_address)
            .filter(|a| a.0 == index)
            .map(|a| a.1)
            .collect())
    }

    /// All IPv4 routes of all tables, the local one included.
    pub(crate) fn routes(&mut self) -> io::Result<Vec<Route>> {
        let answers = self.dump(|| {
            let mut all = RouteMessage::default();
            all.header.address_family = AddressFamily::Inet;
            RouteNetlinkMessage::GetRoute(all)
        })?;
        Ok(answers.iter().filter_map(parse_route).collect())
    }

    fn dump(&mut self, question: impl Fn() -> RouteNetlinkMessage) -> io::Result<Vec<Answer>> {
        let mut attempt = 1;
        loop {
            match self.request(vec![(question(), NLM_F_DUMP)]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted && attempt < DUMP_ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    fn acknowledged(&mut self, messages: Vec<(RouteNetlinkMessage, u16)>) -> io::Result<()> {
        self.request(
            messages
                .into_iter()
                .map(|(m, flags)| (m, flags | NLM_F_ACK))
                .collect(),
        )
        .map(|_| ())
    }

    /// Sends all messages in one datagram; the kernel works on them in order and does not stop at a failure.
    fn request(&mut self, messages: Vec<(RouteNetlinkMessage, u16)>) -> io::Result<Vec<Answer>> {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for (message, flags) in messages {
            let mut header = NetlinkHeader::default();
            header.flags = NLM_F_REQUEST | flags;
            header.sequence_number = self.0.next_sequence();
            expected.push(header.sequence_number);
            let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
            message.finalize();
            let start = bytes.len();
            bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut bytes[start..]);
        }
        self.0.send(&bytes)?;
        self.0.collect(&expected, None)
    }
}

/// The IPv4 default route, by a link and a gateway or by whichever.
fn default_route(via: Option<(u32, Ipv4Addr)>) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Boot;
    route.header.scope = RouteScope::Universe;
    route.header.kind = RouteType::Unicast;
    if let Some((link, gateway)) = via {
        route.attributes = vec![
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)),
            RouteAttribute::Oif(link),
        ];
    }
    route
}

/// Options of a link as a port of its bridge.
fn bridge_port(name: &str, isolated: bool) -> RouteNetlinkMessage {
    let options = vec![
        // Where br_netfilter is loaded, a container's packet to its own published port is translated inside the
        // bridge and must leave by the port it came from.
        InfoBridgePort::HairpinMode(true),
        InfoBridgePort::Isolated(isolated),
    ];
    let mut port = LinkMessage::default();
    port.attributes = vec![
        LinkAttribute::IfName(name.into()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(options)),
        ]),
    ];
    RouteNetlinkMessage::NewLink(port)
}

fn set_up(index: u32) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(link)
}

fn broadcast(address: Ipv4Addr, prefix_len: u8) -> Ipv4Addr {
    Ipv4Net::new(address, prefix_len).map_or(Ipv4Addr::BROADCAST, |net| net.broadcast())
}

fn new_address(
    index: u32,
    address: Ipv4Addr,
    prefix_len: u8,
    broadcast: Option<Ipv4Addr>,
) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = prefix_len;
    message.header.index = index;
    message.header.scope = AddressScope::Universe;
    message.header.flags = AddressHeaderFlags::Permanent;
    message.attributes = vec![
        AddressAttribute::Local(address.into()),
        AddressAttribute::Address(address.into()),
    ];
    message
        .attributes
        .extend(broadcast.map(AddressAttribute::Broadcast));
    RouteNetlinkMessage::NewAddress(message)
}

fn word(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

fn ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))
}

fn parse_link(answer: &Answer) -> Option<Link> {
    let attributes = answer.payload.get(IFINFOMSG..)?;
    let flags = LinkFlags::from_bits_retain(word(answer.payload.get(8..)?)?);
    Some(Link {
        index: word(answer.payload.get(4..)?)?,
        name: text(find(attributes, IFLA_IFNAME)?),
        kind: find(attributes, IFLA_LINKINFO)
            .and_then(|i| find(i, IFLA_INFO_KIND))
            .map(text)
            .unwrap_or_default(),
        master: find(attributes, IFLA_MASTER).and_then(word),
        mtu: find(attributes, IFLA_MTU).and_then(word).unwrap_or(0),
        alias: find(attributes, IFLA_IFALIAS).map(text).unwrap_or_default(),
        loopback: flags.contains(LinkFlags::Loopback),
        up: flags.contains(LinkFlags::Up),
    })
}

fn parse_address(answer: &Answer) -> Option<(u32, Ipv4Net)> {
    let prefix_len = *answer.payload.get(1)?;
    let index = word(answer.payload.get(4..)?)?;
    let address = ipv4(find(answer.payload.get(IFADDRMSG..)?, IFA_LOCAL)?)?;
    Some((index, Ipv4Net::new(address, prefix_len).ok()?))
}

fn parse_route(answer: &Answer) -> Option<Route> {
    let attributes = answer.payload.get(RTMSG..)?;
    let prefix_len = *answer.payload.get(1)?;
    let destination = find(attributes, RTA_DST)
        .and_then(ipv4)
        .unwrap_or(Ipv4Addr::UNSPECIFIED);
    Some(Route {
        destination: Ipv4Net::new(destination, prefix_len).ok()?,
        link: find(attributes, RTA_OIF).and_then(word),
    })
}
