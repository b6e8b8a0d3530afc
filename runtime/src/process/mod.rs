//! What a process is given before it runs: ids, capabilities, limits, keyring, environment.

pub mod capabilities;
pub mod command;
pub mod credentials;
pub mod keyring;
pub mod rlimits;
pub mod seal;
pub mod stat;
