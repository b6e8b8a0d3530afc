//! Making and removing networks of the user's own.

use std::sync::{Arc, PoisonError, RwLock};

use kelson_api::{Filters, Map, NetworkCreateRequest, NetworksPruneReport};
use kelson_network::{Ipv4Net, free_subnet};

use super::{Found, NetworkRecord, RECORD, UserNetwork, record};
use crate::clock;
use crate::error::{Error, Result};
use crate::inner::Inner;
use crate::names::new_id;
use crate::store::{self, Durability, FORMAT};

/// Makes a network and returns its id. Blocking.
///
/// # Errors
/// `Conflict` for a name in use, `Denied` for a subnet in use, `Invalid` and `Unsupported` for what cannot be done.
pub(crate) fn create(inner: &Inner, request: NetworkCreateRequest) -> Result<String> {
    record::check(&request)?;
    let wanted = record::addresses(request.ipam.as_ref())?;
    let id = new_id()?;
    let mut new = NetworkRecord {
        format: FORMAT,
        id: id.clone(),
        name: request.name,
        created: clock::now(),
        internal: request.internal,
        attachable: request.attachable,
        labels: request.labels.unwrap_or_default(),
        options: request.options.unwrap_or_default(),
        ipam_options: request.ipam.and_then(|ipam| ipam.options),
        subnet: wanted.subnet.unwrap_or_default(),
        gateway: wanted
            .gateway
            .unwrap_or_else(|| wanted.subnet.map_or([0; 4].into(), record::first_address)),
        range: wanted.range,
        auxiliary: wanted.auxiliary,
        own_subnet: wanted.subnet.is_some(),
        unknown: Map::new(),
    };
    // Whatever is wrong with the options is told before anything is reserved.
    let bridge = new.config(&inner.config.network)?.bridge;
    reserve(inner, &mut new, bridge.as_deref())?;
    let name = new.name.clone();
    let made = make(inner, new);
    lock(&inner.networks.making).remove(&name);
    made?;
    event(inner, "create", &id, &name);
    Ok(id)
}

/// Takes name and subnet, so that two at once cannot have the same.
fn reserve(inner: &Inner, new: &mut NetworkRecord, bridge: Option<&str>) -> Result<()> {
    let networks = &inner.networks;
    let mut making = lock(&networks.making);
    let users = networks.users();
    if making.contains_key(&new.name) || users.iter().any(|n| n.record.name == new.name) {
        return Err(Error::conflict(format!(
            "network with name {} already exists",
            new.name
        )));
    }
    for other in &users {
        if other.record.config(&inner.config.network)?.bridge.as_deref() == bridge {
            let (bridge, other) = (bridge.unwrap_or_default(), &other.record.id);
            return Err(Error::denied(format!(
                "cannot create network {} ({bridge}): conflicts with network {other} ({bridge}): networks have same \
                 bridge name",
                new.id
            )));
        }
    }
    let mut taken: Vec<Ipv4Net> = users.iter().map(|n| n.record.subnet).collect();
    taken.extend(making.values().flatten());
    if let Ok(network) = inner.network() {
        taken.push(network.info()?.subnet);
    }
    if new.own_subnet {
        let overlaps =
            |net: &Ipv4Net| net.contains(&new.subnet.network()) || new.subnet.contains(&net.network());
        if taken.iter().any(overlaps) {
            return Err(Error::denied(
                "invalid pool request: Pool overlaps with other one on this address space",
            ));
        }
    } else {
        new.subnet = free_subnet(&pools(inner)?, &taken)?;
        new.gateway = record::first_address(new.subnet);
    }
    making.insert(new.name.clone(), Some(new.subnet));
    Ok(())
}

fn pools(inner: &Inner) -> Result<Vec<(Ipv4Net, u8)>> {
    let settings = &inner.config.network;
    if settings.pools.is_empty() {
        return Ok(kelson_network::default_pools());
    }
    let read = |(base, size): &(String, u8)| {
        let bad = |_| Error::invalid(format!("read the network address {base}"));
        Ok((base.parse::<Ipv4Net>().map_err(bad)?, *size))
    };
    settings.pools.iter().map(read).collect()
}

/// The bridge, then the record.
fn make(inner: &Inner, record: NetworkRecord) -> Result<()> {
    let networks = &inner.networks;
    // It keeps the switch of forwarding for all.
    if let Ok(default) = inner.network() {
        default.up()?;
    }
    let dir = networks.dir.join(&record.id);
    let network = networks.load(record, &inner.roots, &inner.config)?;
    let made = network
        .bridge
        .up()
        .map_err(Error::from)
        .and_then(|()| store::save(&dir, RECORD, &network.record, Durability::Synced));
    match made {
        Ok(()) => {
            networks.insert(network);
            Ok(())
        }
        Err(e) => {
            if let Err(e) = take_down(&network, &dir) {
                tracing::warn!(network = %network.record.name, error = %e, "undo a network that could not be made");
            }
            Err(e.wrap(format!("create network {}", network.record.name)))
        }
    }
}

fn take_down(network: &UserNetwork, dir: &std::path::Path) -> Result<()> {
    store::remove_file(&dir.join(RECORD))?;
    network.bridge.shutdown()?;
    store::remove_tree(dir)
}

/// `docker network rm`. Blocking.
///
/// # Errors
/// `Denied` for a predefined one, and for one with running containers in it.
pub(crate) fn remove(inner: &Inner, word: &str) -> Result<()> {
    match inner.networks.find(word)? {
        Found::Predefined(name) => Err(Error::denied(format!(
            "{name} is a pre-defined network and cannot be removed"
        ))),
        Found::User(network) => remove_network(inner, &network),
    }
}

fn remove_network(inner: &Inner, network: &Arc<UserNetwork>) -> Result<()> {
    let record = &network.record;
    {
        let mut removed = write(&network.removed);
        if network.bridge.is_in_use() {
            return Err(Error::denied(format!(
                "error while removing network: network {} has active endpoints{}",
                record.name,
                names_of(inner, &record.id)
            )));
        }
        if *removed {
            return Err(Error::not_found(format!("network {} not found", record.name)));
        }
        *removed = true;
    }
    if let Err(e) = take_down(network, &inner.networks.dir.join(&record.id)) {
        // Its record may be gone: what is left is undone at the next start, or by the next try.
        *write(&network.removed) = false;
        return Err(e.wrap(format!("remove network {}", record.name)));
    }
    inner.networks.forget(&record.id);
    event(inner, "destroy", &record.id, &record.name);
    Ok(())
}

/// Who is in a network, for the error.
fn names_of(inner: &Inner, network: &str) -> String {
    let inside = |c: &Arc<crate::containers::container::Container>| {
        let here = c.state().places.iter().any(|p| p.network == network);
        here.then(|| format!("name:\"{}\" id:\"{}\"", c.record().name, &c.id[..12]))
    };
    let names: Vec<String> = inner.containers.all().iter().filter_map(inside).collect();
    if names.is_empty() {
        String::new()
    } else {
        format!(" ({})", names.join(", "))
    }
}

/// `docker network prune`: those that no container, running or not, refers to. Blocking.
pub(crate) fn prune(inner: &Inner, filters: &Filters) -> Result<NetworksPruneReport> {
    filters
        .only(&["until", "label", "label!"])
        .map_err(|e| Error::invalid(e.to_string()))?;
    let now = clock::now_nanos();
    let mut until = None;
    for text in filters.get("until") {
        let parsed = clock::parse_when(text, now);
        until = Some(parsed.ok_or_else(|| Error::invalid(format!("invalid filter 'until={text}'")))?);
    }
    let containers = inner.containers.all();
    let mut deleted = Vec::new();
    for network in inner.networks.users() {
        let record = &network.record;
        let refers = |c: &Arc<crate::containers::container::Container>| {
            let snapshot = c.snapshot();
            snapshot.record.networks.contains_key(&record.name)
                || snapshot.state.places.iter().any(|p| p.network == record.id)
        };
        let old = until.is_none_or(|until| clock::nanos(&record.created).is_some_and(|made| made < until));
        let wanted = old
            && filters.labels_match("label", &record.labels)
            && !(filters.has("label!") && filters.labels_match("label!", &record.labels));
        if !wanted || containers.iter().any(refers) {
            continue;
        }
        match remove_network(inner, &network) {
            Ok(()) => deleted.push(record.name.clone()),
            Err(e) => tracing::warn!(network = %record.name, error = %e, "prune"),
        }
    }
    inner.events.emit(
        "network",
        "prune",
        "",
        [("reclaimed".to_owned(), "0".to_owned())].into(),
    );
    Ok(NetworksPruneReport {
        networks_deleted: (!deleted.is_empty()).then_some(deleted),
    })
}

fn event(inner: &Inner, action: &str, id: &str, name: &str) {
    let attributes = [("name", name), ("type", "bridge")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    inner.events.emit("network", action, id, attributes.into());
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
