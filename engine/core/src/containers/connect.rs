//! `docker network connect` and `disconnect`: of a container that does not run the record changes, of one that runs its
//! links, routes, names and files, too.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use kelson_api::EndpointSettings;

use super::container::Container;
use super::modes::NetworkMode;
use super::network::{self, Attachment};
use super::record::{Place, Record, Status};
use super::{etc_files, launch};
use crate::error::{Doing, Error, Kind, Result};
use crate::inner::{Inner, blocking};
use crate::networks::{Found, set_default_route};

/// `docker network connect`.
pub(crate) async fn connect(
    inner: &Arc<Inner>,
    network: &str,
    name: &str,
    settings: EndpointSettings,
) -> Result<()> {
    let container = inner.containers.find(name)?;
    let _operation = container.lock().await?;
    inner.containers.find(&container.id)?;
    let record = container.record();
    allowed(inner, &container, network)?;
    let attachment = Attachment::new(inner, network, settings)?;
    attachment.check()?;
    let mut changed = Record::clone(&record);
    if changed.networks.is_empty() {
        for attachment in network::attachments(inner, &record)? {
            changed.networks.insert(attachment.name, attachment.settings);
        }
    }
    changed
        .networks
        .insert(attachment.name.clone(), attachment.settings.clone());
    let Some(shim_pid) = shim_of(&container) else {
        return network::keep(&container, changed);
    };
    if container.state().places.iter().any(|p| p.name == attachment.name) {
        return Err(Error::denied(format!(
            "endpoint with name {} already exists in network {}",
            record.name, attachment.name
        )));
    }
    let (inner_, container_) = (inner.clone(), container.clone());
    let place = blocking("connect a network", move || {
        let join = Join {
            inner: &inner_,
            container: &container_,
            shim_pid,
        };
        join.connect(&attachment, changed)
    })
    .await?;
    inner.network_event("connect", &place, &container.id);
    Ok(())
}

/// `docker network disconnect`.
pub(crate) async fn disconnect(inner: &Arc<Inner>, network: &str, name: &str, force: bool) -> Result<()> {
    let container = match inner.containers.find(name) {
        // It is as it is wished to be.
        Err(e) if e.kind() == Kind::NotFound && force => return inner.networks.find(network).map(drop),
        found => found?,
    };
    let _operation = container.lock().await?;
    allowed(inner, &container, network)?;
    let found = inner.networks.find(network)?;
    let (record, state) = (container.record(), container.state());
    let place = state.places.iter().find(|p| p.name == found.name()).cloned();
    if place.is_none() && !record.networks.contains_key(found.name()) {
        let (id, name) = (&container.id, found.name());
        return Err(Error::internal(format!(
            "container {id} is not connected to network {name}"
        )));
    }
    let mut changed = Record::clone(&record);
    changed.networks.remove(found.name());
    let (Some(shim_pid), Some(place)) = (shim_of(&container), place) else {
        return network::keep(&container, changed);
    };
    let (inner_, container_, place_) = (inner.clone(), container.clone(), place.clone());
    blocking("disconnect a network", move || {
        let join = Join {
            inner: &inner_,
            container: &container_,
            shim_pid,
        };
        join.disconnect(&place_, changed)
    })
    .await?;
    inner.network_event("disconnect", &place, &container.id);
    Ok(())
}

/// Refuses containers that have no places on networks, and networks that have none for containers.
fn allowed(inner: &Inner, container: &Container, network: &str) -> Result<()> {
    let invalid = |text: &str| Err(Error::invalid(text.to_owned()));
    if matches!(container.status(), Status::Removing | Status::Dead) {
        return Err(Error::conflict(format!(
            "container {} is marked for removal and cannot be connected or disconnected to the network",
            container.id
        )));
    }
    let host = "container cannot be disconnected from host network or connected to host network";
    let none =
        "container cannot be connected to multiple networks with one of the networks in private (none) mode";
    match (
        inner.networks.find(network)?,
        NetworkMode::of(&container.record())?,
    ) {
        (_, NetworkMode::Container(_)) => invalid(
            "container sharing network namespace with another container or host cannot be connected to any other network",
        ),
        (Found::Predefined("host"), _) | (_, NetworkMode::Host) => invalid(host),
        (Found::Predefined("none"), _) | (_, NetworkMode::None) => invalid(none),
        _ => Ok(()),
    }
}

/// The shim of a container that runs.
fn shim_of(container: &Container) -> Option<u32> {
    let task = container.task().filter(|_| container.status().has_process())?;
    Some(task.record.shim_pid)
}

/// A running container whose networks change; its operation lock is held.
struct Join<'a> {
    inner: &'a Inner,
    container: &'a Container,
    shim_pid: u32,
}

impl Join<'_> {
    fn connect(&self, attachment: &Attachment, changed: Record) -> Result<Place> {
        let (inner, container) = (self.inner, self.container);
        let state = container.state();
        let links: Vec<&str> = state
            .places
            .iter()
            .map(|p| p.endpoint.container_link.as_str())
            .collect();
        let place = attachment.take(inner, &container.id, &links, false)?;
        // The owner's record comes before the link.
        container.update(|s| s.places.push(place.clone()));
        let before = container.record();
        let made = self.connect_place(&place, changed);
        if let Err(e) = made {
            if let Err(e) = self.leave(&place) {
                tracing::warn!(container = %container.id, error = %e, "undo a connection");
            }
            container.replace_record(Record::clone(&before));
            let _ = before.save(&container.dir);
            let _ = self.refresh(&before);
            return Err(e);
        }
        let state = container.state();
        Ok(state
            .places
            .iter()
            .find(|p| p.id == place.id)
            .cloned()
            .unwrap_or(place))
    }

    fn connect_place(&self, place: &Place, changed: Record) -> Result<()> {
        let netns = self.netns()?;
        network::bridge_of(self.inner, place)?.connect(&place.endpoint, netns.as_fd())?;
        self.add_host(place)?;
        network::keep(self.container, changed)?;
        self.refresh(&self.container.record())
    }

    fn disconnect(&self, place: &Place, changed: Record) -> Result<()> {
        self.move_default_route(&changed, Some(place))?;
        network::keep(self.container, changed)?;
        self.remove_host(place)?;
        let left = self.leave(place);
        let refreshed = self.refresh(&self.container.record());
        left.and(refreshed)
    }

    /// Gives a place up, and then forgets it.
    fn leave(&self, place: &Place) -> Result<()> {
        let user = self.inner.networks.user(&place.network);
        let unnamed = user.map_or(Ok(()), |network| network.names.remove(&self.container.id, true));
        let gone = network::bridge_of(self.inner, place)
            .and_then(|bridge| Ok(bridge.disconnect(&self.container.id)?));
        self.container.update(|s| {
            s.places.retain(|p| p.id != place.id);
            if s.gateway().is_none() {
                s.ports.clear();
            }
        });
        unnamed.and(gone)
    }

    /// Default route, names and resolv.conf, as the places now are.
    fn refresh(&self, record: &Record) -> Result<()> {
        let (inner, container) = (self.inner, self.container);
        self.move_default_route(record, None)?;
        let state = container.state();
        network::join_names(inner, record, &state.places, self.shim_pid)?;
        let named = !network::user_networks(inner, &state.places).is_empty();
        let text = launch::resolver_settings(inner, record, named, false);
        etc_files::write(&container.dir, "resolv.conf", &text)
    }

    /// Moves the default route, and what is published by it, to the place that is to have it, `but` not to that one. Where
    /// priorities are equal it stays where it is.
    fn move_default_route(&self, record: &Record, but: Option<&Place>) -> Result<()> {
        let (inner, container) = (self.inner, self.container);
        let state = container.state();
        let places: Vec<&Place> = state
            .places
            .iter()
            .filter(|p| but.is_none_or(|b| b.id != p.id))
            .collect();
        let mut attachments: Vec<Attachment> = Vec::with_capacity(places.len());
        for place in &places {
            let settings = record.networks.get(&place.name).cloned().unwrap_or_default();
            attachments.push(Attachment::new(inner, &place.name, settings)?);
        }
        let Some(best) = network::gateway(&attachments) else {
            return Ok(());
        };
        let priority = |at: usize| attachments.get(at).map(|a| a.settings.gw_priority);
        let stays = places.iter().position(|p| p.endpoint.default_route);
        if stays.is_some_and(|at| priority(at) == priority(best)) {
            return Ok(());
        }
        let Some(place) = places.get(best) else {
            return Ok(());
        };
        set_default_route(self.netns()?.as_fd(), Some(&place.endpoint))?;
        let published = match state.gateway() {
            Some(old) => network::bridge_of(inner, old)?.withdraw(&container.id)?,
            None => Vec::new(),
        };
        network::bridge_of(inner, place)?.assume(&place.endpoint, &published)?;
        container.update(|s| {
            for other in &mut s.places {
                other.endpoint.default_route = other.id == place.id;
            }
        });
        Ok(())
    }

    fn netns(&self) -> Result<File> {
        let path = network::netns_of(self.shim_pid);
        File::open(&path).doing(|| format!("open network namespace {}", path.display()))
    }

    /// The container's own name at its new address.
    fn add_host(&self, place: &Place) -> Result<()> {
        let record = self.container.record();
        let names = etc_files::own_names(&record.config.hostname, &record.config.domainname);
        self.edit_hosts(|text| {
            let line = format!("{}\t{names}\n", place.endpoint.ip);
            if text.contains(&line) { text } else { text + &line }
        })
    }

    fn remove_host(&self, place: &Place) -> Result<()> {
        let ip = IpAddr::from(place.endpoint.ip);
        self.edit_hosts(|text| etc_files::without(&text, ip))
    }

    /// The container may have written into it as well: only our lines change.
    fn edit_hosts(&self, change: impl FnOnce(String) -> String) -> Result<()> {
        let path = self.container.dir.join("hosts");
        let text = std::fs::read_to_string(&path).doing(|| format!("read {}", path.display()))?;
        etc_files::write(&self.container.dir, "hosts", &change(text))
    }
}
