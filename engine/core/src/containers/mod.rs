//! Containers: one file per verb, and the nouns they share.

pub(crate) mod adopt;
pub(crate) mod attach;
pub(crate) mod commit;
pub(crate) mod connect;
pub(crate) mod container;
pub(crate) mod create;
pub(crate) mod etc_files;
pub(crate) mod exec;
pub(crate) mod files;
pub(crate) mod health;
pub(crate) mod init;
pub(crate) mod inspect;
pub(crate) mod launch;
pub(crate) mod links;
pub(crate) mod list;
pub(crate) mod logging;
pub(crate) mod logs;
pub(crate) mod modes;
pub(crate) mod monitor;
pub(crate) mod network;
pub(crate) mod reconcile;
pub(crate) mod record;
pub(crate) mod remove;
pub(crate) mod restart;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod stop;
pub(crate) mod top;
pub(crate) mod update;
pub(crate) mod wait;

use std::path::PathBuf;

use crate::config::EngineConfig;

/// Runtimes that are looked for on PATH when they are not configured.
const WELL_KNOWN: [&str; 2] = ["runc", "crun"];

/// The program of a runtime by name.
pub(crate) fn runtime_path(engine: &EngineConfig, name: &str) -> Option<PathBuf> {
    if let Some(entry) = engine.runtimes.get(name) {
        return Some(entry.path.clone());
    }
    if !WELL_KNOWN.contains(&name) {
        return None;
    }
    let path = std::env::var_os("PATH")?;
    // sbin is where distributions put runc, and not on every PATH.
    let extra = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(extra)
        .map(|dir| dir.join(name))
        .find(|p| p.is_file())
}
