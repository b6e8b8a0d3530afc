//! nf_tables by netlink: whole tables, map elements, and rules in other people's chains, each change one atomic
//! batch. No `nft` is run: it costs 3 ms a time, and one that outlives a killed `kelsond` would still write its rules
//! after the next `kelsond` has cleaned up.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::attributes::{find, nest, put, put_string};
use super::nft_rule::Rule;
use super::{Channel, HEADER, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST};

const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_GETTABLE: u16 = 1;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_GETRULE: u16 = 7;
const NFT_MSG_DELRULE: u16 = 8;
const NFT_MSG_NEWSET: u16 = 9;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_GETSETELEM: u16 = 13;
const NFT_MSG_DELSETELEM: u16 = 14;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_HANDLE: u16 = 3;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_RULE_USERDATA: u16 = 7;
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_DATA_TYPE: u16 = 6;
const NFTA_SET_DATA_LEN: u16 = 7;
const NFTA_SET_ID: u16 = 10;
const NFTA_SET_USERDATA: u16 = 13;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_USERDATA: u16 = 6;
const NFT_SET_MAP: u32 = 0x8;
const NF_ACCEPT: u32 = 1;
const NF_DROP: u32 = 0;
/// libnftnl's tag of a comment inside the user data of a rule or an element.
const UDATA_COMMENT: u8 = 0;
/// The same for the byte order of a set's keys.
const UDATA_SET_KEY_BYTE_ORDER: u8 = 0;
/// One attribute holds at most 64 KiB, and an element of ours takes under 100 bytes.
const ELEMENTS_PER_MESSAGE: usize = 400;

/// Address families of tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv4 and IPv6 together: our table.
    Inet = 1,
    /// IPv4 only: where iptables keeps its chains.
    Ip = 2,
}

/// A whole table of family inet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) sets: Vec<Set>,
    pub(crate) chains: Vec<Chain>,
    pub(crate) elements: Vec<RawElement>,
}

/// A set, or a map when it has data. Types are `nft`'s numbers, which the kernel only keeps for listings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Set {
    pub(crate) name: &'static str,
    pub(crate) key_type: u32,
    pub(crate) key_length: u32,
    /// Type and length.
    pub(crate) data: Option<(u32, u32)>,
    /// Whether `nft` is to list keys as text or host numbers; it takes them for network order otherwise.
    pub(crate) host_order: bool,
}

/// A chain and its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    /// `None`: reached by jumps only.
    pub(crate) hook: Option<Hook>,
    pub(crate) rules: Vec<Rule>,
}

/// Where a base chain hangs; its policy is accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hook {
    /// `nat` or `filter`.
    pub(crate) kind: &'static str,
    /// `NF_INET_PRE_ROUTING` and so on.
    pub(crate) number: u32,
    pub(crate) priority: i32,
}

/// An element as bytes, each field of a concatenation padded to four. A set's has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawElement {
    pub(crate) map: &'static str,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) comment: String,
}

/// What a batch does with its elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Adds; an element that is there already makes the batch fail with EEXIST.
    Add,
    /// Deletes by key; a missing one makes the batch fail with ENOENT.
    Delete,
}

/// One message of a batch.
struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

/// An nf_tables socket.
#[derive(Debug)]
pub(crate) struct NfTables(Channel);

impl NfTables {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        Channel::open(NETLINK_NETFILTER).map(Self)
    }

    /// Makes the table what it should be, in place of one of that name: traffic sees the old or the new one.
    pub(crate) fn write_table(&mut self, table: &Table) -> io::Result<()> {
        let mut messages = Vec::new();
        if self.has_table(&table.name)? {
            messages.push(Message::new(NFT_MSG_DELTABLE, 0, table_body(&table.name)));
        }
        messages.push(Message::new(
            NFT_MSG_NEWTABLE,
            NLM_F_CREATE,
            table_body(&table.name),
        ));
        let sets = table.sets.iter().zip(1u32..);
        messages.extend(
            sets.map(|(set, id)| Message::new(NFT_MSG_NEWSET, NLM_F_CREATE, set_body(table, set, id))),
        );
        let chains = table.chains.iter();
        messages.extend(
            chains.map(|chain| Message::new(NFT_MSG_NEWCHAIN, NLM_F_CREATE, chain_body(table, chain))),
        );
        for chain in &table.chains {
            messages.extend(chain.rules.iter().map(|rule| {
                let body = rule_body(Family::Inet, &table.name, chain.name, rule, None);
                Message::new(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, body)
            }));
        }
        messages.extend(element_messages(&table.name, Change::Add, &table.elements));
        self.batch(messages)
    }

    /// Deletes a table with all it holds; one that has gone is fine.
    pub(crate) fn delete_table(&mut self, table: &str) -> io::Result<()> {
        absent_is_fine(self.batch(vec![Message::new(NFT_MSG_DELTABLE, 0, table_body(table))]))
    }

    /// Adds or deletes all elements, or none.
    pub(crate) fn change(&mut self, table: &str, change: Change, elements: &[RawElement]) -> io::Result<()> {
        self.batch(element_messages(table, change, elements))
    }

    /// Puts rules first in a chain of another's, in their order, with a comment that finds them again.
    pub(crate) fn insert_rules(
        &mut self,
        (family, table, chain): (Family, &str, &str),
        rules: &[Rule],
        comment: &str,
    ) -> io::Result<()> {
        // Each goes before the one inserted last.
        let bodies = rules
            .iter()
            .rev()
            .map(|rule| rule_body(family, table, chain, rule, Some(comment)));
        self.batch(
            bodies
                .map(|body| Message::new(NFT_MSG_NEWRULE, NLM_F_CREATE, body))
                .collect(),
        )
    }

    /// Deletes the rules of a chain that carry the comment; a chain that has gone is fine.
    pub(crate) fn delete_rules(
        &mut self,
        (family, table, chain): (Family, &str, &str),
        comment: &str,
    ) -> io::Result<()> {
        let mut body = nfgenmsg(family).to_vec();
        put_string(&mut body, NFTA_RULE_TABLE, table);
        put_string(&mut body, NFTA_RULE_CHAIN, chain);
        let wanted = comment_data(comment);
        let mut doomed = Vec::new();
        for rule in self.ask(NFT_MSG_GETRULE, NLM_F_DUMP, &body)? {
            let attributes = rule.get(nfgenmsg(family).len()..).unwrap_or_default();
            if find(attributes, NFTA_RULE_USERDATA) == Some(&wanted)
                && let Some(handle) = find(attributes, NFTA_RULE_HANDLE)
            {
                let mut body = body.clone();
                put(&mut body, NFTA_RULE_HANDLE, handle);
                doomed.push(Message::new(NFT_MSG_DELRULE, 0, body));
            }
        }
        absent_is_fine(self.batch(doomed))
    }

    /// Whether the table exists.
    pub(crate) fn has_table(&mut self, table: &str) -> io::Result<bool> {
        Ok(!self
            .ask(NFT_MSG_GETTABLE, NLM_F_ACK, &table_body(table))?
            .is_empty())
    }

    /// Whether the map holds the element's key.
    pub(crate) fn has_element(&mut self, table: &str, element: &RawElement) -> io::Result<bool> {
        let body = element_list(table, Change::Delete, std::slice::from_ref(element));
        Ok(!self.ask(NFT_MSG_GETSETELEM, NLM_F_ACK, &body)?.is_empty())
    }

    /// The policy of a chain of another's: `Some(true)` when it drops. `None`: no such chain.
    pub(crate) fn chain_drops(
        &mut self,
        (family, table, chain): (Family, &str, &str),
    ) -> io::Result<Option<bool>> {
        let mut body = nfgenmsg(family).to_vec();
        put_string(&mut body, NFTA_CHAIN_TABLE, table);
        put_string(&mut body, NFTA_CHAIN_NAME, chain);
        let answers = self.ask(NFT_MSG_GETCHAIN, NLM_F_ACK, &body)?;
        let policy = |answer: &Vec<u8>| {
            let attributes = answer.get(nfgenmsg(family).len()..)?;
            find(attributes, NFTA_CHAIN_POLICY).map(<[u8]>::to_vec)
        };
        Ok(answers
            .first()
            .map(|answer| policy(answer).as_deref() == Some(&NF_DROP.to_be_bytes()[..])))
    }

    /// A question; nothing of that name is an empty answer.
    fn ask(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let sequence = self.0.next_sequence();
        let mut bytes = Vec::new();
        message(&mut bytes, nft(kind), NLM_F_REQUEST | flags, sequence, body);
        self.0.send(&bytes)?;
        match self.0.collect(&[sequence], None) {
            Ok(answers) => Ok(answers.into_iter().map(|a| a.payload).collect()),
            Err(e) if e.raw_os_error() == Some(nix::libc::ENOENT) => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }

    /// One transaction: the kernel applies all messages or none.
    fn batch(&mut self, messages: Vec<Message>) -> io::Result<()> {
        if messages.is_empty() {
            return Ok(());
        }
        let begin = self.0.next_sequence();
        let mut bytes = Vec::new();
        message(
            &mut bytes,
            NFNL_MSG_BATCH_BEGIN,
            NLM_F_REQUEST,
            begin,
            &batch_body(),
        );
        let mut expected = Vec::with_capacity(messages.len());
        for Message { kind, flags, body } in messages {
            let sequence = self.0.next_sequence();
            message(
                &mut bytes,
                nft(kind),
                NLM_F_REQUEST | NLM_F_ACK | flags,
                sequence,
                &body,
            );
            expected.push(sequence);
        }
        let end = self.0.next_sequence();
        message(&mut bytes, NFNL_MSG_BATCH_END, NLM_F_REQUEST, end, &batch_body());
        self.0.make_room(bytes.len())?;
        self.0.send(&bytes)?;
        self.0.collect(&expected, Some(begin)).map(|_| ())
    }
}

impl Message {
    fn new(kind: u16, flags: u16, body: Vec<u8>) -> Self {
        Self { kind, flags, body }
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.raw_os_error() == Some(nix::libc::ENOENT) => Ok(()),
        result => result,
    }
}

fn nft(kind: u16) -> u16 {
    NFNL_SUBSYS_NFTABLES << 8 | kind
}

/// `struct nfgenmsg` of an ordinary message.
fn nfgenmsg(family: Family) -> [u8; 4] {
    [family as u8, 0, 0, 0]
}

/// `struct nfgenmsg` that opens or closes a batch: the resource id names the subsystem, in network order.
fn batch_body() -> [u8; 4] {
    let [high, low] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
    [0, 0, high, low]
}

/// Appends one netlink message.
pub(crate) fn message(out: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, body: &[u8]) {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend(0u32.to_ne_bytes());
    out.extend(body);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn table_body(name: &str) -> Vec<u8> {
    let mut body = nfgenmsg(Family::Inet).to_vec();
    put_string(&mut body, NFTA_TABLE_NAME, name);
    body
}

fn set_body(table: &Table, set: &Set, id: u32) -> Vec<u8> {
    let mut body = nfgenmsg(Family::Inet).to_vec();
    let mut number = |kind, value: u32| put(&mut body, kind, &value.to_be_bytes());
    number(NFTA_SET_FLAGS, if set.data.is_some() { NFT_SET_MAP } else { 0 });
    number(NFTA_SET_KEY_TYPE, set.key_type);
    number(NFTA_SET_KEY_LEN, set.key_length);
    if let Some((kind, length)) = set.data {
        number(NFTA_SET_DATA_TYPE, kind);
        number(NFTA_SET_DATA_LEN, length);
    }
    number(NFTA_SET_ID, id);
    if set.host_order {
        let [a, b, c, d] = 1u32.to_ne_bytes();
        put(
            &mut body,
            NFTA_SET_USERDATA,
            &[UDATA_SET_KEY_BYTE_ORDER, 4, a, b, c, d],
        );
    }
    put_string(&mut body, NFTA_SET_TABLE, &table.name);
    put_string(&mut body, NFTA_SET_NAME, set.name);
    body
}

fn chain_body(table: &Table, chain: &Chain) -> Vec<u8> {
    let mut body = nfgenmsg(Family::Inet).to_vec();
    put_string(&mut body, NFTA_CHAIN_TABLE, &table.name);
    put_string(&mut body, NFTA_CHAIN_NAME, chain.name);
    if let Some(hook) = chain.hook {
        nest(&mut body, NFTA_CHAIN_HOOK, |out| {
            put(out, NFTA_HOOK_HOOKNUM, &hook.number.to_be_bytes());
            put(out, NFTA_HOOK_PRIORITY, &hook.priority.to_be_bytes());
        });
        put(&mut body, NFTA_CHAIN_POLICY, &NF_ACCEPT.to_be_bytes());
        put_string(&mut body, NFTA_CHAIN_TYPE, hook.kind);
    }
    body
}

fn rule_body(family: Family, table: &str, chain: &str, rule: &Rule, comment: Option<&str>) -> Vec<u8> {
    let mut body = nfgenmsg(family).to_vec();
    put_string(&mut body, NFTA_RULE_TABLE, table);
    put_string(&mut body, NFTA_RULE_CHAIN, chain);
    nest(&mut body, NFTA_RULE_EXPRESSIONS, |out| out.extend(rule.bytes()));
    if let Some(comment) = comment {
        put(&mut body, NFTA_RULE_USERDATA, &comment_data(comment));
    }
    body
}

/// One message per map and per `ELEMENTS_PER_MESSAGE` neighbours of the same map.
fn element_messages(table: &str, change: Change, elements: &[RawElement]) -> Vec<Message> {
    let (kind, flags) = match change {
        Change::Add => (NFT_MSG_NEWSETELEM, NLM_F_CREATE | NLM_F_EXCL),
        Change::Delete => (NFT_MSG_DELSETELEM, 0),
    };
    elements
        .chunk_by(|a, b| a.map == b.map)
        .flat_map(|same_map| same_map.chunks(ELEMENTS_PER_MESSAGE))
        .map(|chunk| Message::new(kind, flags, element_list(table, change, chunk)))
        .collect()
}

fn element_list(table: &str, change: Change, elements: &[RawElement]) -> Vec<u8> {
    let mut body = nfgenmsg(Family::Inet).to_vec();
    put_string(&mut body, NFTA_SET_ELEM_LIST_TABLE, table);
    put_string(
        &mut body,
        NFTA_SET_ELEM_LIST_SET,
        elements.first().map_or("", |e| e.map),
    );
    nest(&mut body, NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
        for element in elements {
            nest(list, NFTA_LIST_ELEM, |out| {
                nest(out, NFTA_SET_ELEM_KEY, |key| {
                    put(key, NFTA_DATA_VALUE, &element.key)
                });
                if change == Change::Add && !element.value.is_empty() {
                    nest(out, NFTA_SET_ELEM_DATA, |data| {
                        put(data, NFTA_DATA_VALUE, &element.value)
                    });
                }
                if change == Change::Add && !element.comment.is_empty() {
                    put(out, NFTA_SET_ELEM_USERDATA, &comment_data(&element.comment));
                }
            });
        }
    });
    body
}

/// The user data `nft list` shows as a comment.
fn comment_data(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.truncate(usize::from(u8::MAX) - 1);
    bytes.push(0);
    let mut out = vec![UDATA_COMMENT, u8::try_from(bytes.len()).unwrap_or(u8::MAX)];
    out.extend(bytes);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(map: &'static str) -> RawElement {
        RawElement {
            map,
            key: vec![6, 0, 0, 0, 0, 80, 0, 0],
            value: vec![172, 30, 0, 2, 0, 80, 0, 0],
            comment: "c".into(),
        }
    }

    #[test]
    fn elements_are_grouped_by_map_and_bounded() {
        let mut all = vec![element("publish_any"); ELEMENTS_PER_MESSAGE + 1];
        all.push(element("publish_ip"));
        assert_eq!(element_messages("kelson", Change::Add, &all).len(), 3);
        assert!(
            element_messages("kelson", Change::Add, &all)
                .iter()
                .all(|m| m.body.len() < 60_000)
        );
    }

    #[test]
    fn a_deletion_names_the_key_only() {
        let body = element_list("kelson", Change::Delete, &[element("publish_any")]);
        let attributes = &body[4..];
        assert_eq!(
            find(attributes, NFTA_SET_ELEM_LIST_SET),
            Some(&b"publish_any\0"[..])
        );
        let one = find(
            find(attributes, NFTA_SET_ELEM_LIST_ELEMENTS).unwrap(),
            NFTA_LIST_ELEM,
        )
        .unwrap();
        assert!(find(one, NFTA_SET_ELEM_DATA).is_none());
        let key = find(find(one, NFTA_SET_ELEM_KEY).unwrap(), NFTA_DATA_VALUE).unwrap();
        assert_eq!(key, element("publish_any").key);
    }
}
