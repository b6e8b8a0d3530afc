//! What `checkpoint` and `restore` are asked for, and the rules between flags. Pure, but for looking at directories.

use std::path::{Path, PathBuf};

use super::rpc::{CgroupMode, NetworkLock};
use crate::error::{Doing, Error, Kind, Result};

/// The flags, as both commands share them; those of one stay at their defaults in the other.
#[derive(Debug, Default, Clone)]
pub struct Options {
    /// Where the image is.
    pub image_path: PathBuf,
    /// Where criu's log and other files go; the image's directory if none is named.
    pub work_path: Option<PathBuf>,
    /// An earlier image, relative to the image's directory.
    pub parent_path: Option<String>,
    /// Let the container run on.
    pub leave_running: bool,
    /// Take open connections along.
    pub tcp_established: bool,
    /// Leave out connections that are being made.
    pub tcp_skip_in_flight: bool,
    /// Restore connections as closed ones.
    pub tcp_close: bool,
    /// Link files that have no name any more.
    pub link_remap: bool,
    /// Allow sockets connected to the outside.
    pub ext_unix_sk: bool,
    /// Allow a terminal that belongs to the caller.
    pub shell_job: bool,
    /// Leave memory behind, to be fetched on demand.
    pub lazy_pages: bool,
    /// Written to once pages can be fetched.
    pub status_fd: Option<i32>,
    /// Where memory goes instead of into the image.
    pub page_server: Option<(String, u16)>,
    /// Take file locks along.
    pub file_locks: bool,
    /// Memory only, and let it run on.
    pub pre_dump: bool,
    /// What happens with cgroups.
    pub cgroup_mode: Option<CgroupMode>,
    /// `CLONE_NEW*` of namespaces that are made and left empty.
    pub empty_ns: u32,
    /// Leave out what the parent image has.
    pub auto_dedup: bool,
    /// How packets are held off meanwhile.
    pub network_lock: Option<NetworkLock>,
    /// `TYPE:NAME` of another security profile.
    pub lsm_profile: Option<String>,
    /// Another context for mounts.
    pub lsm_mount_context: Option<String>,
}

/// The network namespace's devices are never ours to restore.
pub const ALWAYS_EMPTY: u32 = nix::libc::CLONE_NEWNET.cast_unsigned();

/// `--manage-cgroups-mode`.
///
/// # Errors
/// `Invalid` for any other word.
pub fn cgroup_mode(text: &str) -> Result<CgroupMode> {
    match text {
        "" => Ok(CgroupMode::Default),
        "soft" => Ok(CgroupMode::Soft),
        "full" => Ok(CgroupMode::Full),
        "strict" => Ok(CgroupMode::Strict),
        "ignore" => Ok(CgroupMode::Ignore),
        other => Err(invalid(format!(
            "--manage-cgroups-mode: invalid manage-cgroups-mode value {other:?} (soft, full, strict or ignore)"
        ))),
    }
}

/// `--network-lock`.
///
/// # Errors
/// `Invalid` for any other word.
pub fn network_lock(text: &str) -> Result<NetworkLock> {
    match text {
        "iptables" => Ok(NetworkLock::Iptables),
        "nftables" => Ok(NetworkLock::Nftables),
        "skip" => Ok(NetworkLock::Skip),
        other => Err(invalid(format!(
            "--network-lock: {other:?} is not iptables, nftables or skip"
        ))),
    }
}

/// `--empty-ns`, any number of times.
///
/// # Errors
/// `Invalid` for a namespace that cannot be left empty.
pub fn empty_namespaces(names: &[String]) -> Result<u32> {
    names
        .iter()
        .try_fold(ALWAYS_EMPTY, |mask, name| match name.as_str() {
            "network" => Ok(mask | nix::libc::CLONE_NEWNET.cast_unsigned()),
            other => Err(invalid(format!(
                "--empty-ns: namespace {other:?} is not supported"
            ))),
        })
}

/// `--page-server ADDRESS:PORT`; an IPv6 address is in brackets.
///
/// # Errors
/// `Invalid` when a part is missing or the port is none.
pub fn page_server(text: &str) -> Result<(String, u16)> {
    let bad = || invalid("Use --page-server ADDRESS:PORT to specify page server");
    let (address, port) = text.rsplit_once(':').ok_or_else(bad)?;
    let address = match address.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').ok_or_else(bad)?,
        None if address.contains(':') => return Err(bad()),
        None => address,
    };
    if address.is_empty() || port.is_empty() {
        return Err(bad());
    }
    let port = port
        .parse::<u16>()
        .ok()
        .filter(|p| *p != 0)
        .ok_or_else(|| invalid(format!("--page-server: Invalid port number {port:?}")))?;
    Ok((address.to_owned(), port))
}

/// `--parent-path`: criu stores it as a link in the image's directory, so it is relative to that, and must be there.
///
/// # Errors
/// `Invalid`, or what looking there reported.
pub fn check_parent(image: &Path, parent: &str) -> Result<()> {
    if Path::new(parent).is_absolute() {
        return Err(invalid("--parent-path must be relative"));
    }
    let path = image.join(parent);
    let found =
        std::fs::metadata(&path).doing(|| format!("invalid --parent-path: stat {}", path.display()))?;
    if found.is_dir() {
        return Ok(());
    }
    Err(invalid(format!(
        "invalid --parent-path: {} is not a directory",
        path.display()
    )))
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        assert_eq!(cgroup_mode("").unwrap(), CgroupMode::Default);
        assert_eq!(cgroup_mode("ignore").unwrap(), CgroupMode::Ignore);
        assert!(cgroup_mode("hard").is_err());
        assert_eq!(network_lock("skip").unwrap(), NetworkLock::Skip);
        assert!(network_lock("").is_err());
        assert_eq!(empty_namespaces(&[]).unwrap(), ALWAYS_EMPTY);
        assert_eq!(empty_namespaces(&["network".into()]).unwrap(), ALWAYS_EMPTY);
        assert!(empty_namespaces(&["pid".into()]).is_err());
    }

    #[test]
    fn page_servers() {
        assert_eq!(page_server("h:1").unwrap(), ("h".into(), 1));
        assert_eq!(page_server("[::1]:27277").unwrap(), ("::1".into(), 27277));
        for bad in ["", "h", "h:", ":1", "::1:1", "[::1:1", "h:0", "h:65536", "h:x"] {
            assert!(page_server(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn parents() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("image")).unwrap();
        std::fs::create_dir(dir.path().join("parent")).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let image = dir.path().join("image");
        check_parent(&image, "../parent").unwrap();
        for bad in ["/", "../none", "../file"] {
            let error = check_parent(&image, bad).unwrap_err();
            assert!(error.chain().contains("--parent-path"), "{}", error.chain());
        }
    }
}
