//! Connection tracking: forgetting the UDP "connections" of a container that has gone. Otherwise a client that keeps
//! sending from one port is sent to the old address for as long as it does not pause.

use std::io;
use std::net::Ipv4Addr;

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::attributes::{nest, put};
use super::nf_tables::message;
use super::{Channel, NLM_F_ACK, NLM_F_REQUEST};

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const AF_INET: u8 = 2;
const IPPROTO_UDP: u8 = 17;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_PROTO_NUM: u16 = 1;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const FILTER_IP_SRC: u32 = 1 << 0;
const FILTER_PROTO_NUM: u32 = 1 << 3;

/// Deletes every UDP entry whose answers come from `container`. The kernel picks them out (since 5.8).
pub(crate) fn forget_udp(container: Ipv4Addr) -> io::Result<()> {
    let mut channel = Channel::open(NETLINK_NETFILTER)?;
    let sequence = channel.next_sequence();
    let mut bytes = Vec::new();
    let kind = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE;
    message(
        &mut bytes,
        kind,
        NLM_F_REQUEST | NLM_F_ACK,
        sequence,
        &filter(container),
    );
    channel.send(&bytes)?;
    channel.collect(&[sequence], None).map(|_| ())
}

fn filter(container: Ipv4Addr) -> Vec<u8> {
    // The version must not be zero, else the kernel ignores the family.
    let mut body = vec![AF_INET, 1, 0, 0];
    nest(&mut body, CTA_TUPLE_REPLY, |tuple| {
        nest(tuple, CTA_TUPLE_IP, |ip| {
            put(ip, CTA_IP_V4_SRC, &container.octets())
        });
        nest(tuple, CTA_TUPLE_PROTO, |proto| {
            put(proto, CTA_PROTO_NUM, &[IPPROTO_UDP])
        });
    });
    nest(&mut body, CTA_FILTER, |filter| {
        put(filter, CTA_FILTER_ORIG_FLAGS, &0u32.to_ne_bytes());
        put(
            filter,
            CTA_FILTER_REPLY_FLAGS,
            &(FILTER_IP_SRC | FILTER_PROTO_NUM).to_ne_bytes(),
        );
    });
    body
}
