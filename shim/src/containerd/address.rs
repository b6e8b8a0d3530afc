//! Where a shim listens: one short path for each pod, which `start` makes and finds again.
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::error::{Doing, Result};

/// Where sockets lie unless containerd says otherwise; a socket's path must be short, and a bundle's is not.
const SOCKETS: &str = "/run/containerd/s";

/// Annotations whose value names the group of a container; the first that is there counts.
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

#[derive(Default, Deserialize)]
#[serde(default)]
struct Annotated {
    annotations: std::collections::HashMap<String, String>,
}

/// Who shares a shim with container `id`: its pod, or nobody. A sandbox has no `config.json` and names itself.
pub fn group(bundle: &Path, id: &str) -> Result<String> {
    let path = bundle.join("config.json");
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(id.to_owned()),
        other => other.doing(|| format!("read {}", path.display()))?,
    };
    let config: Annotated = serde_json::from_slice(&text)
        .map_err(std::io::Error::from)
        .doing(|| format!("read {}", path.display()))?;
    let group = GROUPS.iter().find_map(|name| config.annotations.get(*name));
    Ok(group
        .filter(|group| !group.is_empty())
        .map_or(id, String::as_str)
        .to_owned())
}

/// The socket of a group, in `dir` or the usual place.
pub fn socket(dir: &str, containerd: &str, namespace: &str, group: &str) -> PathBuf {
    let dir = if dir.is_empty() { SOCKETS } else { dir };
    let mut hash = Sha256::new();
    // Lengths keep ("a", "bc") and ("ab", "c") apart.
    for part in [containerd, namespace, group] {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    let name = hash.finalize().iter().fold(String::new(), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    });
    Path::new(dir).join(name)
}

/// Listens at `path`; `None` when a living shim does. What a dead one left is taken over.
pub fn listen(path: &Path) -> Result<Option<UnixListener>> {
    let doing = || format!("listen on {}", path.display());
    if let Some(dir) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .doing(doing)?;
    }
    for last in [false, true] {
        match UnixListener::bind(path) {
            Ok(listener) => {
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).doing(doing)?;
                return Ok(Some(listener));
            }
            Err(error) if error.kind() == ErrorKind::AddrInUse && !last => {
                if UnixStream::connect(path).is_ok() {
                    return Ok(None);
                }
                let _ = std::fs::remove_file(path);
            }
            Err(error) => return Err(error).doing(doing),
        }
    }
    Ok(None)
}

/// The file in a bundle that says where its shim listens. Containerd 1.6 finds a shim again by it.
const FILE: &str = "address";

/// How long a shim that is dying may still seem to listen: the kernel closes its connections first, and it is by these that
/// containerd sees its end.
const DYING: Duration = Duration::from_millis(500);

/// Says in `bundle` that its shim listens at `url`.
pub fn remember(bundle: &Path, url: &str) -> Result<()> {
    let file = bundle.join(FILE);
    std::fs::write(&file, url).doing(|| format!("write {}", file.display()))
}

/// Removes the socket of a shim that is dead; that of a living one (of a pod) stays.
pub fn forget(bundle: &Path) {
    let Ok(url) = std::fs::read_to_string(bundle.join(FILE)) else {
        return;
    };
    let Some(path) = url.trim().strip_prefix("unix://") else {
        return;
    };
    let until = Instant::now() + DYING;
    while Instant::now() < until {
        match UnixStream::connect(path) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                let _ = std::fs::remove_file(path);
                return;
            }
            Err(_) => return,
            Ok(_) => std::thread::sleep(DYING / 50),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_share_and_others_do_not() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(group(dir.path(), "i").unwrap(), "i");
        for (json, expected) in [
            ("{}", "i"),
            (r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}"#, "pod"),
            (
                r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod","io.containerd.runc.v2.group":"g"}}"#,
                "g",
            ),
            (r#"{"annotations":{"io.containerd.runc.v2.group":""}}"#, "i"),
        ] {
            std::fs::write(dir.path().join("config.json"), json).unwrap();
            assert_eq!(group(dir.path(), "i").unwrap(), expected, "{json}");
        }
        std::fs::write(dir.path().join("config.json"), "x").unwrap();
        assert!(group(dir.path(), "i").is_err());
        let one = socket("", "/c.sock", "n", "g");
        assert_eq!(one, socket("", "/c.sock", "n", "g"));
        assert_ne!(one, socket("", "/c.sock", "ng", ""));
        assert!(one.as_os_str().len() < 107);
        assert!(socket("/d", "", "n", "g").starts_with("/d"));
    }

    #[test]
    fn a_dead_shims_socket_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s/x");
        let first = listen(&path).unwrap().unwrap();
        assert!(listen(&path).unwrap().is_none());
        drop(first);
        assert!(listen(&path).unwrap().is_some());
    }
}
