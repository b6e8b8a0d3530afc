//! The bridge itself: found or made at first use, with all that makes it work, and taken away again.

use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;

use crate::error::{Error, Kind, Result};
use crate::firewall::{self, Firewall, TablePlan};
use crate::model::{Mac, NetworkConfig, NetworkInfo};
use crate::netlink::route::{Link, Route, Rtnl};
use crate::netns::write_sysctl;
use crate::plan::{self, BridgeClaim};
use crate::record::{Record, RecordFile, boot_id};

const IP_FORWARD: &str = "net/ipv4/ip_forward";

/// A bridge that is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bridge {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// Its own address and the subnet.
    pub(crate) address: Ipv4Net,
    pub(crate) mtu: u32,
}

impl Bridge {
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        self.address.addr()
    }
}

/// What the host looks like before anything is made.
struct Host {
    links: Vec<Link>,
    routes: Vec<Route>,
}

/// What to make, or to use.
struct Choice {
    claim: BridgeClaim,
    name: String,
    address: Ipv4Net,
    mtu: u32,
}

/// What the bridge would be if it were made now.
pub(crate) fn describe(
    config: &NetworkConfig,
    file: &RecordFile,
    last: Option<Ipv4Net>,
) -> Result<NetworkInfo> {
    let mut rtnl = open()?;
    let host = look(&mut rtnl)?;
    let Choice {
        name, address, mtu, ..
    } = choose(config, file.dir(), last, &host, &mut rtnl)?;
    Ok(NetworkInfo {
        bridge: name,
        subnet: address.trunc(),
        gateway: address.addr(),
        mtu,
    })
}

/// Finds or makes the bridge, the forwarding switch and the firewall. Undoes what it did when a step fails.
/// `adopt` puts the running containers' ports into the firewall before it is written.
pub(crate) fn ensure(
    config: &NetworkConfig,
    file: &RecordFile,
    last: Option<Record>,
    adopt: impl FnOnce(&mut Firewall),
) -> Result<(Bridge, Option<Firewall>, Record)> {
    let mut rtnl = open()?;
    let host = look(&mut rtnl)?;
    let choice = choose(
        config,
        file.dir(),
        last.as_ref().map(|r| r.address),
        &host,
        &mut rtnl,
    )?;
    let record = plan_record(config, &choice, last)?;
    file.save(&record)?;
    let made = make(config, file.dir(), &record, &choice, &host, adopt, &mut rtnl);
    made.map(|(bridge, firewall)| (bridge, firewall, record.clone()))
        .inspect_err(|_| {
            // A bridge that was there before may carry containers; only what this call made is taken back.
            if choice.claim == BridgeClaim::Make
                && let Err(e) = tear_down(file, &record)
            {
                tracing::warn!(error = %e, "undo of a bridge that could not be made");
            }
        })
}

/// All that is going to be made, and the values that are going to be changed.
fn plan_record(config: &NetworkConfig, choice: &Choice, last: Option<Record>) -> Result<Record> {
    let table = plan::table_name(&choice.name);
    let own = choice.claim != BridgeClaim::Foreign;
    let mut record = Record::new(boot_id(), choice.name.clone(), own, choice.address, table);
    if let Some(last) = last.filter(|l| l.boot_id == record.boot_id) {
        record.rest = last.rest;
        record.forwarding_was = last.forwarding_was;
        record.foreign_chain = last.foreign_chain;
    }
    let switch = std::fs::read_to_string(format!("/proc/sys/{IP_FORWARD}"))
        .map_err(|e| Error::os(format!("read {IP_FORWARD}"), e))?;
    match switch.trim() {
        "0" if config.ip_forward => record.forwarding_was = Some("0".to_owned()),
        "0" => tracing::warn!("IPv4 forwarding is off: containers reach nothing beyond this host"),
        _ => {}
    }
    if config.firewall
        && let Some(chain) = firewall::chain_in_the_way()?
    {
        record.foreign_chain = Some(chain.to_owned());
    }
    Ok(record)
}

fn make(
    config: &NetworkConfig,
    state_dir: &Path,
    record: &Record,
    choice: &Choice,
    host: &Host,
    adopt: impl FnOnce(&mut Firewall),
    rtnl: &mut Rtnl,
) -> Result<(Bridge, Option<Firewall>)> {
    let index = make_link(choice, state_dir, rtnl)?;
    if record.forwarding_was.is_some() && config.ip_forward {
        write_sysctl(IP_FORWARD, "1").map_err(|e| Error::os(format!("set {IP_FORWARD}"), e))?;
    }
    let bridge = Bridge {
        index,
        name: choice.name.clone(),
        address: choice.address,
        mtu: choice.mtu,
    };
    if !config.firewall {
        return Ok((bridge, None));
    }
    let mut firewall = Firewall::new(TablePlan {
        table: record.table.clone(),
        bridge: choice.name.clone(),
        subnet: choice.address,
        masquerade: config.masquerade,
        inter_container: config.inter_container,
        internal: config.internal,
        outside: if record.forwarding_was.is_some() {
            plan::outside_links(&host.links)
        } else {
            Vec::new()
        },
    });
    adopt(&mut firewall);
    firewall.write()?;
    if let Some(chain) = &record.foreign_chain {
        firewall::let_through_foreign(chain, &choice.name)?;
    }
    Ok((bridge, Some(firewall)))
}

/// The link, with its address, and up.
fn make_link(choice: &Choice, state_dir: &Path, rtnl: &mut Rtnl) -> Result<u32> {
    let Choice {
        claim,
        name,
        address,
        mtu,
    } = choice;
    let doing = |what: &str| format!("{what} bridge {name}");
    if *claim == BridgeClaim::Make {
        rtnl.add_bridge(name, Mac::of(address.addr()), *mtu)
            .map_err(|e| Error::os(doing("make"), e))?;
    }
    let link = rtnl.link(name).map_err(|e| Error::os(doing("look up"), e))?;
    let link = link.ok_or_else(|| Error::new(Kind::NotFound, doing("look up")))?;
    if *claim == BridgeClaim::Foreign {
        return Ok(link.index);
    }
    // Before it comes up: a container must not give the host a route by router advertisement (CVE-2020-13401), and
    // the bridge has no IPv6 to offer.
    for (key, value) in [("accept_ra", "0"), ("disable_ipv6", "1")] {
        let path = format!("net/ipv6/conf/{name}/{key}");
        write_sysctl(&path, value).map_err(|e| Error::os(format!("set {path}"), e))?;
    }
    rtnl.configure_bridge(
        link.index,
        &plan::bridge_alias(&state_dir.display().to_string()),
        address.addr(),
        address.prefix_len(),
    )
    .map_err(|e| Error::os(doing("configure"), e))?;
    Ok(link.index)
}

/// Removes all a record accounts for, collecting errors; the record goes last, and stays when something else did.
pub(crate) fn tear_down(file: &RecordFile, record: &Record) -> Result<()> {
    let mut errors = Vec::new();
    if record.boot_id == boot_id() {
        if let Some(chain) = &record.foreign_chain {
            errors.extend(firewall::remove_from_foreign(chain, &record.bridge).err());
        }
        // Rules first: without them nothing reaches a bridge that is going away.
        errors.extend(firewall::delete_table(&record.table).err());
        errors.extend(remove_link(file.dir(), record).err());
        errors.extend(restore_forwarding(record).err());
    }
    if errors.is_empty() {
        errors.extend(file.remove().err());
    }
    Error::collect(format!("remove bridge network {}", record.bridge), errors).map_or(Ok(()), Err)
}

fn remove_link(state_dir: &Path, record: &Record) -> Result<()> {
    if !record.own_bridge {
        return Ok(());
    }
    let remove = || {
        let mut rtnl = Rtnl::open()?;
        let link = rtnl.link(&record.bridge)?;
        let ours = plan::bridge_alias(&state_dir.display().to_string());
        // Between making and marking it a crash may have left it without its mark; a link with another's mark has
        // been taken over.
        match link {
            Some(l) if l.kind == "bridge" && (l.alias == ours || l.alias.is_empty()) => {
                rtnl.delete_link(&l.name)
            }
            _ => Ok(false),
        }
    };
    remove()
        .map(|_| ())
        .map_err(|e| Error::os(format!("delete bridge {}", record.bridge), e))
}

fn restore_forwarding(record: &Record) -> Result<()> {
    let Some(was) = &record.forwarding_was else {
        return Ok(());
    };
    let restore = || {
        if plan::may_stop_forwarding(&Rtnl::open()?.links()?) {
            write_sysctl(IP_FORWARD, was)
        } else {
            Ok(())
        }
    };
    restore().map_err(|e| Error::os(format!("restore {IP_FORWARD}"), e))
}

fn open() -> Result<Rtnl> {
    Rtnl::open().map_err(|e| Error::os("open a netlink socket", e))
}

fn look(rtnl: &mut Rtnl) -> Result<Host> {
    let links = rtnl.links().map_err(|e| Error::os("list links", e))?;
    let routes = rtnl.routes().map_err(|e| Error::os("list routes", e))?;
    Ok(Host { links, routes })
}

/// Decides on name, address and MTU from what the host looks like.
fn choose(
    config: &NetworkConfig,
    state_dir: &Path,
    last: Option<Ipv4Net>,
    host: &Host,
    rtnl: &mut Rtnl,
) -> Result<Choice> {
    let dir = state_dir.display().to_string();
    let mut refused = Vec::new();
    for name in plan::bridge_names(config) {
        if !plan::valid_link_name(&name) {
            return Err(Error::new(
                Kind::Invalid,
                format!("{name:?} is not a name for a bridge"),
            ));
        }
        let link = host.links.iter().find(|l| l.name == name);
        let claim = plan::judge_bridge(link, &dir, config.bridge.is_some(), |owner| {
            Path::new(owner).exists()
        });
        match claim {
            BridgeClaim::Taken(owner) => {
                refused.push(format!("{name} belongs to the kelsond with state {owner}"))
            }
            BridgeClaim::Unusable => refused.push(format!("{name} is not a bridge of ours")),
            claim => return choose_address(config, last, host, rtnl, claim, name, link),
        }
    }
    Err(Error::new(
        Kind::Conflict,
        format!("no usable bridge: {}", refused.join("; ")),
    ))
}

fn choose_address(
    config: &NetworkConfig,
    last: Option<Ipv4Net>,
    host: &Host,
    rtnl: &mut Rtnl,
    claim: BridgeClaim,
    name: String,
    link: Option<&Link>,
) -> Result<Choice> {
    let now = match link {
        Some(link) => rtnl
            .addresses(link.index)
            .map_err(|e| Error::os(format!("list the addresses of {name}"), e))?
            .into_iter()
            .next(),
        None => None,
    };
    let mtu = config
        .mtu
        .unwrap_or_else(|| plan::default_mtu(&host.links, &host.routes));
    if claim == BridgeClaim::Foreign {
        let address = now.or(config.bip).ok_or_else(|| {
            let what = format!("bridge {name} has no IPv4 address");
            Error::new(
                Kind::Invalid,
                what + ". hint: give it one, or let kelsond make the bridge",
            )
        })?;
        return Ok(Choice {
            claim,
            name,
            address,
            mtu,
        });
    }
    let routes: Vec<Route> = host
        .routes
        .iter()
        .filter(|r| link.is_none_or(|l| r.link != Some(l.index)))
        .cloned()
        .collect();
    let address = plan::choose_subnet(config, now.or(last), &routes)?;
    let claim = match (claim, now) {
        // It has another address than it is to have (--bip has changed): make it anew.
        (BridgeClaim::Adopt, Some(now)) if now != address => {
            rtnl.delete_link(&name)
                .map_err(|e| Error::os(format!("delete bridge {name}"), e))?;
            BridgeClaim::Make
        }
        (claim, _) => claim,
    };
    Ok(Choice {
        claim,
        name,
        address,
        mtu,
    })
}
