//! Containers, volumes, events: their records, their states and the policy that moves them.
//!
//! [`Engine`] is the one entrance. Inside, imports point downward: `containers` uses `tasks` (the shim's client), `volumes`,
//! `store` and `events`; none of those knows a container. `inspect` and `list` read snapshots in memory and never wait.

mod clock;
mod config;
mod containers;
mod engine;
mod error;
mod events;
mod info;
mod inner;
mod names;
mod networks;
mod seccomp;
mod spec;
mod store;
mod tasks;
mod types;
mod volumes;

pub use config::{EngineConfig, NetworkSettings, RuntimeEntry};
pub use containers::commit::Commit;
pub use containers::files::{ExtractArchive, TarSource};
pub use engine::Engine;
pub use error::{Error, Kind, Result};
pub use types::{
    AttachOptions, Attached, Created, EventOptions, EventStream, ExecStartOptions, Frame, FrameStream,
    ListOptions, LogOptions, Logs, Nanos, RemoveOptions, StatsMode, StatsStream, StopOptions, WaitCondition,
    WaitOutcome, Waiting,
};
