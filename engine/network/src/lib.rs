//! Bridge, addresses, ports and firewall of containers: the default network.
//!
//! Everything here is blocking and is called from blocking threads. Links and sockets are made in the
//! network namespace of the calling thread, which is kelsond's own.
//!
//! The order of one container's life: `bind_ports`, `allocate`, `create_netns`, `connect`, `publish`, (it runs),
//! `disconnect`. After a failure anywhere `disconnect` undoes whatever was done.

mod bridge;
mod error;
mod firewall;
mod ipam;
mod model;
mod netlink;
mod netns;
mod network;
mod plan;
mod ports;
mod record;
mod undo;
mod veth;

pub use error::{Error, Kind, Result};
pub use ipnet::Ipv4Net;
pub use model::{
    BoundPort, Endpoint, LiveEndpoint, Mac, NetworkConfig, NetworkInfo, PortMapping, PortSpec, Proto,
    ReconcileReport,
};
pub use network::Network;
