//! Bridge, addresses, ports and firewall of containers: the default network and the user's own.
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
mod pools;
mod ports;
mod record;
mod redirect;
mod shared;
mod undo;
mod veth;

pub use error::{Error, Kind, Result};
pub use ipnet::Ipv4Net;
pub use model::{
    BoundPort, Endpoint, LiveEndpoint, Mac, NetworkConfig, NetworkInfo, PortMapping, PortSpec, Proto,
    ReconcileReport, Wish,
};
pub use network::{Network, create_netns};
pub use pools::{default_pools, free_subnet, valid_subnet};
pub use redirect::redirect;
pub use shared::Shared;
pub use veth::set_default_route;
