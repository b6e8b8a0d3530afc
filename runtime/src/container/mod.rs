//! Containers: their records on disk, their states, and the verbs that move them.

pub mod cgroup;
pub mod events;
pub mod exec;
pub mod foreground;
pub mod launch;
pub mod lifecycle;
mod moments;
pub mod mounts;
pub mod state;
pub mod store;
pub mod update;

pub use state::Status;
pub use store::{Entry, Store};
