//! The grammar of `run`'s values, each a pure function of its text.

pub mod checks;
pub mod devices;
pub mod env;
pub mod limits;
pub mod mounts;
pub mod network;
pub mod security;
