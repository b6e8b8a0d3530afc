//! Bridge, addresses, ports and firewall of containers: the default network.
//!
//! Everything here is blocking and is called from blocking threads. Links and sockets are made in the
//! network namespace of the calling thread, which is kelsond's own.

mod error;
mod model;

use std::net::Ipv4Addr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

pub use error::{Error, Kind, Result};
pub use ipnet::Ipv4Net;
pub use model::{
    BoundPort, Endpoint, LiveEndpoint, Mac, NetworkConfig, NetworkInfo, PortMapping, PortSpec, Proto, ReconcileReport,
};

/// The default bridge network of one kelsond. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Network {}

impl Network {
    /// Reads the owner record in `state_dir` (made if missing). Touches no link and no rule yet.
    pub fn open(_state_dir: &Path, _config: NetworkConfig) -> Result<Self> {
        Err(todo())
    }

    /// The network as it is, or as it would be made now.
    pub fn info(&self) -> Result<NetworkInfo> {
        Err(todo())
    }

    /// Reserves an address for the container: `requested` or the lowest free one. Makes the bridge at first use.
    /// Idempotent for one container id.
    pub fn allocate(&self, _container_id: &str, _requested: Option<Ipv4Addr>) -> Result<Endpoint> {
        Err(todo())
    }

    /// Gives an address back. `disconnect` does it too.
    pub fn release(&self, _container_id: &str) {}

    /// A fresh network namespace with loopback up, held by nothing but this descriptor.
    pub fn create_netns(&self) -> Result<OwnedFd> {
        Err(todo())
    }

    /// Makes the veth pair, with the container's end named, addressed and routed inside `netns`.
    pub fn connect(&self, _endpoint: &Endpoint, _netns: BorrowedFd<'_>) -> Result<()> {
        Err(todo())
    }

    /// Binds and listens on every port wished for, or on none. Call it before anything else is made: the bind is the
    /// conflict check. Released by `disconnect`.
    pub fn bind_ports(&self, _container_id: &str, _specs: &[PortSpec]) -> Result<Vec<BoundPort>> {
        Err(todo())
    }

    /// Sends what arrives for these ports at the host's non-loopback IPv4 addresses straight to the container.
    pub fn publish(&self, _endpoint: &Endpoint, _ports: &[PortMapping]) -> Result<()> {
        Err(todo())
    }

    /// Undoes `connect`, `publish`, `bind_ports` and `allocate`; whatever of it was done. Idempotent, collects errors.
    pub fn disconnect(&self, _container_id: &str) -> Result<()> {
        Err(todo())
    }

    /// Called once at kelsond's start with all running containers: takes their addresses and ports over, repairs the
    /// firewall, removes what belongs to nobody.
    pub fn reconcile(&self, _live: &[LiveEndpoint]) -> Result<ReconcileReport> {
        Err(todo())
    }

    /// At kelsond's end: removes bridge, table and the forwarding switch, unless a container still uses them.
    pub fn shutdown(&self) -> Result<()> {
        Err(todo())
    }
}

fn todo() -> Error {
    Error::new(Kind::Unsupported, "the network is being built")
}
