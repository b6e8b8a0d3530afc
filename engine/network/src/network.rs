//! The network as its users see it: who holds which address and port, and the calls that change it.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::Ipv4Net;

use crate::bridge::{self, Bridge};
use crate::error::{Error, Kind, Result};
use crate::firewall::{Element, Firewall};
use crate::ipam::{Pool, Refused};
use crate::model::{
    BoundPort, Endpoint, LiveEndpoint, Mac, NetworkConfig, NetworkInfo, PortMapping, PortSpec, Proto,
    ReconcileReport,
};
use crate::netlink::route::Rtnl;
use crate::record::{Record, RecordFile};
use crate::undo::{Doomed, Undo};
use crate::{netns, plan, ports, veth};

/// How long `shutdown` waits for links to go.
const SETTLE: Duration = Duration::from_secs(10);
/// Name of the container's end of the veth pair.
const CONTAINER_LINK: &str = "eth0";

/// The default bridge network of one kelsond. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: NetworkConfig,
    file: RecordFile,
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
    /// Names of host links given away, and of those on their way out.
    links: HashSet<String>,
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
        let file = RecordFile::open(state_dir)?;
        let record = file.load()?;
        Ok(Self {
            inner: Arc::new(Inner {
                config,
                file,
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
        let bridge = self.bridge()?;
        let mut state = self.state();
        if let Some(endpoint) = state.claims.get(container_id).and_then(|c| c.endpoint.clone()) {
            return Ok(endpoint);
        }
        let host_link = plan::host_link_name(container_id, |name| state.links.contains(name))?;
        let subnet = bridge.address.trunc();
        let pool = state.pool.get_or_insert_with(|| Pool::new(bridge.address));
        let ip = pool.take(requested).map_err(|refused| {
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
            mac: Mac::of(ip),
            bridge: bridge.name.clone(),
            host_link: host_link.clone(),
            container_link: CONTAINER_LINK.to_owned(),
            mtu: bridge.mtu,
        };
        state.links.insert(host_link);
        state.claims.entry(container_id.to_owned()).or_default().endpoint = Some(endpoint.clone());
        Ok(endpoint)
    }

    /// Gives back an address that was never connected. `disconnect` gives it back too.
    pub fn release(&self, container_id: &str) {
        let Some(claim) = self.state().claims.remove(container_id) else {
            return;
        };
        if let Some(Endpoint { host_link, ip, .. }) = claim.endpoint {
            self.inner.free(&[Doomed {
                link: host_link,
                ip,
                udp: false,
            }]);
        }
    }

    /// A fresh network namespace with loopback up, held by nothing but this descriptor.
    pub fn create_netns(&self) -> Result<OwnedFd> {
        netns::create().map_err(|e| Error::os("make a network namespace", e))
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
        let held: Vec<PortMapping> = self
            .state()
            .claims
            .values()
            .flat_map(|c| c.ports.iter().copied())
            .collect();
        let ours = |wanted: &PortMapping| held.iter().any(|h| ports::overlap(h, wanted));
        let bound = ports::bind_all(specs, &self.inner.config, ours)?;
        let mut state = self.state();
        let claim = state.claims.entry(container_id.to_owned()).or_default();
        claim.ports.extend(bound.iter().map(|b| b.mapping));
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

    /// Called once at kelsond's start, before any other call, with all running containers: takes their addresses and
    /// ports over, repairs bridge and firewall, removes what belongs to nobody.
    pub fn reconcile(&self, live: &[LiveEndpoint]) -> Result<ReconcileReport> {
        let mut report = ReconcileReport::default();
        let mut setup = lock(&self.inner.setup);
        if live.is_empty() {
            // What a crash left behind; the bridge comes back when somebody needs it.
            if let Some(record) = setup.record.clone() {
                report.removed_links = self.remove_orphans(&record, live)?;
                bridge::tear_down(&self.inner.file, &record)?;
                setup.record = None;
            }
            return Ok(report);
        }
        self.take_over(live);
        let intact = self.set_up(&mut setup, live)?;
        report.firewall_rebuilt = !intact;
        if let Some(record) = &setup.record {
            report.removed_links = self.remove_orphans(record, live)?;
        }
        if let Some(bridge) = self.state().bridge.clone() {
            report.without_link = veth::reattach(&bridge, live.iter().map(|l| &l.endpoint), self.isolated())?;
        }
        Ok(report)
    }

    /// At kelsond's end: removes bridge, table and the forwarding switch, unless a container still uses them; then
    /// everything stays, as containers live on without kelsond.
    pub fn shutdown(&self) -> Result<()> {
        let mut setup = lock(&self.inner.setup);
        let settled = self.settle(SETTLE);
        if self.state().claims.values().any(|c| c.endpoint.is_some()) {
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
        let mut pool = Pool::new(bridge.address);
        for ip in taken {
            // An address of another subnet (a changed --bip) is not this pool's business.
            let _ = pool.take(Some(ip));
        }
        state.pool = Some(pool);
        state.bridge = Some(bridge.clone());
        Ok(bridge)
    }

    /// `reconcile`'s part of it; returns whether the firewall was still whole.
    fn set_up(&self, setup: &mut Setup, live: &[LiveEndpoint]) -> Result<bool> {
        if setup.record.is_none()
            && let Some(LiveEndpoint { endpoint, .. }) = live.first()
        {
            // The record is lost, the containers are not: their subnet is the one to keep.
            let address = Ipv4Net::new(endpoint.gateway, endpoint.prefix_len)
                .map_err(|e| Error::because(Kind::Invalid, "read an endpoint's record", e))?;
            let (bridge, table) = (endpoint.bridge.clone(), plan::table_name(&endpoint.bridge));
            let own = self.inner.config.bridge.is_none();
            setup.record = Some(Record::new(crate::record::boot_id(), bridge, own, address, table));
        }
        let intact = self.firewall_is_intact(setup, live);
        self.make_bridge(setup, live)?;
        Ok(intact)
    }

    fn firewall_is_intact(&self, setup: &Setup, live: &[LiveEndpoint]) -> bool {
        let Some(record) = setup.record.as_ref().filter(|_| self.inner.config.firewall) else {
            return true;
        };
        let elements = live.iter().flat_map(|LiveEndpoint { endpoint, ports }| {
            ports
                .iter()
                .filter_map(|p| Element::of(p, endpoint.ip, &endpoint.container_id))
        });
        // It is written anew in any case; this only feeds the report, so an error counts as "no".
        crate::firewall::holds(&record.table, elements).unwrap_or(false)
    }

    fn take_over(&self, live: &[LiveEndpoint]) {
        let mut state = self.state();
        for LiveEndpoint { endpoint, ports } in live {
            state.links.insert(endpoint.host_link.clone());
            let claim = Claim {
                endpoint: Some(endpoint.clone()),
                ports: ports.clone(),
            };
            state.claims.insert(endpoint.container_id.clone(), claim);
        }
    }

    fn remove_orphans(&self, record: &Record, live: &[LiveEndpoint]) -> Result<Vec<String>> {
        let names: HashSet<&str> = live.iter().map(|l| l.endpoint.host_link.as_str()).collect();
        let mut rtnl = Rtnl::open().map_err(|e| Error::os("open a netlink socket", e))?;
        let links = rtnl.links().map_err(|e| Error::os("list links", e))?;
        let bridge = links.iter().find(|l| l.name == record.bridge).map(|l| l.index);
        let orphans = links
            .iter()
            .filter(|l| plan::is_orphan(l, bridge, |name| names.contains(name)));
        let removed: Vec<String> = orphans.map(|l| l.name.clone()).collect();
        let doomed: Vec<&str> = removed.iter().map(String::as_str).collect();
        let deleted = rtnl.delete_links(&doomed);
        deleted.map_err(|e| Error::os(format!("delete links {}", doomed.join(" ")), e))?;
        Ok(removed)
    }

    fn bridge_is_there(&self, bridge: &Bridge) -> bool {
        let found = Rtnl::open().and_then(|mut rtnl| rtnl.link(&bridge.name));
        // Unknown counts as there: the first error is the one to report.
        found.map_or(true, |link| link.is_some_and(|l| l.index == bridge.index))
    }

    fn remake_bridge(&self, gone: &Bridge) -> Result<Bridge> {
        let mut setup = lock(&self.inner.setup);
        let live: Vec<LiveEndpoint> = {
            let state = self.state();
            match &state.bridge {
                Some(now) if now != gone => return Ok(now.clone()),
                _ => {}
            }
            let live = |c: &Claim| {
                Some(LiveEndpoint {
                    endpoint: c.endpoint.clone()?,
                    ports: c.ports.clone(),
                })
            };
            state.claims.values().filter_map(live).collect()
        };
        let bridge = self.make_bridge(&mut setup, &live)?;
        veth::reattach(&bridge, live.iter().map(|l| &l.endpoint), self.isolated())?;
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
            state.links.remove(link);
            state.leaving.remove(ip);
            if let Some(pool) = &mut state.pool {
                pool.release(*ip);
            }
        }
    }
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
