//! System call filters: profile → classic BPF (compiled once, cached) → the kernel.

mod arch;
mod cache;
mod code;
mod compile;
#[cfg(test)]
mod interpreter;
mod notify;
mod profile;
mod prologue;
mod shrink;

use std::os::fd::OwnedFd;
use std::path::Path;

use kelson_sys::seccomp::{Instruction, NEW_LISTENER};
use serde_json::value::RawValue;

use crate::error::{Doing, Error, Result};
use profile::{Listener, Profile};

pub use arch::names as architectures;
pub use compile::{ACTIONS, OPERATORS, library_version};
pub use notify::{Agent, fetch};

/// A filter ready to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// `SECCOMP_FILTER_FLAG_*`
    pub flags: u32,
    /// The program.
    pub program: Vec<Instruction>,
}

/// What a profile comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prepared {
    /// The filter, if there is one.
    pub filter: Option<Filter>,
    /// Who answers the calls that wait; only with a filter that makes some wait.
    pub agent: Option<Agent>,
}

impl Filter {
    /// Puts the filter in force for this process and all it executes. Gives the descriptor on which calls wait, if it
    /// makes any wait.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn load(&self) -> Result<Option<OwnedFd>> {
        kelson_sys::seccomp::load(&self.program, self.flags).doing(|| "linux.seccomp: load the filter")
    }

    fn listens(&self) -> bool {
        self.flags & NEW_LISTENER != 0
    }
}

/// Flags that a profile may name.
pub fn known_flags() -> Vec<&'static str> {
    compile::FLAGS.iter().map(|(name, _)| *name).collect()
}

/// Those of them that this kernel takes.
pub fn supported_flags() -> Vec<&'static str> {
    let supported = compile::FLAGS
        .iter()
        .filter(|(_, bit)| *bit == 0 || kelson_sys::seccomp::flags_available(*bit));
    supported.map(|(name, _)| *name).collect()
}

/// The filter of a profile: from the cache in `cache_dir`, or compiled and put there. `receiver` is a path for the agent
/// of a profile that names none.
///
/// # Errors
/// `Invalid` names the field of the profile. A cache that cannot be used is no error.
pub fn prepare(profile: &RawValue, cache_dir: Option<&Path>, receiver: Option<&str>) -> Result<Prepared> {
    let raw = profile.get();
    if raw == "null" {
        return Ok(Prepared::default());
    }
    let cache = cache_dir.and_then(cache::Cache::open);
    let cached = cache.as_ref().and_then(|c| c.get(raw));
    let filter = match cached {
        Some(filter) => filter,
        None => {
            let Some(filter) = compiled(raw)? else {
                return Ok(Prepared::default());
            };
            if let Some(cache) = cache {
                cache.put(raw, &filter);
            }
            filter
        }
    };
    let agent = if filter.listens() {
        // Only these two fields are read: the rest stays unparsed, as on every hit of the cache.
        Some(notify::agent(profile::parse::<Listener>(raw)?, receiver)?)
    } else {
        None
    };
    Ok(Prepared {
        filter: Some(filter),
        agent,
    })
}

/// A profile without a default and without rules is none, as with runc.
fn compiled(raw: &str) -> Result<Option<Filter>> {
    let parsed: Profile = profile::parse(raw)?;
    if parsed.default_action.is_empty() && parsed.syscalls.is_empty() {
        return Ok(None);
    }
    let listener: Listener = profile::parse(raw)?;
    if listener.listener_path.is_empty() && !listener.listener_metadata.is_empty() {
        return Err(Error::field(
            "linux.seccomp.listenerMetadata",
            "must not be set without listenerPath",
        ));
    }
    compile::compile(&parsed).map(Some)
}

/// Compiles arbitrary bytes as a profile, for fuzzing: any input may fail, none may panic.
pub fn fuzz(bytes: &[u8]) {
    if let Ok(profile) = serde_json::from_slice::<&RawValue>(bytes) {
        let _ = check(profile);
    }
}

/// Checks a profile without keeping what it compiles to, for tables of bad input.
///
/// # Errors
/// As [`prepare`].
pub fn check(profile: &RawValue) -> Result<()> {
    prepare(profile, None, None).map(drop)
}
