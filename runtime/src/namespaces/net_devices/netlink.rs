//! As much of rtnetlink(7) as moving an interface takes: links and addresses, asked for and changed, one request at a
//! time on a blocking socket.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_MULTI: u16 = 0x2;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;

const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_FLAGS: u16 = 8;
/// What an address is: IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_ANYCAST, IFA_RT_PRIORITY, IFA_PROTO. Not its label, which
/// begins with the interface's name, nor its lifetime, as permanent ones have none.
const ADDRESS_ATTRIBUTES: [u16; 6] = [1, 2, 4, 5, 9, 11];
/// IFA_F_NODAD, IFA_F_HOMEADDRESS, IFA_F_NOPREFIXROUTE: the flags that a configuration chooses.
const ADDRESS_FLAGS: u32 = 0x02 | 0x10 | 0x200;
const IFA_F_PERMANENT: u32 = 0x80;
const RT_SCOPE_UNIVERSE: u8 = 0;
const IFF_UP: u32 = 1;

/// A list is asked for again while it changes; more often than this, something is wrong.
const MAX_TRIES: u32 = 16;
/// The kernel makes messages of a list no longer than 32 KiB.
const BUFFER: usize = 64 << 10;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub index: u32,
    pub name: String,
}

/// An address that is to be kept: what RTM_NEWADDR needs but for the interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    family: u8,
    prefix: u8,
    flags: u32,
    attributes: Vec<(u16, Vec<u8>)>,
}

/// A socket, which stays in the network namespace that it was opened in.
#[derive(Debug)]
pub(super) struct Route {
    socket: OwnedFd,
    sequence: u32,
}

impl Route {
    pub(super) fn open() -> Result<Self, Errno> {
        // Its first protocol, NETLINK_ROUTE, is number 0.
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// All interfaces.
    pub(super) fn links(&mut self) -> Result<Vec<Link>, Errno> {
        let replies = self.list(RTM_GETLINK, &link_header(0, 0, 0))?;
        Ok(replies.iter().filter_map(|body| link(body)).collect())
    }

    /// The interface of a name; `ENODEV` without one.
    pub(super) fn link(&mut self, name: &str) -> Result<Link, Errno> {
        let mut body = link_header(0, 0, 0);
        attribute(&mut body, IFLA_IFNAME, &with_nul(name));
        let replies = self.request(RTM_GETLINK, NLM_F_ACK, &body)?;
        replies.iter().find_map(|body| link(body)).ok_or(Errno::NODEV)
    }

    /// The permanent addresses of global scope that an interface has.
    pub(super) fn addresses(&mut self, index: u32) -> Result<Vec<Address>, Errno> {
        let replies = self.list(RTM_GETADDR, &address_header(0, 0, 0))?;
        Ok(replies.iter().filter_map(|body| address(body, index)).collect())
    }

    /// Moves an interface into a network namespace, where it gets a name.
    pub(super) fn relocate(
        &mut self,
        index: u32,
        name: &str,
        namespace: BorrowedFd<'_>,
    ) -> Result<(), Errno> {
        let mut body = link_header(index, 0, 0);
        attribute(&mut body, IFLA_IFNAME, &with_nul(name));
        attribute(&mut body, IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
        self.request(RTM_NEWLINK, NLM_F_ACK, &body).map(drop)
    }

    /// Gives an interface an address.
    pub(super) fn add(&mut self, index: u32, address: &Address) -> Result<(), Errno> {
        let mut body = address_header(address.family, address.prefix, index);
        for (kind, value) in &address.attributes {
            attribute(&mut body, *kind, value);
        }
        attribute(&mut body, IFA_FLAGS, &address.flags.to_ne_bytes());
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        self.request(RTM_NEWADDR, flags, &body).map(drop)
    }

    /// Brings an interface up.
    pub(super) fn up(&mut self, index: u32) -> Result<(), Errno> {
        let body = link_header(index, IFF_UP, IFF_UP);
        self.request(RTM_NEWLINK, NLM_F_ACK, &body).map(drop)
    }

    fn list(&mut self, kind: u16, body: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
        for _ in 0..MAX_TRIES {
            match self.request(kind, NLM_F_DUMP, body) {
                // It changed while it was being read.
                Err(Errno::INTR) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// Sends one request and reads all that answers it: bodies of messages, without their headers.
    fn request(&mut self, kind: u16, flags: u16, body: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
        self.sequence += 1;
        let message = message(kind, flags | NLM_F_REQUEST, self.sequence, body);
        retry_on_intr(|| send(&self.socket, &message, SendFlags::empty()))?;
        let mut out = Vec::new();
        let mut changed = false;
        let mut buffer = vec![0u8; BUFFER];
        loop {
            let (_, length) = retry_on_intr(|| recv(&self.socket, &mut buffer[..], RecvFlags::TRUNC))?;
            let received = buffer.get(..length).ok_or(Errno::MSGSIZE)?;
            for m in Messages(received).filter(|m| m.sequence == self.sequence) {
                changed |= m.flags & NLM_F_DUMP_INTR != 0;
                match m.kind {
                    NLMSG_DONE if changed => return Err(Errno::INTR),
                    NLMSG_DONE => return Ok(out),
                    NLMSG_ERROR => {
                        let errno = word(m.body, 0).ok_or(Errno::PROTO)?.cast_signed();
                        return if errno == 0 {
                            Ok(out)
                        } else {
                            Err(Errno::from_raw_os_error(-errno))
                        };
                    }
                    _ => out.push(m.body.to_vec()),
                }
                if flags & (NLM_F_DUMP | NLM_F_ACK) == 0 && m.flags & NLM_F_MULTI == 0 {
                    return Ok(out);
                }
            }
        }
    }
}

/// `struct nlmsghdr` and what follows it.
fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(16 + body.len());
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend([0; 4]);
    out.extend(body);
    out
}

/// `struct ifinfomsg`
fn link_header(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut out = vec![0; 4];
    for word in [index, flags, change] {
        out.extend(word.to_ne_bytes());
    }
    out
}

/// `struct ifaddrmsg`; its flags have only eight bits, so they go into an attribute.
fn address_header(family: u8, prefix: u8, index: u32) -> Vec<u8> {
    let mut out = vec![family, prefix, 0, RT_SCOPE_UNIVERSE];
    out.extend(index.to_ne_bytes());
    out
}

/// `struct rtattr` and its value, padded to four bytes.
fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn with_nul(name: &str) -> Vec<u8> {
    let mut out = name.as_bytes().to_vec();
    out.push(0);
    out
}

fn link(body: &[u8]) -> Option<Link> {
    let index = word(body, 4)?;
    let (_, name) = Attributes(body.get(16..)?).find(|(kind, _)| *kind == IFLA_IFNAME)?;
    let name = String::from_utf8(name.strip_suffix(b"\0").unwrap_or(name).to_vec()).ok()?;
    Some(Link { index, name })
}

/// The address in a message, if it belongs to the interface and is to be kept.
fn address(body: &[u8], index: u32) -> Option<Address> {
    let (family, prefix, scope) = (*body.first()?, *body.get(1)?, *body.get(3)?);
    let short = u32::from(*body.get(2)?);
    let all: Vec<_> = Attributes(body.get(8..)?).collect();
    let long = all.iter().find(|(kind, _)| *kind == IFA_FLAGS);
    let flags = long.and_then(|(_, value)| word(value, 0)).unwrap_or(short);
    if word(body, 4)? != index || scope != RT_SCOPE_UNIVERSE || flags & IFA_F_PERMANENT == 0 {
        return None;
    }
    let kept = all
        .into_iter()
        .filter(|(kind, _)| ADDRESS_ATTRIBUTES.contains(kind));
    Some(Address {
        family,
        prefix,
        flags: flags & ADDRESS_FLAGS,
        attributes: kept.map(|(kind, value)| (kind, value.to_vec())).collect(),
    })
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

struct Received<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

/// The messages of one datagram; a length that does not fit ends them.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Received<'a>;

    fn next(&mut self) -> Option<Received<'a>> {
        let length = usize::try_from(word(self.0, 0)?).ok()?;
        let body = self.0.get(16..length)?;
        let received = Received {
            kind: half(self.0, 4)?,
            flags: half(self.0, 6)?,
            sequence: word(self.0, 8)?,
            body,
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(received)
    }
}

/// Kinds and values of attributes; a length that does not fit ends them.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        /// NLA_F_NESTED and NLA_F_NET_BYTEORDER
        const KIND: u16 = 0x3fff;
        let length = usize::from(half(self.0, 0)?);
        let found = (half(self.0, 2)? & KIND, self.0.get(4..length)?);
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address_of(index: u32, scope: u8, flags: u32) -> Vec<u8> {
        let mut body = address_header(2, 24, index);
        body[3] = scope;
        attribute(&mut body, 2, &[10, 0, 0, 1]);
        attribute(&mut body, 3, b"eth0\0");
        attribute(&mut body, IFA_FLAGS, &flags.to_ne_bytes());
        body
    }

    #[test]
    fn what_is_written_is_read() {
        let mut body = link_header(7, 0, 0);
        attribute(&mut body, IFLA_IFNAME, b"eth0\0");
        attribute(&mut body, 4, &[0, 0, 0, 1]);
        let wanted = Link {
            index: 7,
            name: "eth0".to_owned(),
        };
        assert_eq!(link(&body), Some(wanted));
        let datagram = [
            message(RTM_NEWLINK, 0, 1, &body),
            message(NLMSG_DONE, 0, 1, &[0; 4]),
        ]
        .concat();
        let kinds: Vec<u16> = Messages(&datagram).map(|m| m.kind).collect();
        assert_eq!(kinds, [RTM_NEWLINK, NLMSG_DONE]);
    }

    #[test]
    fn only_permanent_addresses_of_global_scope_are_kept_without_their_label() {
        let kept = address(&address_of(7, 0, 0x80 | 0x200), 7).unwrap();
        assert_eq!((kept.prefix, kept.flags), (24, 0x200));
        assert_eq!(kept.attributes, [(2, vec![10, 0, 0, 1])]);
        assert_eq!(address(&address_of(8, 0, 0x80), 7), None, "another interface's");
        assert_eq!(address(&address_of(7, 0xfd, 0x80), 7), None, "link scope");
        assert_eq!(address(&address_of(7, 0, 0), 7), None, "with a lifetime");
    }

    #[test]
    fn the_kernel_answers() {
        let mut route = Route::open().unwrap();
        let all = route.links().unwrap();
        let lo = route.link("lo").unwrap();
        assert!(all.contains(&lo), "{all:?}");
        assert_eq!(route.link("nonesuch0"), Err(Errno::NODEV));
        // 127.0.0.1 has the scope of the host.
        assert_eq!(route.addresses(lo.index).unwrap(), []);
    }

    proptest::proptest! {
        #[test]
        fn no_datagram_panics(bytes: Vec<u8>) {
            for m in Messages(&bytes) {
                let _ = (link(m.body), address(m.body, 1));
            }
        }
    }
}
