//! The pid 1 of `--init`: who gets one, and where its program lies.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Mutex;

use kelson_api::HostConfig;

use super::modes::NamespaceMode;
use crate::config::EngineConfig;
use crate::error::{Doing, Error, Result};
use crate::store::{self, Durability, Roots};

/// The program, built by build.rs from `runtime/sys/init`.
static PROGRAM: &[u8] = include_bytes!(env!("KELSON_INIT"));

/// Its name below DATA_ROOT. Not below EXEC_ROOT: /run may be mounted noexec, and a bind mount inherits that.
const NAME: &str = "kelson-init";

/// Whether a container gets an init. As in docker, only one that has a pid namespace of its own: in somebody else's there
/// is an init already.
pub(crate) fn wanted(host: &HostConfig, config: &EngineConfig) -> bool {
    host.init.unwrap_or(config.init) && matches!(NamespaceMode::pid(host), Ok(NamespaceMode::Own))
}

/// The file to bind into containers: the daemon's `init-path`, or our own, which is written at its first use.
pub(crate) fn program(config: &EngineConfig, roots: &Roots) -> Result<PathBuf> {
    /// Starts that come at once must not write it at once.
    static WRITING: Mutex<()> = Mutex::new(());
    if let Some(path) = &config.init_path {
        return Ok(path.clone());
    }
    if PROGRAM.is_empty() {
        return Err(Error::unsupported(
            "--init: there is no init program for this machine",
        ));
    }
    let dir = roots.data();
    let path = dir.join(NAME);
    let _writing = WRITING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // An older release's is replaced; containers that run it keep it, as it is another file.
    if !std::fs::read(&path).is_ok_and(|have| have == PROGRAM) {
        store::replace(dir, NAME, PROGRAM, Durability::Synced)?;
    }
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&path, executable).doing(|| format!("make {} executable", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gets_one() {
        let engine = |init| EngineConfig {
            init,
            ..EngineConfig::default()
        };
        let container = |init, pid: &str| HostConfig {
            init,
            pid_mode: pid.into(),
            ..HostConfig::default()
        };
        assert!(wanted(&container(Some(true), ""), &engine(false)));
        assert!(wanted(&container(None, ""), &engine(true)));
        assert!(!wanted(&container(Some(false), ""), &engine(true)));
        assert!(!wanted(&container(Some(true), "host"), &engine(true)));
        assert!(!wanted(&container(Some(true), "container:a"), &engine(false)));
    }
}
