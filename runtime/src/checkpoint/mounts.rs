//! Which of a container's mounts are external to its image: criu keeps a key for each, and at restore is told what stands
//! behind it. The key is the mount's place inside the container.

use std::path::{Path, PathBuf};

use kelson_cgroups::{Cgroup, Version};
use oci_spec::runtime::{LinuxNamespaceType as Ns, Mount};
use rustix::fs::{FileType, Mode, OFlags};

use crate::config::Config;
use crate::error::{Doing, Result};
use crate::rootfs::resolve::Root;

/// One mount that comes from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    /// Inside the container, without symlinks.
    pub inside: String,
    /// On the host.
    pub source: PathBuf,
}

/// All of them: bind mounts, the cgroup directories of v1, what masks files, and devices that are bound.
///
/// # Errors
/// What opening the root filesystem reported.
pub fn externals(config: &Config, cgroup: &Cgroup, bundle: &Path, rootfs: &Path) -> Result<Vec<External>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(rootfs, flags, Mode::empty())
        .doing(|| format!("root.path: open {}", rootfs.display()))?;
    let root = Root::new(fd);
    let mut out = Vec::new();
    for mount in &config.mounts {
        if is_bind(mount) {
            let source = mount.source().clone().unwrap_or_default();
            out.push(External {
                inside: resolved(&root, rootfs, mount.destination()),
                source: bundle.join(source),
            });
        } else if mount.typ().as_deref() == Some("cgroup") && !cgroup.is_unified() {
            out.extend(controllers(cgroup, mount.destination()));
        }
    }
    let user_namespace = config.linux.namespaces.iter().any(|n| n.typ() == Ns::User);
    if user_namespace {
        let listed = config.linux.devices.iter().map(|d| d.path().clone());
        out.extend(
            DEVICES
                .iter()
                .map(PathBuf::from)
                .chain(listed)
                .map(|path| External {
                    inside: path.to_string_lossy().into_owned(),
                    source: path,
                }),
        );
    }
    Ok(out)
}

/// Bound from the host where nodes cannot be made.
const DEVICES: [&str; 6] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
];

/// Whether something of the host is shown.
pub fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind")
        || mount
            .options()
            .iter()
            .flatten()
            .any(|o| o == "bind" || o == "rbind")
}

fn controllers(cgroup: &Cgroup, destination: &Path) -> Vec<External> {
    cgroup
        .dirs()
        .iter()
        .filter(|d| d.version == Version::V1)
        .map(|dir| {
            let name = dir.controllers.strip_prefix("name=").unwrap_or(&dir.controllers);
            External {
                inside: destination.join(name).to_string_lossy().into_owned(),
                source: dir.path.clone(),
            }
        })
        .collect()
}

/// Where a path of the container really is; as it stands where it is not in the root filesystem (below another mount).
fn resolved(root: &Root, rootfs: &Path, path: &Path) -> String {
    use std::os::fd::AsRawFd;
    root.handle(path)
        .ok()
        .and_then(|fd| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok())
        .and_then(|real| Some(Path::new("/").join(real.strip_prefix(rootfs).ok()?)))
        .unwrap_or_else(|| path.to_owned())
        .to_string_lossy()
        .into_owned()
}

/// The files that are masked by the host's /dev/null, as far as the container has them. A symlink of the container's leads
/// nowhere but into its own tree.
///
/// # Errors
/// What opening the container's root reported.
pub fn masked_files(config: &Config, pid: i32) -> Result<Vec<String>> {
    if config.linux.masked_paths.is_empty() {
        return Ok(Vec::new());
    }
    let path = format!("/proc/{pid}/root");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(&path, flags, Mode::empty()).doing(|| format!("open {path}"))?;
    Ok(files_in(&Root::new(fd), &config.linux.masked_paths))
}

fn files_in(root: &Root, paths: &[String]) -> Vec<String> {
    let is_file = |path: &str| {
        root.handle(Path::new(path))
            .and_then(rustix::fs::fstat)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) != FileType::Directory)
    };
    paths.iter().filter(|path| is_file(path)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_are_external_and_symlinks_resolved() {
        let dir = tempfile::tempdir().unwrap();
        let rootfs = std::fs::canonicalize(dir.path()).unwrap().join("rootfs");
        std::fs::create_dir_all(rootfs.join("real/conf")).unwrap();
        std::os::unix::fs::symlink("/real/conf", rootfs.join("conf")).unwrap();
        let config: Config = serde_json::from_str(
            r#"{"mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/conf", "source": "data", "options": ["rbind", "ro"]},
                {"destination": "/none/yet", "type": "bind", "source": "/abs"}]}"#,
        )
        .unwrap();
        let found = externals(&config, &Cgroup::none(), Path::new("/bundle"), &rootfs).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|e| (e.inside.as_str(), e.source.to_str().unwrap()))
            .collect();
        assert_eq!(found, [("/real/conf", "/bundle/data"), ("/none/yet", "/abs")]);
    }

    #[test]
    fn masked_files_are_looked_for_inside() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(outside.join("file"), "").unwrap();
        let rootfs = dir.path().join("rootfs");
        std::fs::create_dir_all(rootfs.join("proc/dir")).unwrap();
        std::fs::write(rootfs.join("proc/kcore"), "").unwrap();
        std::os::unix::fs::symlink(&outside, rootfs.join("out")).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = Root::new(rustix::fs::open(&rootfs, flags, Mode::empty()).unwrap());
        let paths = ["/proc/kcore", "/proc/dir", "/out/file", "/none"].map(str::to_owned);
        assert_eq!(files_in(&root, &paths), ["/proc/kcore"]);
    }

    #[test]
    fn a_user_namespace_makes_devices_external() {
        let dir = tempfile::tempdir().unwrap();
        let config: Config =
            serde_json::from_str(r#"{"linux": {"namespaces": [{"type": "user"}]}}"#).unwrap();
        let found = externals(&config, &Cgroup::none(), dir.path(), dir.path()).unwrap();
        assert!(
            found
                .iter()
                .any(|e| e.inside == "/dev/null" && e.source == Path::new("/dev/null"))
        );
        assert_eq!(found.len(), DEVICES.len());
    }
}
