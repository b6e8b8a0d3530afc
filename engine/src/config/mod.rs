//! What kelsond was told: flags over `daemon.json` over defaults, decided once into [`Settings`].
//!
//! dockerd's names throughout. A key in both places is an error, as in dockerd: silently preferring one hides mistakes.
//! A setting that Kelson knows but cannot honour is refused where ignoring it would weaken or surprise (user
//! namespaces, plugins), and warned about where it would not.

mod file;
mod flags;
mod settings;
mod tls;
mod values;

pub use flags::Flags;
pub use settings::{LogFormat, Pool, Runtime, Settings, resolve};

use std::fmt;

/// Everything wrong with a configuration, one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(pub String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}
