//! An OCI runtime: turns a bundle (a directory with `config.json` and a root filesystem) into a process.
//!
//! It lives for milliseconds, has one thread and keeps no daemon. `docs/stages.md` is the picture of what runs
//! where; `docs/ordering.md` says why each step stands where it does; `docs/security.md` what is defended how.
//!
//! Imports point downward: `cli` → `container` → `init` → {`namespaces`, `rootfs`, `process`, `seccomp`, `lsm`,
//! `hooks`, `terminal`} → `config`, `error`.

pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod container;
pub mod error;
pub mod fault;
pub mod features;
pub mod handover;
pub mod hooks;
pub mod init;
pub mod intel_rdt;
pub mod log;
pub mod lsm;
pub mod namespaces;
pub mod notify;
mod private_proc;
pub mod process;
pub mod rootfs;
pub mod seccomp;
pub mod terminal;
mod users;
