//! `linux.netDevices`: interfaces of the host that move into the container's network namespace.
//!
//! The kernel takes an interface's addresses away when it moves, so they are read before and given back after. Everything
//! is done by the runtime, with one socket in its own namespace and one in the container's. Nothing undoes a move: when
//! the container's namespace ends, the kernel gives physical interfaces back to the host and removes virtual ones.

mod netlink;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;

use nix::sched::{CloneFlags, setns};

use self::netlink::{Address, Link, Route};
use crate::config::model::NetDevice;
use crate::error::{Doing, Error, Kind, Result};

/// `IFNAMSIZ` less its NUL.
const MAX_NAME: usize = 15;

/// One interface to move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// Its name on the host.
    pub from: String,
    /// Its name in the container: as it is, or a template such as `eth%d`.
    pub to: String,
}

impl Move {
    fn is_template(&self) -> bool {
        self.to.contains("%d")
    }
}

/// The moves, in the order of their names.
///
/// # Errors
/// `Invalid` for what cannot be the name of an interface, and for two interfaces that would have the same one.
pub fn decide(devices: &BTreeMap<String, NetDevice>) -> Result<Vec<Move>> {
    let mut out: Vec<Move> = Vec::with_capacity(devices.len());
    for (from, device) in devices {
        let at = format!("linux.netDevices[{from:?}]");
        if let Some(why) = bad_name(from, false) {
            return Err(Error::field(at, why));
        }
        let to = if device.name.is_empty() {
            from
        } else {
            &device.name
        };
        if let Some(why) = bad_name(to, true) {
            return Err(Error::field(format!("{at}.name"), format!("{to:?} {why}")));
        }
        let m = Move {
            from: from.clone(),
            to: to.clone(),
        };
        if !m.is_template()
            && let Some(other) = out.iter().find(|other| other.to == m.to)
        {
            let why = format!("{to:?} is the name that {} gets, too", other.from);
            return Err(Error::field(format!("{at}.name"), why));
        }
        out.push(m);
    }
    Ok(out)
}

/// Why the kernel would not take a name (`dev_valid_name`), with at most one `%d` in a template.
fn bad_name(name: &str, template: bool) -> Option<String> {
    if name.is_empty() || name == "." || name == ".." {
        return Some("is not the name of an interface".to_owned());
    }
    if name.len() > MAX_NAME {
        return Some(format!("is longer than {MAX_NAME} bytes"));
    }
    if name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c == '\0') {
        return Some("holds a slash, colon, space or NUL".to_owned());
    }
    let percent = name.matches('%').count();
    if percent > 0 && !(template && percent == 1 && name.contains("%d")) {
        return Some("may hold no % but that of one %d in a new name".to_owned());
    }
    None
}

/// Moves them into `target`, a network namespace. All are looked up, on both sides, before the first one moves.
///
/// # Errors
/// Names the interface: it is not there (`NotFound`), its new name is taken (`Conflict`), or what the kernel refused.
pub fn relocate(moves: &[Move], target: &File) -> Result<()> {
    let mut host = Route::open().doing(|| "linux.netDevices: open a netlink socket")?;
    let mut container = open_in(target)?;
    let taken = container
        .links()
        .doing(|| "linux.netDevices: list the container's interfaces")?;
    let mut found = Vec::with_capacity(moves.len());
    for m in moves {
        let doing = || format!("linux.netDevices[{:?}]: look up", m.from);
        let link = host.link(&m.from).map_err(|e| {
            let missing = e == rustix::io::Errno::NODEV;
            let error = Err::<(), _>(e).doing(doing).err();
            let error = error.unwrap_or_else(|| Error::new(Kind::Internal, doing()));
            if missing {
                error.as_kind(Kind::NotFound)
            } else {
                error
            }
        })?;
        if !m.is_template() && taken.iter().any(|t| t.name == m.to) {
            let why = format!("the container has an interface {:?} already", m.to);
            return Err(Error::field(format!("linux.netDevices[{:?}]", m.from), why).as_kind(Kind::Conflict));
        }
        found.push(link);
    }
    for (m, link) in moves.iter().zip(found) {
        relocate_one(m, &link, &mut host, &mut container, target)
            .doing(|| format!("linux.netDevices[{:?}]", m.from))?;
    }
    Ok(())
}

fn relocate_one(m: &Move, link: &Link, host: &mut Route, container: &mut Route, target: &File) -> Result<()> {
    let addresses: Vec<Address> = host.addresses(link.index).doing(|| "read its addresses")?;
    let before = container.links().doing(|| "list the container's interfaces")?;
    host.relocate(link.index, &m.to, target.as_fd())
        .doing(|| format!("move it into the container as {:?}", m.to))?;
    // It may have another number there, and from a template it has another name.
    let after = container.links().doing(|| "list the container's interfaces")?;
    let is_new = |l: &&Link| before.iter().all(|b| b.index != l.index);
    let moved = after
        .iter()
        .find(is_new)
        .ok_or_else(|| Error::new(Kind::Internal, "find it in the container"))?;
    for address in &addresses {
        container
            .add(moved.index, address)
            .doing(|| format!("give {:?} its addresses again", moved.name))?;
    }
    container
        .up(moved.index)
        .doing(|| format!("bring {:?} up", moved.name))
}

/// A socket in another network namespace. The runtime has one thread, and comes back at once.
fn open_in(target: &File) -> Result<Route> {
    let own = File::open("/proc/self/ns/net").doing(|| "open the own network namespace")?;
    setns(target, CloneFlags::CLONE_NEWNET)
        .doing(|| "linux.netDevices: enter the container's network namespace")?;
    let opened = Route::open();
    setns(own, CloneFlags::CLONE_NEWNET).doing(|| "return to the own network namespace")?;
    opened.doing(|| "linux.netDevices: open a netlink socket in the container")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> std::result::Result<Vec<Move>, String> {
        decide(&serde_json::from_str(text).unwrap()).map_err(|e| e.chain())
    }

    #[test]
    fn names_stay_or_change() {
        let moves = of(r#"{"eth1":{},"eth0":{"name":"wan%d"}}"#).unwrap();
        let names: Vec<_> = moves.iter().map(|m| (m.from.as_str(), m.to.as_str())).collect();
        assert_eq!(names, [("eth0", "wan%d"), ("eth1", "eth1")]);
        assert!(moves[0].is_template());
    }

    #[test]
    fn what_can_be_no_name_is_refused() {
        let bad = [
            r#"{"":{}}"#,
            r#"{"..":{}}"#,
            r#"{"a b":{}}"#,
            r#"{"a/b":{}}"#,
            r#"{"sixteen-bytes-xx":{}}"#,
            r#"{"eth%d":{}}"#,
            r#"{"eth0":{"name":"eth%s"}}"#,
            r#"{"eth0":{"name":"%d%d"}}"#,
            r#"{"eth0":{"name":"eth1"},"eth1":{}}"#,
        ];
        for text in bad {
            let error = of(text).unwrap_err();
            assert!(error.starts_with("linux.netDevices[\""), "{text}: {error}");
        }
    }
}
