//! From a question to its answer, as far as our own names go. Pure.
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use kelson_shim_proto::names::{Names, Upstream};
use simple_dns::rdata::{A, AAAA, PTR, RData};
use simple_dns::{
    CLASS, Name, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, ResourceRecord, TYPE,
};

/// As docker's: who caches longer than a container lives finds nobody.
const TTL: u32 = 600;
/// What a client without EDNS takes in a datagram.
const PLAIN: usize = 512;
/// What we send at most in one to a client with EDNS: passes every link unfragmented.
const UNFRAGMENTED: usize = 1232;
/// Characters of an id that are a name.
const SHORT_ID: usize = 12;

/// Names of one network, ready to be asked.
#[derive(Debug, Default)]
pub struct Zone {
    network: String,
    internal: bool,
    upstreams: Vec<Upstream>,
    by_name: HashMap<String, Vec<IpAddr>>,
    by_address: HashMap<IpAddr, String>,
}

impl Zone {
    pub fn new(names: &Names) -> Self {
        let mut zone = Self {
            network: names.network.to_lowercase(),
            internal: names.internal,
            upstreams: names.upstreams.clone(),
            ..Self::default()
        };
        for endpoint in &names.endpoints {
            let short = endpoint.id.get(..SHORT_ID).unwrap_or(&endpoint.id);
            let mut own: Vec<String> = endpoint.names.iter().map(|name| name.to_lowercase()).collect();
            own.push(short.to_lowercase());
            for &address in &endpoint.addresses {
                if let Some(name) = own.first() {
                    zone.by_address.entry(address).or_insert_with(|| name.clone());
                }
                for name in &own {
                    let addresses = zone.by_name.entry(name.clone()).or_default();
                    if !addresses.contains(&address) {
                        addresses.push(address);
                    }
                }
            }
        }
        zone
    }

    fn addresses(&self, name: &str) -> Option<&[IpAddr]> {
        let plain = name.strip_suffix(self.network.as_str());
        let plain = plain.and_then(|name| name.strip_suffix('.'));
        let found = self.by_name.get(name);
        found.or_else(|| self.by_name.get(plain?)).map(Vec::as_slice)
    }
}

/// What one container sees.
#[derive(Debug, Default)]
pub struct View {
    zones: Vec<Arc<Zone>>,
    links: BTreeMap<String, String>,
    upstreams: Option<Vec<Upstream>>,
}

/// What to do with a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Reply(Vec<u8>),
    /// Somebody else knows.
    Forward,
    /// Not worth an answer.
    Ignore,
}

impl View {
    pub fn new(
        zones: Vec<Arc<Zone>>,
        links: &BTreeMap<String, String>,
        upstreams: Option<Vec<Upstream>>,
    ) -> Self {
        let links = links
            .iter()
            .map(|(alias, name)| (alias.to_lowercase(), name.to_lowercase()));
        Self {
            zones,
            links: links.collect(),
            upstreams,
        }
    }

    /// Whom to ask for foreign names: nobody where every network is internal.
    pub fn upstreams(&self) -> &[Upstream] {
        let Some(open) = self.zones.iter().find(|zone| !zone.internal) else {
            return &[];
        };
        self.upstreams.as_deref().unwrap_or(&open.upstreams)
    }

    /// Looks at a message; `turn` counts, so that of many addresses each comes first in its turn.
    pub fn consider(&self, message: &[u8], datagram: bool, turn: usize) -> Verdict {
        // Less than a header, or an answer: nothing to talk to.
        if message.len() < 12 || message[2] & 0x80 != 0 {
            return Verdict::Ignore;
        }
        let Ok(query) = Packet::parse(message) else {
            return Verdict::Reply(refuse(message, RCODE::FormatError));
        };
        if query.opcode() != OPCODE::StandardQuery {
            return Verdict::Reply(refuse(message, RCODE::NotImplemented));
        }
        let [question] = query.questions.as_slice() else {
            return Verdict::Reply(refuse(message, RCODE::FormatError));
        };
        if !matches!(question.qclass, QCLASS::CLASS(CLASS::IN) | QCLASS::ANY) {
            return Verdict::Forward;
        }
        let Some(answers) = self.answers(question, turn) else {
            return Verdict::Forward;
        };
        Verdict::Reply(
            reply(&query, question, answers, datagram)
                .unwrap_or_else(|| refuse(message, RCODE::ServerFailure)),
        )
    }

    /// `None`: not a name of ours. Empty: ours, but not of this type.
    fn answers(&self, question: &Question<'_>, turn: usize) -> Option<Vec<RData<'static>>> {
        let name = question.qname.to_string().to_lowercase();
        if let Some(address) = reversed(&name) {
            let zone = self
                .zones
                .iter()
                .find(|zone| zone.by_address.contains_key(&address))?;
            if !wants(question.qtype, TYPE::PTR) {
                return Some(Vec::new());
            }
            let target = format!("{}.{}", zone.by_address.get(&address)?, zone.network);
            let target = Name::new(&target).ok()?.into_owned();
            return Some(vec![RData::PTR(PTR(target))]);
        }
        let name = self.links.get(&name).unwrap_or(&name);
        let found = self.zones.iter().find_map(|zone| zone.addresses(name))?;
        let mut answers: Vec<RData<'static>> = found
            .iter()
            .filter_map(|address| match address {
                IpAddr::V4(v4) if wants(question.qtype, TYPE::A) => Some(RData::A(A {
                    address: (*v4).into(),
                })),
                IpAddr::V6(v6) if wants(question.qtype, TYPE::AAAA) => Some(RData::AAAA(AAAA {
                    address: (*v6).into(),
                })),
                _ => None,
            })
            .collect();
        if !answers.is_empty() {
            let first = turn % answers.len();
            answers.rotate_left(first);
        }
        Some(answers)
    }
}

fn wants(asked: QTYPE, offered: TYPE) -> bool {
    asked == QTYPE::ANY || asked == QTYPE::TYPE(offered)
}

fn reply(
    query: &Packet<'_>,
    question: &Question<'_>,
    answers: Vec<RData<'static>>,
    datagram: bool,
) -> Option<Vec<u8>> {
    let mut reply = Packet::new_reply(query.id());
    reply.set_flags(PacketFlag::RECURSION_AVAILABLE);
    if query.has_flags(PacketFlag::RECURSION_DESIRED) {
        reply.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    reply.questions.push(question.clone());
    let records = answers.into_iter();
    reply.answers = records
        .map(|data| ResourceRecord::new(question.qname.clone(), CLASS::IN, TTL, data))
        .collect();
    let mut most = usize::from(u16::MAX);
    if datagram {
        most = PLAIN;
    }
    if let Some(opt) = query.opt() {
        if datagram {
            most = usize::from(opt.udp_packet_size).clamp(PLAIN, UNFRAGMENTED);
        }
        let mut own = opt.clone();
        own.opt_codes.clear();
        own.version = 0;
        own.udp_packet_size = 1232;
        *reply.opt_mut() = Some(own);
    }
    let bytes = reply.build_bytes_vec_compressed().ok()?;
    if bytes.len() <= most {
        return Some(bytes);
    }
    // The client comes back by TCP for all of them.
    reply.answers.clear();
    reply.set_flags(PacketFlag::TRUNCATION);
    reply.build_bytes_vec_compressed().ok()
}

/// An answer without content, made of the bytes of the question: what cannot be parsed cannot be built anew.
pub fn refuse(message: &[u8], code: RCODE) -> Vec<u8> {
    let end = question_end(message);
    let mut reply = message[..end.unwrap_or(12)].to_vec();
    reply[2] = 0x80 | (message[2] & 0x79);
    reply[3] = 0x80 | code as u8;
    reply[4..12].fill(0);
    reply[5] = u8::from(end.is_some());
    reply
}

/// Where the only question ends: a question is sent without compression.
pub fn question_end(message: &[u8]) -> Option<usize> {
    if *message.get(4..6)? != [0, 1] {
        return None;
    }
    let mut at = 12;
    loop {
        match *message.get(at)? {
            0 => break,
            length if length < 64 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
    (at + 5 <= message.len()).then_some(at + 5)
}

/// The address of a name under `in-addr.arpa` or `ip6.arpa`.
fn reversed(name: &str) -> Option<IpAddr> {
    if let Some(octets) = name.strip_suffix(".in-addr.arpa") {
        let mut octets: Vec<&str> = octets.split('.').collect();
        octets.reverse();
        return octets.join(".").parse().ok().map(IpAddr::V4);
    }
    let digits: Vec<&str> = name.strip_suffix(".ip6.arpa")?.split('.').collect();
    if digits.len() != 32 {
        return None;
    }
    let mut address: u128 = 0;
    for digit in digits.iter().rev() {
        if digit.len() != 1 {
            return None;
        }
        address = address << 4 | u128::from_str_radix(digit, 16).ok()?;
    }
    Some(IpAddr::V6(address.into()))
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
