//! Which namespaces a container has, and getting into them.

pub mod decide;
pub mod join;
pub mod time;
pub mod user;

pub use decide::Namespaces;
