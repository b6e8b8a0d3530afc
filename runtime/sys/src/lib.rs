//! System calls that neither nix nor rustix offers, behind safe functions.
//!
//! This crate holds the only `unsafe` code of the workspace. Each function wraps one system call (or one
//! inseparable pair), takes borrowed descriptors, returns owned ones, and reports `std::io::Error` with the
//! errno untouched. Policy lives with the callers.
#![allow(unsafe_code)]

pub mod bpf;
pub mod btrfs;
pub mod bump;
pub mod exe;
pub mod fds;
pub mod keyring;
pub mod malloc;
pub mod mount;
pub mod net;
pub mod pidfd;
pub mod quota;
pub mod regex;
pub mod sched;
pub mod seccomp;
pub mod signals;
pub mod spawn;
pub mod start;
pub mod text;
