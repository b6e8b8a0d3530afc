//! The host's firewall: one table of ours, written as a whole once, and two maps in it that hold the published
//! ports, so that publishing one costs the same however many there are.

mod foreign;
mod ruleset;

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;

pub(crate) use foreign::{
    chain_in_the_way, let_through as let_through_foreign, remove as remove_from_foreign,
};
pub(crate) use ruleset::{Element, TablePlan};

use crate::error::{Error, Kind, Result};
use crate::model::Proto;
use crate::netlink::nf_tables::{Change, NfTables, RawElement};

type Key = (Option<Ipv4Addr>, Proto, u16);

/// What the table must hold, and the way to make it so.
#[derive(Debug)]
pub(crate) struct Firewall {
    plan: TablePlan,
    wanted: BTreeMap<Key, Element>,
    by_owner: BTreeMap<String, Vec<Key>>,
    /// Whether the kernel holds `wanted` as far as we know.
    written: bool,
    /// Kept open: closing it waits until the kernel has freed what the last transaction deleted (20 ms here).
    socket: Option<NfTables>,
}

impl Firewall {
    /// A firewall that has not been written yet.
    pub(crate) fn new(plan: TablePlan) -> Self {
        Self {
            plan,
            wanted: BTreeMap::new(),
            by_owner: BTreeMap::new(),
            written: false,
            socket: None,
        }
    }

    /// Makes the table what it should be, in one transaction.
    pub(crate) fn write(&mut self) -> Result<()> {
        self.written = false;
        let table = ruleset::table(&self.plan, self.wanted.values());
        let written = self.socket().and_then(|socket| socket.write_table(&table));
        written.map_err(|e| Error::os(format!("write firewall table inet {}", table.name), e))?;
        self.written = true;
        Ok(())
    }

    /// Takes elements over without telling the kernel; `write` follows.
    pub(crate) fn adopt(&mut self, owner: &str, elements: Vec<Element>) {
        self.written = false;
        for element in elements {
            self.by_owner
                .entry(owner.to_owned())
                .or_default()
                .push(element.key());
            self.wanted.insert(element.key(), element);
        }
    }

    /// Adds an owner's elements: all or none. Those it has already are no conflict.
    pub(crate) fn add(&mut self, owner: &str, mut elements: Vec<Element>) -> Result<()> {
        elements.retain(|e| self.wanted.get(&e.key()) != Some(e));
        if elements.is_empty() {
            return Ok(());
        }
        if let Some(taken) = elements.iter().find(|e| self.wanted.contains_key(&e.key())) {
            let ip = taken.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED);
            let what = format!(
                "Bind for {ip}:{} failed: port is already allocated",
                taken.host_port
            );
            return Err(Error::new(Kind::Conflict, what));
        }
        let raw = raw(&elements);
        self.wanted.extend(elements.iter().map(|e| (e.key(), e.clone())));
        let result = match self.change(Change::Add, &raw) {
            // The table has been flushed by somebody, or holds an element nobody knows: what we want is the truth.
            Err(e) if matches!(e.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::EEXIST)) => self.write(),
            Err(e) => Err(Error::os(
                format!("add elements to table inet {}", self.plan.table),
                e,
            )),
            Ok(()) => Ok(()),
        };
        if result.is_ok() {
            self.by_owner
                .entry(owner.to_owned())
                .or_default()
                .extend(elements.iter().map(Element::key));
        } else {
            elements.iter().for_each(|e| drop(self.wanted.remove(&e.key())));
        }
        result
    }

    /// Deletes all of an owner's elements.
    pub(crate) fn remove(&mut self, owner: &str) -> Result<()> {
        let keys = self.by_owner.remove(owner).unwrap_or_default();
        let gone: Vec<Element> = keys.iter().filter_map(|key| self.wanted.remove(key)).collect();
        if gone.is_empty() {
            return Ok(());
        }
        match self.change(Change::Delete, &raw(&gone)) {
            Ok(()) => Ok(()),
            Err(e) if e.raw_os_error() == Some(nix::libc::ENOENT) => self.write(),
            Err(e) => {
                // The next change writes the whole table, without these.
                self.written = false;
                Err(Error::os(
                    format!("delete elements from table inet {}", self.plan.table),
                    e,
                ))
            }
        }
    }

    fn change(&mut self, change: Change, elements: &[RawElement]) -> io::Result<()> {
        if !self.written {
            return Err(io::Error::from_raw_os_error(nix::libc::ENOENT));
        }
        let table = self.plan.table.clone();
        self.socket()?.change(&table, change, elements)
    }

    fn socket(&mut self) -> io::Result<&mut NfTables> {
        match &mut self.socket {
            Some(socket) => Ok(socket),
            none => Ok(none.insert(NfTables::open()?)),
        }
    }
}

/// Deletes a table of ours; one that has gone is fine.
pub(crate) fn delete_table(table: &str) -> Result<()> {
    let result = NfTables::open().and_then(|mut tables| tables.delete_table(table));
    result.map_err(|e| Error::os(format!("delete firewall table inet {table}"), e))
}

/// Whether the kernel has the table and in it every one of these elements: not after somebody flushed the ruleset.
pub(crate) fn holds(table: &str, elements: impl Iterator<Item = Element>) -> io::Result<bool> {
    let mut tables = NfTables::open()?;
    if !tables.has_table(table)? {
        return Ok(false);
    }
    for element in elements {
        if !tables.has_element(table, &element.raw())? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn raw(elements: &[Element]) -> Vec<RawElement> {
    let mut raw: Vec<RawElement> = elements.iter().map(Element::raw).collect();
    // Neighbours of one map share a message.
    raw.sort_by_key(|e| e.map);
    raw
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn nft(arguments: &[&str]) -> String {
        let output = Command::new("nft").args(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// What `tests/ruleset.rs` does for the ordinary table, here because no test can make a physical link.
    #[test]
    fn the_table_with_everything_closed_is_what_nft_makes_of_its_text() {
        // It ends with this test's thread.
        if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err() {
            return;
        }
        let mut firewall = Firewall::new(TablePlan {
            table: "kelson".into(),
            bridge: "kls0".into(),
            subnet: "10.99.0.1/20".parse().unwrap(),
            masquerade: false,
            inter_container: false,
            internal: false,
            outside: vec!["eth0".into(), "eth1".into()],
        });
        firewall.write().unwrap();
        let list = ["-s", "list", "ruleset"];
        let ours = nft(&list);
        nft(&["flush", "ruleset"]);
        nft(&[
            "-f",
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/closed.nft"),
        ]);
        assert_eq!(ours, nft(&list));
        // In place of one that is there, too.
        firewall.write().unwrap();
        assert_eq!(ours, nft(&list));
        delete_table("kelson").unwrap();
        delete_table("kelson").unwrap();
        assert_eq!(nft(&list), "");
    }
}
