//! The systemd driver: a container's cgroup is a transient unit of systemd's (a scope, or a slice), which knows its
//! limits. systemd makes and removes the directory; we join it and write what systemd has no property for.
//!
//! A scope lives only while a process is in it. The one that holds it open until the container's first process is
//! there is a [`Placeholder`], so that this process can be made inside the cgroup as with the other driver.
//!
//! The connection is our own small part of D-Bus: `marshal` turns values into bytes, `bus` talks, `properties`
//! decides what is said, `text` reads the values of annotations, `unit` has the names and the verbs.

mod bus;
mod marshal;
mod placeholder;
mod properties;
mod text;
mod unit;

pub use placeholder::Placeholder;
pub use unit::{Request, Unit};
