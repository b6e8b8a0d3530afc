//! What a process is given before it runs: ids, capabilities, limits, scheduling, keyring, environment.

pub mod affinity;
pub mod attributes;
pub mod capabilities;
pub mod command;
pub mod credentials;
pub mod env;
pub mod keyring;
pub mod memory_policy;
pub mod oom;
pub mod personality;
pub mod ranges;
pub mod rlimits;
pub mod scheduler;
pub mod seal;
pub mod stat;
