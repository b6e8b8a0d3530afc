//! Which namespaces a container has, and getting into them.

pub mod decide;
pub mod join;
pub mod net_devices;
pub mod time;
pub mod user;

pub use decide::Namespaces;
