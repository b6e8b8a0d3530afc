//! Who we are at registries.

pub mod login;
pub mod logout;
pub mod search;

/// The registry that is meant without a name.
pub const DEFAULT: &str = "docker.io";
