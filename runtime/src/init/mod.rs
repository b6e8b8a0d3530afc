//! From a decided plan to the container's first process, and to further ones (`exec`).
//!
//! ```text
//! runtime ──clone3(all new namespaces, into the v2 cgroup)──► child = pid 1 of the container
//!    │                                                          │ v1 cgroups, cgroup namespace, join by path
//!    │ ◄──────────────── Hooks / Go ───────────────────────────►│ mounts, devices, terminal
//!    │ ◄──────────────── Ready ─────────────────────────────────│ pivot_root, limits, ids, capabilities, filter
//!    │  record, pid file                                        │ waits: start fifo (create) or Go (run)
//!    ▼                                                          ▼ startContainer hooks, execve
//! ```
//!
//! Only a user namespace that is joined, or that is new while others are joined, takes one process more; see
//! [`crate::namespaces::decide`]. The order of the child's steps is in [`child`] and explained in
//! `docs/ordering.md`; the messages are in [`sync`].

pub mod child;
pub mod exec;
pub mod finalize;
pub mod parent;
mod sources;
pub mod sync;
