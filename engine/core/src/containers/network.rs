//! A container's places on networks: taken before it starts, left after it ended, taken over by a new daemon.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kelson_api::EndpointSettings;
use kelson_network::{BoundPort, Network, PortMapping, Wish};
use kelson_shim_proto::names::Listener;

use super::container::Container;
use super::links;
use super::modes::{self, NetworkMode};
use super::record::{Place, Record};
use crate::error::{Doing, Error, Kind, Result};
use crate::inner::{Inner, blocking};
use crate::names;
use crate::networks::{Found, Member, UserNetwork};
use crate::tasks;

pub(super) const BRIDGE: &str = "bridge";

/// One network of a container's, and what is asked of it.
#[derive(Debug, Clone)]
pub(crate) struct Attachment {
    /// Name of the network.
    pub name: String,
    pub settings: EndpointSettings,
    /// `None`: the default bridge.
    pub user: Option<Arc<UserNetwork>>,
}

impl Attachment {
    /// # Errors
    /// `NotFound` for a network that is not there, `Invalid` for one without places.
    pub fn new(inner: &Inner, name: &str, settings: EndpointSettings) -> Result<Self> {
        let user = match inner.networks.find(name)? {
            Found::User(network) => Some(network),
            Found::Predefined(BRIDGE) => None,
            Found::Predefined(name) => {
                return Err(Error::invalid(format!(
                    "network {name} has no places for containers"
                )));
            }
        };
        Ok(Self {
            name: user.as_ref().map_or(BRIDGE, |n| &n.record.name).to_owned(),
            settings,
            user,
        })
    }

    pub fn bridge<'a>(&'a self, inner: &'a Inner) -> Result<&'a Network> {
        match &self.user {
            Some(network) => Ok(&network.bridge),
            None => inner.network(),
        }
    }

    fn id(&self, inner: &Inner) -> String {
        match &self.user {
            Some(network) => network.record.id.clone(),
            None => inner.networks.predefined_id(BRIDGE),
        }
    }

    fn is_internal(&self) -> bool {
        self.user.as_ref().is_some_and(|n| n.record.internal)
    }

    /// Refuses what this network cannot give, in docker's words.
    pub fn check(&self) -> Result<()> {
        let ipam = self.settings.ipam_config.clone().unwrap_or_default();
        let invalid = |text: &str| Err(Error::invalid(text.to_owned()));
        if !ipam.ipv4_address.is_empty() {
            match &self.user {
                None => {
                    return invalid("user specified IP address is supported on user defined networks only");
                }
                Some(network) if !network.record.own_subnet => {
                    return invalid(
                        "user specified IP address is supported only when connecting to networks with user \
                         configured subnets",
                    );
                }
                Some(_) => {}
            }
        }
        if self.user.is_none() && self.settings.aliases.as_ref().is_some_and(|a| !a.is_empty()) {
            return invalid("network-scoped alias is supported only for containers in user defined networks");
        }
        if !ipam.ipv6_address.is_empty() {
            return Err(Error::unsupported(
                "IPv6 addresses are not supported by Kelson yet",
            ));
        }
        self.wish().map(drop)
    }

    fn wish(&self) -> Result<Wish> {
        let ip = match self.settings.ipam_config.as_ref().map_or("", |c| &c.ipv4_address) {
            "" => None,
            text => Some(
                text.parse()
                    .map_err(|_| Error::invalid(format!("invalid IPv4 address: {text}")))?,
            ),
        };
        let mac = match self.settings.mac_address.as_str() {
            "" => None,
            text => Some(
                text.parse()
                    .map_err(|_| Error::invalid(format!("invalid MAC address: {text}")))?,
            ),
        };
        let link_local = self
            .settings
            .ipam_config
            .iter()
            .flat_map(|c| c.link_local_ips.iter().flatten());
        let link_local = link_local.map(|text| {
            let ip: Option<Ipv4Addr> = text.parse().ok();
            ip.filter(Ipv4Addr::is_link_local)
                .ok_or_else(|| Error::invalid(format!("invalid link local IP address: {text}")))
        });
        Ok(Wish {
            ip,
            mac,
            link_local: link_local.collect::<Result<_>>()?,
            ..Wish::default()
        })
    }

    /// Takes an address; the link of that name follows when it is connected.
    pub fn take(&self, inner: &Inner, container: &str, links: &[&str], default_route: bool) -> Result<Place> {
        let wish = Wish {
            container_link: Some(match &self.user {
                Some(network) => network.record.link_name(links),
                None => crate::networks::record::link_name("eth", links),
            }),
            no_default_route: !default_route,
            ..self.wish()?
        };
        let endpoint = match &self.user {
            Some(network) => network.allocate(container, wish)?,
            None => inner.network()?.allocate_as(container, wish)?,
        };
        Ok(Place {
            network: self.id(inner),
            name: self.name.clone(),
            id: names::new_id()?,
            endpoint,
        })
    }
}

/// The networks of a container: that of its mode first, the others by name.
pub(crate) fn attachments(inner: &Inner, record: &Record) -> Result<Vec<Attachment>> {
    let mode = NetworkMode::of(record)?;
    if !mode.has_places() {
        return Ok(Vec::new());
    }
    let first = primary(inner, &mode);
    if record.networks.is_empty() {
        // Of an older release, or disconnected from all: it starts where it was made for.
        return Ok(vec![Attachment::new(inner, &first, EndpointSettings::default())?]);
    }
    let mut all = Vec::with_capacity(record.networks.len());
    for (name, settings) in &record.networks {
        all.push(Attachment::new(inner, name, settings.clone())?);
    }
    all.sort_by_key(|a| a.name != first);
    Ok(all)
}

/// Name of the network a mode means, whether or not it is there.
pub(crate) fn primary(inner: &Inner, mode: &NetworkMode) -> String {
    match mode {
        NetworkMode::User(word) => match inner.networks.find(word) {
            Ok(found) => found.name().to_owned(),
            Err(_) => word.clone(),
        },
        _ => BRIDGE.to_owned(),
    }
}

/// Which network has the default route: the highest priority, then the first name; an internal one never.
pub(crate) fn gateway(attachments: &[Attachment]) -> Option<usize> {
    let candidates = attachments.iter().enumerate().filter(|(_, a)| !a.is_internal());
    candidates
        .min_by(|(_, a), (_, b)| {
            let priority = b.settings.gw_priority.cmp(&a.settings.gw_priority);
            priority.then_with(|| a.name.cmp(&b.name))
        })
        .map(|(at, _)| at)
}

/// Ports, then addresses. What was taken when a step fails is given back by [`disconnect`].
pub(crate) fn take(inner: &Inner, record: &Record) -> Result<(Vec<Place>, Vec<BoundPort>)> {
    let attachments = attachments(inner, record)?;
    let gateway = gateway(&attachments);
    let specs = modes::port_specs(record)?;
    let ports = match gateway.and_then(|at| attachments.get(at)) {
        Some(by) => by.bridge(inner)?.bind_ports(&record.id, &specs).map_err(|e| {
            Error::from(e).wrap(format!(
                "driver failed programming external connectivity on endpoint {} ({})",
                record.name,
                &record.id[..12]
            ))
        })?,
        // No way in from outside.
        None => Vec::new(),
    };
    let mut places: Vec<Place> = Vec::with_capacity(attachments.len());
    for (at, attachment) in attachments.iter().enumerate() {
        let links: Vec<&str> = places
            .iter()
            .map(|p| p.endpoint.container_link.as_str())
            .collect();
        places.push(attachment.take(inner, &record.id, &links, gateway == Some(at))?);
    }
    Ok((places, ports))
}

/// The bridge a place is on.
///
/// # Errors
/// `NotFound` when the network is gone.
pub(crate) fn bridge_of(inner: &Inner, place: &Place) -> Result<Network> {
    if place.name == BRIDGE {
        return inner.network().cloned();
    }
    match inner.networks.user(&place.network) {
        Some(network) => Ok(network.bridge.clone()),
        None => Err(Error::not_found(format!("network {} not found", place.name))),
    }
}

/// The user's networks among a container's places.
pub(crate) fn user_networks(inner: &Inner, places: &[Place]) -> Vec<(Arc<UserNetwork>, Place)> {
    let user = |place: &Place| Some((inner.networks.user(&place.network)?, place.clone()));
    places.iter().filter_map(user).collect()
}

/// Makes the links, and publishes the ports.
pub(crate) fn connect(
    inner: &Inner,
    places: &[Place],
    netns: &impl AsFd,
    mappings: &[PortMapping],
) -> Result<()> {
    for place in places {
        let bridge = bridge_of(inner, place)?;
        bridge.connect(&place.endpoint, netns.as_fd())?;
        if place.endpoint.default_route && !mappings.is_empty() {
            bridge.publish(&place.endpoint, mappings)?;
        }
    }
    Ok(())
}

/// Where a running container's namespace is found, by the shim that holds it.
pub(crate) fn netns_of(shim_pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{shim_pid}/fd/{}", tasks::NETNS_FD))
}

/// Makes a container known to the resolvers of its networks, the first of which serves it. Blocking.
pub(crate) fn join_names(inner: &Inner, record: &Record, places: &[Place], shim_pid: u32) -> Result<()> {
    // The one that serves reads the others' records, so it comes last.
    for (network, member) in members(inner, record, places, &netns_of(shim_pid), shim_pid)?
        .into_iter()
        .rev()
    {
        network.names.put(&record.id, member)?;
    }
    Ok(())
}

/// What the resolvers of a container's networks are to know of it, the one that serves it first.
pub(super) fn members(
    inner: &Inner,
    record: &Record,
    places: &[Place],
    netns: &Path,
    shim_pid: u32,
) -> Result<Vec<(Arc<UserNetwork>, Member)>> {
    let mut out = Vec::new();
    let networks = user_networks(inner, places);
    for (network, place) in &networks {
        let settings = record.networks.get(&place.name).cloned().unwrap_or_default();
        let listener = if out.is_empty() {
            let inode = std::fs::metadata(netns)
                .doing(|| format!("look at {}", netns.display()))?
                .ino();
            let others = networks.iter().skip(1).map(|(n, _)| n.record.id.clone());
            let own = record.host.dns.as_ref().filter(|dns| !dns.is_empty());
            Some(Listener {
                netns: netns.to_owned(),
                inode,
                pid: Some(shim_pid),
                port: 0,
                networks: others.collect(),
                links: links::by_alias(inner, record),
                upstreams: own.map(|dns| crate::networks::upstreams(dns)),
            })
        } else {
            None
        };
        let member = Member {
            names: dns_names(record, &settings),
            ip: place.endpoint.ip,
            listener,
        };
        out.push((network.clone(), member));
    }
    Ok(out)
}

/// Under which names a container is found, but for its short id, which the resolver adds.
pub(crate) fn dns_names(record: &Record, settings: &EndpointSettings) -> Vec<String> {
    let aliases = settings.aliases.iter().flatten();
    let all = std::iter::once(&record.name)
        .chain(aliases)
        .chain([&record.config.hostname]);
    let mut names: Vec<String> = Vec::new();
    for name in all.filter(|name| !name.is_empty()) {
        if !names.contains(name) && !record.id.starts_with(name.as_str()) {
            names.push(name.clone());
        }
    }
    names
}

/// Undoes the network of a container that does not run.
pub(crate) async fn disconnect(inner: &Arc<Inner>, container: &Arc<Container>) {
    let (record, places) = (container.record(), container.state().places.clone());
    if places.is_empty() && !NetworkMode::of(&record).is_ok_and(|mode| mode.has_places()) {
        return;
    }
    let (inner_, record_, places_) = (inner.clone(), record.clone(), places.clone());
    let done = blocking("disconnect the network", move || {
        leave(&inner_, &record_, &places_)
    });
    if let Err(e) = done.await {
        tracing::warn!(container = %container.id, error = %e, "disconnect the network");
    }
    for place in &places {
        inner.network_event("disconnect", place, &container.id);
    }
}

/// Leaves every network that the container has, or was about to take, a place on. Goes on after a failure.
fn leave(inner: &Inner, record: &Record, places: &[Place]) -> Result<()> {
    let mut bridges: BTreeMap<&str, Network> = BTreeMap::new();
    let mut errors = Vec::new();
    let mut user = Vec::new();
    let wanted = record
        .networks
        .keys()
        .filter_map(|name| match inner.networks.find(name) {
            Ok(Found::User(network)) => Some(network),
            _ => None,
        });
    user.extend(wanted);
    user.extend(
        user_networks(inner, places)
            .into_iter()
            .map(|(network, _)| network),
    );
    if let NetworkMode::User(word) = NetworkMode::of(record)?
        && let Ok(Found::User(network)) = inner.networks.find(&word)
    {
        user.push(network);
    }
    for network in &user {
        if let Some(Err(e)) = (!bridges.contains_key(network.record.id.as_str()))
            .then(|| network.names.remove(&record.id, false))
        {
            errors.push(e);
        }
        bridges.insert(&network.record.id, network.bridge.clone());
    }
    match inner.network() {
        Ok(network) => drop(bridges.insert("", network.clone())),
        Err(e) if e.kind() == Kind::Unsupported => {}
        Err(e) => errors.push(e),
    }
    for bridge in bridges.values() {
        errors.extend(bridge.disconnect(&record.id).err().map(Error::from));
    }
    errors.into_iter().next().map_or(Ok(()), Err)
}

/// The record's own view after a change, kept on disk before it is seen.
pub(crate) fn keep(container: &Container, record: Record) -> Result<()> {
    record.save(&container.dir)?;
    container.replace_record(record);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(name: &str, priority: i64) -> Attachment {
        Attachment {
            name: name.into(),
            settings: EndpointSettings {
                gw_priority: priority,
                ..EndpointSettings::default()
            },
            user: None,
        }
    }

    #[test]
    fn the_default_route_goes_by_priority_then_by_name() {
        assert_eq!(gateway(&[]), None);
        assert_eq!(gateway(&[attachment("b", 0), attachment("a", 0)]), Some(1));
        assert_eq!(gateway(&[attachment("b", 1), attachment("a", 0)]), Some(0));
        assert_eq!(gateway(&[attachment("b", -1), attachment("c", 0)]), Some(1));
    }

    #[test]
    fn the_default_bridge_gives_no_address_and_no_alias() {
        let refused = |change: &dyn Fn(&mut EndpointSettings)| {
            let mut one = attachment("bridge", 0);
            change(&mut one.settings);
            one.check().unwrap_err().to_string()
        };
        let ip =
            |s: &mut EndpointSettings| s.ipam_config.get_or_insert_default().ipv4_address = "10.0.0.2".into();
        assert!(refused(&ip).contains("user defined networks only"));
        assert!(refused(&|s| s.aliases = Some(vec!["a".into()])).contains("alias"));
        assert!(refused(&|s| s.mac_address = "x".into()).contains("MAC"));
        assert!(attachment("bridge", 0).check().is_ok());
    }
}
