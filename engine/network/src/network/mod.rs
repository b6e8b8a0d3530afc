//! The network as its users see it: who holds which address and port, and the calls that change it.

mod recovery;

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::bridge::{self, Bridge};
use crate::error::{Error, Kind, Result};
use crate::firewall::{Element, Firewall};
use crate::ipam::{Pool, Refused};
use crate::model::{
    BoundPort, Endpoint, LiveEndpoint, Mac, NetworkConfig, NetworkInfo, PortMapping, PortSpec, Proto, Wish,
};
use crate::record::{Record, RecordFile};
use crate::shared::Shared;
use crate::undo::{Doomed, Undo};
use crate::{netns, ports, veth};

/// How long `shutdown` waits for links to go.
const SETTLE: Duration = Duration::from_secs(10);
/// Name of the container's end of the veth pair.
const CONTAINER_LINK: &str = "eth0";

/// One bridge network of a kelsond: the default one, or one of the user's. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: NetworkConfig,
    file: RecordFile,
    /// What other networks have a say in.
    shared: Shared,
    /// Who holds what. Never held across a system call.
    state: Mutex<State>,
    /// Held while the bridge is made or removed. The first users wait for each other here, as each needs the result.
    setup: Mutex<Setup>,
    /// Held while a batch goes to the kernel, which takes one at a time per namespace anyway; each has a deadline.
    firewall: Mutex<Option<Firewall>>,
    undo: Undo,
}

#[derive(Debug, Default)]
struct State {
    bridge: Option<Bridge>,
    pool: Option<Pool>,
    claims: HashMap<String, Claim>,
    /// Addresses of links on their way out.
    leaving: HashSet<Ipv4Addr>,
}

#[derive(Debug, Default)]
struct Setup {
    record: Option<Record>,
}

/// What one container holds.
#[derive(Debug, Clone, Default)]
struct Claim {
    endpoint: Option<Endpoint>,
    ports: Vec<PortMapping>,
}

impl Network {
    /// Reads the owner record in `state_dir` (made if missing). Touches no link and no rule yet: the bridge is made
    /// when the first container needs it.
    pub fn open(state_dir: &Path, config: NetworkConfig) -> Result<Self> {
        Self::open_beside(state_dir, config, &Shared::default())
    }

    /// The same for one of several networks of a kelsond, which share the names of their links.
    pub fn open_beside(state_dir: &Path, config: NetworkConfig, shared: &Shared) -> Result<Self> {
        let file = RecordFile::open(state_dir)?;
        let record = file.load()?;
        Ok(Self {
            inner: Arc::new(Inner {
                config,
                file,
                shared: shared.clone(),
                state: Mutex::default(),
                setup: Mutex::new(Setup { record }),
                firewall: Mutex::default(),
                undo: Undo::default(),
            }),
        })
    }

    /// The network as it is, or as it would be made now.
    pub fn info(&self) -> Result<NetworkInfo> {
        if let Some(b) = &self.state().bridge {
            let Bridge {
                name, address, mtu, ..
            } = b;
            return Ok(NetworkInfo {
                bridge: name.clone(),
                subnet: address.trunc(),
                gateway: address.addr(),
                mtu: *mtu,
            });
        }
        let last = lock(&self.inner.setup).record.as_ref().map(|r| r.address);
        bridge::describe(&self.inner.config, &self.inner.file, last)
    }

    /// Reserves an address for the container: `requested`, or the lowest free one. Makes the bridge at first use.
    /// A second call for the same container returns the same endpoint.
    ///
    /// Errors: `Conflict` (address taken), `Invalid` (not of the subnet), `Unavailable` (none left).
    pub fn allocate(&self, container_id: &str, requested: Option<Ipv4Addr>) -> Result<Endpoint> {
        let wish = Wish {
            ip: requested,
            ..Wish::default()
        };
        self.allocate_as(container_id, wish)
    }

    /// The same with more to wish for.
    pub fn allocate_as(&self, container_id: &str, wish: Wish) -> Result<Endpoint> {
        let requested = wish.ip;
        let bridge = self.bridge()?;
        let mut state = self.state();
        if let Some(endpoint) = state.claims.get(container_id).and_then(|c| c.endpoint.clone()) {
            return Ok(endpoint);
        }
        let host_link = self.inner.shared.claim(container_id)?;
        let subnet = bridge.address.trunc();
        let pool = state
            .pool
            .get_or_insert_with(|| self.inner.config.pool(bridge.address));
        let ip = pool.take(requested).map_err(|refused| {
            self.inner.shared.free(&host_link);
            let wanted = requested.map_or_else(|| "an address".to_owned(), |ip| ip.to_string());
            match refused {
                Refused::Full => Error::new(
                    Kind::Unavailable,
                    format!("no available IPv4 addresses in {subnet}"),
                ),
                Refused::Taken => Error::new(Kind::Conflict, format!("address {wanted} is already in use")),
                Refused::Outside => Error::new(
                    Kind::Invalid,
                    format!("{wanted} is no container address of {subnet}"),
                ),
            }
        })?;
        let endpoint = Endpoint {
            container_id: container_id.to_owned(),
            ip,
            prefix_len: subnet.prefix_len(),
            gateway: bridge.gateway(),
            mac: wish.mac.unwrap_or_else(|| Mac::of(ip)),
            bridge: bridge.name.clone(),
            host_link,
            container_link: wish.container_link.unwrap_or_else(|| CONTAINER_LINK.to_owned()),
            mtu: bridge.mtu,
            default_route: !wish.no_default_route && !self.inner.config.internal,
            link_local: wish.link_local,
        };
        state.claims.entry(container_id.to_owned()).or_default().endpoint = Some(endpoint.clone());
        Ok(endpoint)
    }

    /// Makes the bridge now, and not when the first container needs it.
    pub fn up(&self) -> Result<()> {
        self.bridge().map(drop)
    }

    /// Whether a container has, or is about to have, a place here.
    pub fn is_in_use(&self) -> bool {
        self.state().claims.values().any(|c| c.endpoint.is_some())
    }

    /// Gives back an address that was never connected. `disconnect` gives it back too.
    pub fn release(&self, container_id: &str) {
        let Some(claim) = self.state().claims.remove(container_id) else {
            return;
        };
        self.inner.shared.withdraw(&claim.ports);
        if let Some(Endpoint { host_link, ip, .. }) = claim.endpoint {
            self.inner.free(&[Doomed {
                link: host_link,
                ip,
                udp: false,
            }]);
        }
    }

    /// Makes the veth pair, with the container's end named, addressed and routed inside `netns`. On failure nothing
    /// of it is left.
    pub fn connect(&self, endpoint: &Endpoint, netns: BorrowedFd<'_>) -> Result<()> {
        let doing = || {
            format!(
                "connect container {} to {}",
                short(&endpoint.container_id),
                endpoint.bridge
            )
        };
        let isolated = self.isolated();
        let bridge = self.bridge()?;
        match veth::connect(&bridge, endpoint, netns, isolated) {
            Err(_) if !self.bridge_is_there(&bridge) => {
                // Somebody deleted the bridge under us: make it again, once.
                let again = self.remake_bridge(&bridge)?;
                veth::connect(&again, endpoint, netns, isolated)
            }
            result => result,
        }
        .map_err(|e| e.doing(doing()))
    }

    /// Binds and listens on every port wished for, or on none. Call it before anything else is made: the bind is the
    /// conflict check. The ports count as this container's until `disconnect`; the sockets are the caller's.
    ///
    /// Errors: `Conflict` with docker's sentence, `Invalid` for a wish that makes no sense or an address the host
    /// does not have.
    pub fn bind_ports(&self, container_id: &str, specs: &[PortSpec]) -> Result<Vec<BoundPort>> {
        if specs.is_empty() {
            return Ok(Vec::new());
        }
        let ours = |wanted: &PortMapping| self.inner.shared.is_published(wanted);
        let bound = ports::bind_all(specs, &self.inner.config, ours)?;
        let mappings: Vec<PortMapping> = bound.iter().map(|b| b.mapping).collect();
        self.inner.shared.publish(&mappings);
        let mut state = self.state();
        let claim = state.claims.entry(container_id.to_owned()).or_default();
        claim.ports.extend(mappings);
        Ok(bound)
    }

    /// Sends what arrives for these ports at the host's non-loopback IPv4 addresses straight to the container: all of
    /// them, or none.
    pub fn publish(&self, endpoint: &Endpoint, ports: &[PortMapping]) -> Result<()> {
        let id = &endpoint.container_id;
        let elements: Vec<Element> = ports
            .iter()
            .filter_map(|p| Element::of(p, endpoint.ip, id))
            .collect();
        let mut firewall = lock(&self.inner.firewall);
        match firewall.as_mut() {
            Some(firewall) => firewall
                .add(id, elements)
                .map_err(|e| e.doing(format!("publish ports of container {}", short(id)))),
            // Switched off: the shim's sockets do it all.
            None => Ok(()),
        }
    }

    /// Takes the published ports away from a container that stays connected, for another network to `assume`.
    pub fn withdraw(&self, container_id: &str) -> Result<Vec<PortMapping>> {
        let ports = match self.state().claims.get_mut(container_id) {
            Some(claim) => std::mem::take(&mut claim.ports),
            None => Vec::new(),
        };
        if let Some(firewall) = lock(&self.inner.firewall).as_mut() {
            firewall.remove(container_id)?;
        }
        Ok(ports)
    }

    /// Takes ports over that another network has withdrawn; their sockets are bound already.
    pub fn assume(&self, endpoint: &Endpoint, ports: &[PortMapping]) -> Result<()> {
        if let Some(claim) = self.state().claims.get_mut(&endpoint.container_id) {
            claim.ports.extend(ports);
        }
        self.publish(endpoint, ports)
    }

    /// Undoes `connect`, `publish`, `bind_ports` and `allocate`, whatever of it was done. Idempotent; goes on after
    /// a failure and returns all of them in one error.
    ///
    /// The link itself goes within some 20 ms after the return, and its address becomes free with it; who must know
    /// calls `settle`.
    pub fn disconnect(&self, container_id: &str) -> Result<()> {
        let claim = {
            let mut state = self.state();
            let Some(claim) = state.claims.remove(container_id) else {
                return Ok(());
            };
            // In one step, or a bridge made anew in between would find the address free while the old link has it.
            state.leaving.extend(claim.endpoint.as_ref().map(|e| e.ip));
            claim
        };
        self.inner.shared.withdraw(&claim.ports);
        let mut errors = Vec::new();
        if let Some(firewall) = lock(&self.inner.firewall).as_mut() {
            errors.extend(firewall.remove(container_id).err());
        }
        if let Some(endpoint) = claim.endpoint {
            let udp = claim.ports.iter().any(|p| p.proto == Proto::Udp);
            errors.extend(self.doom(endpoint, udp).err());
        }
        let doing = format!("disconnect container {}", short(container_id));
        Error::collect(doing, errors).map_or(Ok(()), Err)
    }

    /// Waits until the links of disconnected containers are gone. An error names those that are not.
    pub fn settle(&self, deadline: Duration) -> Result<()> {
        self.inner.undo.settle(deadline)
    }

    /// At kelsond's end: removes bridge, table and the forwarding switch, unless a container still uses them; then
    /// everything stays, as containers live on without kelsond.
    pub fn shutdown(&self) -> Result<()> {
        let mut setup = lock(&self.inner.setup);
        let settled = self.settle(SETTLE);
        if self.is_in_use() {
            return settled;
        }
        *lock(&self.inner.firewall) = None;
        {
            let mut state = self.state();
            state.bridge = None;
            state.pool = None;
        }
        let torn_down = match setup.record.take() {
            Some(record) => {
                bridge::tear_down(&self.inner.file, &record).inspect_err(|_| setup.record = Some(record))
            }
            None => Ok(()),
        };
        let errors = [settled, torn_down].into_iter().filter_map(Result::err).collect();
        Error::collect("shut the network down", errors).map_or(Ok(()), Err)
    }

    /// Hands a link to the thread that deletes links, starting it if none runs.
    fn doom(&self, endpoint: Endpoint, udp: bool) -> Result<()> {
        let doomed = Doomed {
            link: endpoint.host_link,
            ip: endpoint.ip,
            udp,
        };
        if !self.inner.undo.push(doomed) {
            return Ok(());
        }
        let inner = Arc::clone(&self.inner);
        let work = move || inner.undo.work(|gone| inner.free(gone));
        match std::thread::Builder::new()
            .name("network-undo".into())
            .spawn(work)
        {
            Ok(_) => Ok(()),
            // No thread to be had: do it here.
            Err(_) => {
                self.inner.undo.work(|gone| self.inner.free(gone));
                self.settle(Duration::ZERO)
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.inner.state)
    }

    /// The bridge, made if need be.
    fn bridge(&self) -> Result<Bridge> {
        if let Some(bridge) = &self.state().bridge {
            return Ok(bridge.clone());
        }
        let mut setup = lock(&self.inner.setup);
        if let Some(bridge) = &self.state().bridge {
            return Ok(bridge.clone());
        }
        self.make_bridge(&mut setup, &[])
    }

    fn make_bridge(&self, setup: &mut Setup, live: &[LiveEndpoint]) -> Result<Bridge> {
        let adopt = |firewall: &mut Firewall| {
            for LiveEndpoint { endpoint, ports } in live {
                let id = &endpoint.container_id;
                firewall.adopt(
                    id,
                    ports
                        .iter()
                        .filter_map(|p| Element::of(p, endpoint.ip, id))
                        .collect(),
                );
            }
        };
        let (bridge, firewall, record) =
            bridge::ensure(&self.inner.config, &self.inner.file, setup.record.clone(), adopt)?;
        setup.record = Some(record);
        *lock(&self.inner.firewall) = firewall;
        let mut state = self.state();
        let living = state
            .claims
            .values()
            .filter_map(|c| c.endpoint.as_ref().map(|e| e.ip));
        let taken: Vec<Ipv4Addr> = living.chain(state.leaving.iter().copied()).collect();
        let mut pool = self.inner.config.pool(bridge.address);
        for ip in taken {
            // An address of another subnet (a changed --bip) is not this pool's business.
            let _ = pool.take(Some(ip));
        }
        state.pool = Some(pool);
        state.bridge = Some(bridge.clone());
        Ok(bridge)
    }

    /// Whether containers are cut off from each other.
    fn isolated(&self) -> bool {
        !self.inner.config.inter_container
    }
}

impl Inner {
    /// Links are gone: their names and addresses may be used again.
    fn free(&self, gone: &[Doomed]) {
        let mut state = lock(&self.state);
        for Doomed { link, ip, .. } in gone {
            self.shared.free(link);
            state.leaving.remove(ip);
            if let Some(pool) = &mut state.pool {
                pool.release(*ip);
            }
        }
    }
}

/// A fresh network namespace with loopback up, held by nothing but this descriptor.
pub fn create_netns() -> Result<OwnedFd> {
    netns::create().map_err(|e| Error::os("make a network namespace", e))
}

/// A panic while a lock was held left its data as it was between two statements; every writer keeps it usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_on_its_way_out_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let network = Network::open(dir.path(), NetworkConfig::default()).unwrap();
        let ip = Ipv4Addr::new(172, 30, 0, 2);
        let endpoint = Endpoint {
            container_id: "a".repeat(64),
            ip,
            prefix_len: 16,
            gateway: Ipv4Addr::new(172, 30, 0, 1),
            mac: Mac::of(ip),
            bridge: "kls0".into(),
            host_link: "klsvaaaaaaaa".into(),
            container_link: CONTAINER_LINK.into(),
            mtu: 1500,
            default_route: true,
            link_local: Vec::new(),
        };
        let doomed = Doomed {
            link: endpoint.host_link.clone(),
            ip,
            udp: false,
        };
        // Says that a thread deletes links already, so that none begins and the link stays queued.
        assert!(network.inner.undo.push(doomed.clone()));
        let claim = Claim {
            endpoint: Some(endpoint.clone()),
            ports: Vec::new(),
        };
        network
            .state()
            .claims
            .insert(endpoint.container_id.clone(), claim);
        network.disconnect(&endpoint.container_id).unwrap();
        assert!(network.state().leaving.contains(&ip));
        network.inner.free(&[doomed]);
        assert!(network.state().leaving.is_empty());
    }
}
