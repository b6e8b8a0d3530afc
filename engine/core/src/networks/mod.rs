//! Networks: the three that every engine has (bridge, host, none), whose ids are made once and kept, and the user's own.
//!
//! A network of the user's has a directory `DATA_ROOT/networks/ID`. Its bridge is made first and `network.json` written last,
//! and removed first: a directory without that file is what a crash left, and the next start undoes it.

mod create;
mod names;
pub(crate) mod record;
mod show;

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use kelson_api::Map;
use kelson_network::{Endpoint, Ipv4Net, LiveEndpoint, NetworkConfig, ReconcileReport, Shared, Wish};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::config::EngineConfig;
use crate::error::{Doing, Error, Result};
use crate::inner::Inner;
use crate::names::new_id;
use crate::store::{self, Durability, FORMAT, Roots};

pub(crate) use create::{create, prune, remove};
pub(crate) use names::{ADDRESS as RESOLVER, Member, Resolver, upstreams};
pub(crate) use record::NetworkRecord;
pub(crate) use show::{inspect, list};

const PREDEFINED: &str = "predefined.json";
const RECORD: &str = "network.json";

/// The predefined networks and their drivers.
pub(crate) const NAMES: [(&str, &str); 3] = [("bridge", "bridge"), ("host", "host"), ("none", "null")];

/// Ids and age of the predefined networks.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Predefined {
    format: u32,
    created: String,
    ids: Map<String>,
}

/// A network of the user's own.
#[derive(Debug)]
pub(crate) struct UserNetwork {
    pub record: NetworkRecord,
    pub bridge: kelson_network::Network,
    pub names: Arc<Resolver>,
    /// Whether it is being removed; held for reading while somebody takes a place in it.
    removed: RwLock<bool>,
}

/// All networks.
#[derive(Debug)]
pub(crate) struct Networks {
    dir: PathBuf,
    predefined: Predefined,
    /// What all bridges have in common.
    pub shared: Shared,
    users: RwLock<HashMap<String, Arc<UserNetwork>>>,
    /// Names and subnets of networks that are being made. Held while one is chosen, which asks the kernel for its routes.
    making: Mutex<HashMap<String, Option<Ipv4Net>>>,
}

/// What a name or id means.
#[derive(Debug, Clone)]
pub(crate) enum Found {
    /// One of [`NAMES`].
    Predefined(&'static str),
    User(Arc<UserNetwork>),
}

impl Networks {
    /// Reads all records, and undoes what a crash left of networks that were being made or removed.
    pub fn open(roots: &Roots, config: &EngineConfig) -> Result<Self> {
        let dir = roots.networks();
        let out = Self {
            predefined: predefined(&dir)?,
            dir,
            shared: Shared::default(),
            users: RwLock::default(),
            making: Mutex::default(),
        };
        let doing = || format!("read {}", out.dir.display());
        for entry in std::fs::read_dir(&out.dir).doing(doing)? {
            let path = entry.doing(doing)?.path();
            if !path.is_dir() {
                continue;
            }
            match store::load::<NetworkRecord>(&path.join(RECORD)) {
                Ok(Some(record)) => match out.load(record, roots, config) {
                    Ok(network) => out.insert(network),
                    Err(e) => {
                        tracing::error!(error = %e, path = %path.display(), "a network cannot be opened")
                    }
                },
                Ok(None) => undo(&path),
                Err(e) => tracing::error!(error = %e, "a network's record is of no use"),
            }
        }
        Ok(out)
    }

    fn load(&self, record: NetworkRecord, roots: &Roots, engine: &EngineConfig) -> Result<Arc<UserNetwork>> {
        let dir = self.dir.join(&record.id);
        let config = record.config(&engine.network)?;
        Ok(Arc::new(UserNetwork {
            bridge: kelson_network::Network::open_beside(&dir, config, &self.shared)?,
            names: Resolver::new(&roots.names(), &record, engine),
            record,
            removed: RwLock::new(false),
        }))
    }

    pub fn predefined_id(&self, name: &str) -> String {
        self.predefined.ids.get(name).cloned().unwrap_or_default()
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<String, Arc<UserNetwork>>> {
        self.users.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, network: Arc<UserNetwork>) {
        let mut users = self.users.write().unwrap_or_else(PoisonError::into_inner);
        users.insert(network.record.id.clone(), network);
    }

    fn forget(&self, id: &str) {
        self.users
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
    }

    /// The user's own, in the order of their names.
    pub fn users(&self) -> Vec<Arc<UserNetwork>> {
        let mut all: Vec<_> = self.read().values().cloned().collect();
        all.sort_by(|a, b| a.record.name.cmp(&b.record.name));
        all
    }

    /// Full id, then name, then the beginning of an id, as docker.
    ///
    /// # Errors
    /// `NotFound`, or `Invalid` when several ids begin so.
    pub fn find(&self, word: &str) -> Result<Found> {
        let word = if word == "default" { "bridge" } else { word };
        if let Some((name, _)) = NAMES
            .iter()
            .find(|(n, _)| *n == word || self.predefined_id(n) == word)
        {
            return Ok(Found::Predefined(name));
        }
        let users = self.read();
        let exact = users
            .get(word)
            .or_else(|| users.values().find(|n| n.record.name == word));
        if let Some(network) = exact {
            return Ok(Found::User(network.clone()));
        }
        let begins = |id: &str| !word.is_empty() && id.starts_with(word);
        let predefined = NAMES
            .iter()
            .filter(|(n, _)| begins(&self.predefined_id(n)))
            .map(|(n, _)| Found::Predefined(n));
        let own = users
            .values()
            .filter(|n| begins(&n.record.id))
            .map(|n| Found::User(n.clone()));
        let mut found: Vec<Found> = predefined.chain(own).collect();
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => Err(Error::not_found(format!("network {word} not found"))),
            n => Err(Error::invalid(format!(
                "network {word} is ambiguous ({n} matches found based on ID prefix)"
            ))),
        }
    }

    /// The user's network of exactly this id.
    pub fn user(&self, id: &str) -> Option<Arc<UserNetwork>> {
        self.read().get(id).cloned()
    }
}

impl Found {
    pub fn name(&self) -> &str {
        match self {
            Self::Predefined(name) => name,
            Self::User(network) => &network.record.name,
        }
    }
}

impl UserNetwork {
    /// Takes a place for a container.
    ///
    /// # Errors
    /// `NotFound` when the network is being removed; what kelson-network says about the wish.
    pub fn allocate(&self, container: &str, wish: Wish) -> Result<Endpoint> {
        let removed = self.removed.read().unwrap_or_else(PoisonError::into_inner);
        if *removed {
            return Err(Error::not_found(format!(
                "network {} not found",
                self.record.name
            )));
        }
        Ok(self.bridge.allocate_as(container, wish)?)
    }

    /// At the daemon's start: see [`kelson_network::Network::reconcile`].
    pub fn reconcile(&self, live: &[LiveEndpoint]) -> Result<ReconcileReport> {
        Ok(self.bridge.reconcile(live, true)?)
    }
}

/// At the daemon's end: what nobody uses goes, and comes back with the next start. The default bridge goes last, as it has
/// the switch of forwarding in its care. Blocking.
pub(crate) fn shutdown(inner: &Inner) -> Result<()> {
    let mut result = Ok(());
    let mut in_use = false;
    for network in inner.networks.users() {
        result = result.and(network.bridge.shutdown().map_err(Error::from));
        in_use |= network.bridge.is_in_use();
    }
    match inner.network() {
        Ok(network) if !in_use => result.and(network.shutdown().map_err(Error::from)),
        _ => result,
    }
}

/// Moves a container's default route.
pub(crate) fn set_default_route(netns: BorrowedFd<'_>, endpoint: Option<&Endpoint>) -> Result<()> {
    Ok(kelson_network::set_default_route(netns, endpoint)?)
}

fn predefined(dir: &Path) -> Result<Predefined> {
    match store::load::<Predefined>(&dir.join(PREDEFINED)) {
        Ok(Some(have)) => return Ok(have),
        Ok(None) => {}
        Err(e) => tracing::error!(error = %e, "the networks' record is of no use and is made again"),
    }
    let mut ids = Map::new();
    for (name, _) in NAMES {
        ids.insert(name.to_owned(), new_id()?);
    }
    let new = Predefined {
        format: FORMAT,
        created: clock::now(),
        ids,
    };
    store::save(dir, PREDEFINED, &new, Durability::Volatile)?;
    Ok(new)
}

/// Removes what is left of a network without a record: the bridge by its own record, then the directory.
fn undo(dir: &Path) {
    let removed = || -> Result<()> {
        kelson_network::Network::open(dir, NetworkConfig::default())?.shutdown()?;
        store::remove_tree(dir)
    };
    if let Err(e) = removed() {
        tracing::warn!(error = %e, path = %dir.display(), "undo a network");
    }
}
