//! One supervisor per container: it reaps, holds stdio, writes the log, serves attach, forwards published
//! ports and records the exit, all without the engine that started it.
//!
//! ```text
//! service (Task calls, translation only)      attach (attach socket)
//!        └────────────► container ◄────────────────┘
//!                 process · ending · mounts
//!            reaper · io · log_file · runtime · forward
//! ```
//! One thread, one reactor: what a container costs is this process's memory. No lock is held across an await
//! but the verb lock of one container.
mod attach;
mod bootstrap;
pub mod cli;
mod compressor;
mod config;
mod container;
mod containerd;
mod diagnostics;
mod ending;
mod error;
mod events;
mod fault;
mod figures;
mod forward;
mod idle;
mod io;
mod lifetime;
mod log_file;
mod mounts;
mod oom;
mod process;
mod reaper;
mod registry;
mod resolver;
mod runtime;
mod service;
