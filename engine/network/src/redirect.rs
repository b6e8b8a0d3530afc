//! Inside a container's namespace: packets for its resolver go to the ports that this has.

use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;

use ipnet::Ipv4Net;

use crate::error::{Error, Result};
use crate::netlink::nf_tables::{Chain, Hook, NfTables, Table};
use crate::netlink::nft_rule::Rule;
use crate::netns;

const LOCAL_OUT: u32 = 3;
const PRIORITY_DSTNAT: i32 = -100;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;

/// What leaves a process of the namespace for `from` goes to these ports of the same address. Replaces what an earlier call
/// made. It ends with the namespace.
///
/// # Errors
/// What the kernel says.
pub fn redirect(netns: BorrowedFd<'_>, from: (Ipv4Addr, u16), udp: u16, tcp: u16) -> Result<()> {
    let table = table(from, udp, tcp);
    netns::inside(netns, || NfTables::open()?.write_table(&table)).map_err(|e| {
        Error::os(
            format!("redirect {}:{} in a network namespace", from.0, from.1),
            e,
        )
    })
}

fn table((address, port): (Ipv4Addr, u16), udp: u16, tcp: u16) -> Table {
    let rule = |proto, to| {
        Rule::new()
            .ip_daddr(Ipv4Net::from(address))
            .dport(proto, port)
            .dnat_to(address, to)
    };
    Table {
        name: "kelson".to_owned(),
        sets: Vec::new(),
        chains: vec![Chain {
            name: "names",
            hook: Some(Hook {
                kind: "nat",
                number: LOCAL_OUT,
                priority: PRIORITY_DSTNAT,
            }),
            rules: vec![rule(IPPROTO_UDP, udp), rule(IPPROTO_TCP, tcp)],
        }],
        elements: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::AsFd;

    use super::*;

    const NAMES: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

    /// Packets, and not only rules: an answer must come from where the question went.
    #[test]
    fn a_question_is_answered_from_where_it_was_sent() {
        let Ok(netns) = netns::create() else { return };
        netns::inside(netns.as_fd(), || {
            let (server, tcp) = (UdpSocket::bind((NAMES, 0))?, TcpListener::bind((NAMES, 0))?);
            // Twice: it replaces what is there.
            for _ in 0..2 {
                redirect(
                    netns.as_fd(),
                    (NAMES, 53),
                    server.local_addr()?.port(),
                    tcp.local_addr()?.port(),
                )
                .unwrap();
            }
            let client = UdpSocket::bind("0.0.0.0:0")?;
            client.connect((NAMES, 53))?;
            client.send(b"?")?;
            let mut buffer = [0; 8];
            let (length, from) = server.recv_from(&mut buffer)?;
            assert_eq!(&buffer[..length], b"?");
            server.send_to(b"!", from)?;
            assert_eq!(client.recv(&mut buffer)?, 1);
            std::net::TcpStream::connect((NAMES, 53))?;
            // And the port itself is the container's.
            UdpSocket::bind("0.0.0.0:53")?;
            Ok(())
        })
        .unwrap();
    }
}
