//! Rules of nf_tables as the kernel takes them: each a row of small expressions that load registers, compare, and
//! decide. The constructors read like `nft`'s own language; a differential test against `nft` holds them to it.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::attributes::{nest, put, put_string};

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;

/// Register of verdicts, the first of 16 bytes, and the second and third words of that.
const VERDICT: u32 = 0;
const REG_1: u32 = 1;
const REG_2: u32 = 2;
const REG32_01: u32 = 9;
const REG32_02: u32 = 10;

const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
/// `NF_CT_STATE_BIT` of established and related.
const STATE_ESTABLISHED_RELATED: u32 = 1 << 1 | 1 << 2;
const STATUS_DNAT: u32 = 1 << 5;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const IP_SADDR_OFFSET: u32 = 12;
const IP_DADDR_OFFSET: u32 = 16;
const DPORT_OFFSET: u32 = 2;
const NFPROTO_IPV4: u8 = 2;
const RTN_LOCAL: u32 = 2;
const IFNAMSIZ: usize = 16;

const NF_DROP: i32 = 0;
const NF_ACCEPT: i32 = 1;
const NFT_JUMP: i32 = -3;
const NFT_RETURN: i32 = -5;

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Is {
    Equal = 0,
    NotEqual = 1,
}

/// A rule under construction, then finished.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rule(Vec<u8>);

impl Rule {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The list of expressions as it goes into the message.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// `iifname NAME`
    pub(crate) fn iifname(self, is: Is, name: &str) -> Self {
        self.meta(META_IIFNAME, REG_1).compare(is, &link_name(name))
    }

    /// `oifname NAME`
    pub(crate) fn oifname(self, is: Is, name: &str) -> Self {
        self.meta(META_OIFNAME, REG_1).compare(is, &link_name(name))
    }

    /// `iifname @SET oifname @SET`
    pub(crate) fn between_links_of(self, set: &str) -> Self {
        self.meta(META_IIFNAME, REG_1)
            .member(set)
            .meta(META_OIFNAME, REG_1)
            .member(set)
    }

    /// `ip saddr NET`
    pub(crate) fn ip_saddr(self, net: Ipv4Net) -> Self {
        self.ip_field(IP_SADDR_OFFSET, net)
    }

    /// `ip daddr NET`
    pub(crate) fn ip_daddr(self, net: Ipv4Net) -> Self {
        self.ip_field(IP_DADDR_OFFSET, net)
    }

    /// `fib daddr type local`
    pub(crate) fn daddr_is_local(self) -> Self {
        const FIB_RESULT_ADDRTYPE: u32 = 3;
        const FIB_F_DADDR: u32 = 1 << 1;
        self.expression("fib", |out| {
            number(out, 1, REG_1);
            number(out, 2, FIB_RESULT_ADDRTYPE);
            number(out, 3, FIB_F_DADDR);
        })
        .compare(Is::Equal, &RTN_LOCAL.to_ne_bytes())
    }

    /// `ct state established,related`
    pub(crate) fn ct_established_related(self) -> Self {
        self.ct(CT_STATE, STATE_ESTABLISHED_RELATED)
    }

    /// `ct status dnat`
    pub(crate) fn ct_dnat(self) -> Self {
        self.ct(CT_STATUS, STATUS_DNAT)
    }

    /// `dnat ip to meta l4proto . th dport map @MAP`
    pub(crate) fn dnat_by_port(self, map: &str) -> Self {
        self.meta(META_L4PROTO, REG_1)
            .payload(TRANSPORT_HEADER, DPORT_OFFSET, 2, REG32_01)
            .dnat(map)
    }

    /// `dnat ip to ip daddr . meta l4proto . th dport map @MAP`
    pub(crate) fn dnat_by_address_and_port(self, map: &str) -> Self {
        self.ipv4()
            .payload(NETWORK_HEADER, IP_DADDR_OFFSET, 4, REG_1)
            .meta(META_L4PROTO, REG32_01)
            .payload(TRANSPORT_HEADER, DPORT_OFFSET, 2, REG32_02)
            .dnat(map)
    }

    /// `meta l4proto PROTO th dport PORT`
    pub(crate) fn dport(self, proto: u8, port: u16) -> Self {
        self.meta(META_L4PROTO, REG_1)
            .compare(Is::Equal, &[proto])
            .payload(TRANSPORT_HEADER, DPORT_OFFSET, 2, REG_1)
            .compare(Is::Equal, &port.to_be_bytes())
    }

    /// `dnat ip to ADDRESS:PORT`
    pub(crate) fn dnat_to(self, address: Ipv4Addr, port: u16) -> Self {
        self.constant(REG_1, &address.octets())
            .constant(REG_2, &port.to_be_bytes())
            .translate(REG_1, REG_2)
    }

    /// `masquerade`
    pub(crate) fn masquerade(self) -> Self {
        self.expression("masq", |_| {})
    }

    /// `counter`
    pub(crate) fn counter(self) -> Self {
        self.expression("counter", |_| {})
    }

    /// `accept`
    pub(crate) fn accept(self) -> Self {
        self.verdict(NF_ACCEPT, None)
    }

    /// `drop`
    pub(crate) fn drop(self) -> Self {
        self.verdict(NF_DROP, None)
    }

    /// `return`
    pub(crate) fn leave(self) -> Self {
        self.verdict(NFT_RETURN, None)
    }

    /// `jump CHAIN`
    pub(crate) fn jump(self, chain: &str) -> Self {
        self.verdict(NFT_JUMP, Some(chain))
    }

    fn ip_field(self, offset: u32, net: Ipv4Net) -> Self {
        self.ipv4()
            .payload(NETWORK_HEADER, offset, 4, REG_1)
            .mask(&net.netmask().octets())
            .compare(Is::Equal, &net.network().octets())
    }

    /// `meta nfproto ipv4`: in an inet table the header could be IPv6's.
    fn ipv4(self) -> Self {
        self.meta(META_NFPROTO, REG_1).compare(Is::Equal, &[NFPROTO_IPV4])
    }

    fn meta(self, key: u32, register: u32) -> Self {
        self.expression("meta", |out| {
            number(out, 1, register);
            number(out, 2, key);
        })
    }

    fn ct(self, key: u32, bits: u32) -> Self {
        self.expression("ct", |out| {
            number(out, 1, REG_1);
            number(out, 2, key);
        })
        .mask(&bits.to_ne_bytes())
        .compare(Is::NotEqual, &[0; 4])
    }

    fn payload(self, base: u32, offset: u32, length: u32, register: u32) -> Self {
        self.expression("payload", |out| {
            number(out, 1, register);
            number(out, 2, base);
            number(out, 3, offset);
            number(out, 4, length);
        })
    }

    fn mask(self, mask: &[u8; 4]) -> Self {
        self.expression("bitwise", |out| {
            number(out, 1, REG_1);
            number(out, 2, REG_1);
            number(out, 3, 4);
            value(out, 4, mask);
            value(out, 5, &[0; 4]);
        })
    }

    fn compare(self, is: Is, with: &[u8]) -> Self {
        self.expression("cmp", |out| {
            number(out, 1, REG_1);
            number(out, 2, is as u32);
            value(out, 3, with);
        })
    }

    fn member(self, set: &str) -> Self {
        self.expression("lookup", |out| {
            put_string(out, 1, set);
            number(out, 2, REG_1);
        })
    }

    /// Looks the key in the first register up; address and port to go to come out in the first two words of it.
    fn dnat(self, map: &str) -> Self {
        self.expression("lookup", |out| {
            put_string(out, 1, map);
            number(out, 2, REG_1);
            number(out, 3, REG_1);
        })
        .translate(REG_1, REG32_01)
    }

    fn translate(self, address: u32, port: u32) -> Self {
        const NFT_NAT_DNAT: u32 = 1;
        self.expression("nat", |out| {
            number(out, 1, NFT_NAT_DNAT);
            number(out, 2, NFPROTO_IPV4.into());
            number(out, 3, address);
            number(out, 4, address);
            number(out, 5, port);
            number(out, 6, port);
        })
    }

    fn constant(self, register: u32, bytes: &[u8]) -> Self {
        self.expression("immediate", |out| {
            number(out, 1, register);
            value(out, 2, bytes);
        })
    }

    fn verdict(self, code: i32, chain: Option<&str>) -> Self {
        self.expression("immediate", |out| {
            number(out, 1, VERDICT);
            nest(out, 2, |data| {
                nest(data, NFTA_DATA_VERDICT, |verdict| {
                    put(verdict, NFTA_VERDICT_CODE, &code.to_be_bytes());
                    if let Some(chain) = chain {
                        put_string(verdict, NFTA_VERDICT_CHAIN, chain);
                    }
                });
            });
        })
    }

    fn expression(mut self, name: &str, fill: impl FnOnce(&mut Vec<u8>)) -> Self {
        nest(&mut self.0, NFTA_LIST_ELEM, |out| {
            put_string(out, NFTA_EXPR_NAME, name);
            nest(out, NFTA_EXPR_DATA, fill);
        });
        self
    }
}

/// A link's name as a set or a comparison holds it.
pub(crate) fn link_name(name: &str) -> [u8; IFNAMSIZ] {
    let mut bytes = [0; IFNAMSIZ];
    bytes
        .iter_mut()
        .zip(name.bytes())
        .for_each(|(to, from)| *to = from);
    bytes
}

fn number(out: &mut Vec<u8>, kind: u16, value: u32) {
    put(out, kind, &value.to_be_bytes());
}

fn value(out: &mut Vec<u8>, kind: u16, bytes: &[u8]) {
    nest(out, kind, |data| put(data, NFTA_DATA_VALUE, bytes));
}
