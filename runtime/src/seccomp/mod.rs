//! System call filters: profile → classic BPF (compiled once, cached) → the kernel.

mod cache;
mod compile;
mod profile;

use std::path::Path;

use kelson_sys::seccomp::Instruction;
use serde_json::value::RawValue;

use crate::error::{Doing, Result};

pub use compile::{ACTIONS, ARCHITECTURES, FLAGS, OPERATORS, library_version};

/// A filter ready to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// `SECCOMP_FILTER_FLAG_*`
    pub flags: u32,
    /// The program.
    pub program: Vec<Instruction>,
}

impl Filter {
    /// Puts the filter in force for this process and all it executes.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn load(&self) -> Result<()> {
        kelson_sys::seccomp::load(&self.program, self.flags).doing(|| "linux.seccomp: load the filter")?;
        Ok(())
    }
}

/// The filter of a profile: from the cache in `cache_dir`, or compiled and put there.
///
/// # Errors
/// `Invalid` names the field of the profile. A cache that cannot be used is no error.
pub fn prepare(profile: &RawValue, cache_dir: Option<&Path>) -> Result<Option<Filter>> {
    let raw = profile.get();
    if raw == "null" {
        return Ok(None);
    }
    let cache = cache_dir.and_then(cache::Cache::open);
    if let Some(filter) = cache.as_ref().and_then(|c| c.get(raw)) {
        return Ok(Some(filter));
    }
    let parsed = profile::parse(raw)?;
    let filter = compile::compile(&parsed)?;
    if let Some(cache) = cache {
        cache.put(raw, &filter);
    }
    Ok(Some(filter))
}
