//! Control groups of one container, on every layout: v2 alone ("unified"), v1 alone ("legacy"), and v1 with
//! an additional v2 hierarchy for no or few controllers ("hybrid").
//!
//! [`Host::detect`] learns the layout; [`Host::container`] names a container's directories from its
//! `cgroupsPath`; a [`Cgroup`] is those directories, and everything asked or done about them.
//! Nothing here ever writes outside a container's own directories, but for `cgroup.subtree_control` of their
//! ancestors on v2 and the `cpuset` files of ancestors made here.
//!
//! ```no_run
//! # fn main() -> Result<(), kelson_cgroups::Error> {
//! use std::time::Duration;
//! let cgroup = kelson_cgroups::Host::detect()?.container(Some("/kelson/web"), "web")?;
//! println!("{:?} {}", cgroup.pids()?, cgroup.oom_kills()?);
//! cgroup.kill_all(Duration::from_secs(5))?;
//! # Ok(()) }
//! ```

mod block_io;
mod cgroup;
mod devices;
mod error;
mod files;
mod freeze;
mod host;
mod joiner;
mod limits;
mod oom;
mod rootless;
mod stats;
mod systemd;
mod v1;
mod v2;

pub use cgroup::{Cgroup, Dir};
pub use devices::DeviceRules;
pub use error::{Error, Kind, Result};
pub use host::{Hierarchy, Host, Layout, Version};
pub use joiner::{Helper, Joiner};
pub use oom::{Heard, OomWatch};
pub use rootless::asks_for_limits;
pub use stats::{Counter, Cpu, CpuSet, Io, IoEntry, Memory, Pids, Pressure, Rdma, Stall, Stats};
pub use systemd::{Placeholder, Request, Unit};
