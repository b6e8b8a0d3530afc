//! All that crosses the shim's border, and nothing that acts on it.
//!
//! | module | who writes | who reads |
//! | --- | --- | --- |
//! | [`task`] | engine (client) | shim (server), over ttrpc |
//! | [`serve`] | engine, on the shim's stdin; shim, one line on its stdout | each other |
//! | [`attach`] | engine and shim, on the attach socket | each other |
//! | [`logs`] | engine (the stdio addresses), shim (the log file) | shim, engine |
//! | [`exit`] | shim, once, before `Wait` answers | engine |
//! | [`names`] | engine (record), resolver (state) | each other |
//! | [`error`] | shim | engine |
//! | [`containerd`] | shim (events, metrics), containerd (options, parameters) | each other |
//!
//! Everything that is kept or sent carries a `format` number; see [`FORMAT`].

pub mod attach;
pub mod containerd;
pub mod error;
pub mod exit;
#[allow(
    missing_debug_implementations,
    missing_docs,
    clippy::all,
    clippy::unwrap_used,
    clippy::cast_possible_truncation
)]
mod generated;
pub mod logs;
pub mod names;
pub mod serve;
pub mod time;
pub mod wire;

/// The one `format` this crate writes. A reader accepts it and ignores fields that it does not know; a message
/// of another format is refused by name.
pub const FORMAT: u32 = 1;

/// The Task service: `containerd.task.v2.Task` with its messages, and an async client and server of it.
pub mod task {
    pub use crate::generated::mount::Mount;
    pub use crate::generated::process::{ProcessInfo, Status};
    pub use crate::generated::task::*;
    pub use crate::generated::task_ttrpc::{Task, TaskClient, create_task};
    pub use protobuf::well_known_types::any::Any;
    pub use protobuf::well_known_types::empty::Empty;
    pub use protobuf::well_known_types::timestamp::Timestamp;
}
