//! DATA_ROOT and EXEC_ROOT: made, locked, and the second one a private mount of its own.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags};

use crate::error::{Doing, Error, Result};

/// Both roots, held for as long as this lives.
#[derive(Debug)]
pub(crate) struct Roots {
    data: PathBuf,
    exec: PathBuf,
    /// `EXEC_ROOT/s`, to bind and connect sockets by descriptor: a socket path holds 107 bytes, roots can be longer.
    sockets: OwnedFd,
    mounted: bool,
    boot_id: String,
    _locks: [Flock<File>; 2],
}

impl Roots {
    /// Makes what is missing and locks both.
    ///
    /// # Errors
    /// `Conflict` when another daemon holds one of them.
    pub fn open(data: &Path, exec: &Path) -> Result<Self> {
        // 0711: a container's user may have to pass through to its own bind mounts, nobody may look around.
        for dir in [data, exec] {
            make(dir, 0o711)?;
        }
        let locks = [lock(data)?, lock(exec)?];
        let mounted = make_private(exec)?;
        for dir in ["containers", "volumes", "networks"] {
            make(&data.join(dir), 0o711)?;
        }
        for dir in ["tasks", "bundles", "s", "runtime", "names"] {
            make(&exec.join(dir), 0o700)?;
        }
        let sockets = File::open(exec.join("s"))
            .doing(|| "open the sockets' directory")?
            .into();
        let boot_id =
            std::fs::read_to_string("/proc/sys/kernel/random/boot_id").doing(|| "read the boot id")?;
        Ok(Self {
            data: data.to_owned(),
            exec: exec.to_owned(),
            sockets,
            mounted,
            boot_id: boot_id.trim().to_owned(),
            _locks: locks,
        })
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    pub fn container(&self, id: &str) -> PathBuf {
        self.data.join("containers").join(id)
    }
    pub fn containers(&self) -> PathBuf {
        self.data.join("containers")
    }
    pub fn volumes(&self) -> PathBuf {
        self.data.join("volumes")
    }
    pub fn networks(&self) -> PathBuf {
        self.data.join("networks")
    }
    /// Records and states of the networks' resolvers.
    pub fn names(&self) -> PathBuf {
        self.exec.join("names")
    }
    pub fn tasks(&self) -> PathBuf {
        self.exec.join("tasks")
    }
    pub fn bundles(&self) -> PathBuf {
        self.exec.join("bundles")
    }
    pub fn bundle(&self, id: &str) -> PathBuf {
        self.bundles().join(id)
    }
    pub fn runtime(&self, name: &str) -> PathBuf {
        self.exec.join("runtime").join(name)
    }
    /// Path of a socket in `EXEC_ROOT/s` that fits `sun_path` however long the root is.
    pub fn socket(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.sockets.as_raw_fd()))
    }
    /// Where that socket really lies.
    pub fn socket_file(&self, name: &str) -> PathBuf {
        self.sockets_dir().join(name)
    }
    pub fn sockets_dir(&self) -> PathBuf {
        self.exec.join("s")
    }
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Takes the private mount of EXEC_ROOT away again; only right when nothing runs below it.
    pub fn unmount(&self) {
        if self.mounted
            && let Err(e) = nix::mount::umount2(&self.exec, MntFlags::MNT_DETACH)
        {
            tracing::warn!(error = %e, root = %self.exec.display(), "unmount the exec root");
        }
    }
}

fn make(dir: &Path, mode: u32) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(dir)
        .doing(|| format!("make {}", dir.display()))
}

fn lock(root: &Path) -> Result<Flock<File>> {
    let path = root.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .doing(|| format!("open {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => Error::conflict(format!(
            "another kelsond uses {}: its lock is held",
            root.display()
        )),
        errno => Error::internal(format!("lock {}: {errno}", path.display())),
    })
}

/// Binds EXEC_ROOT on itself and makes it private, so that no mount of a shim spreads and mount tables stay small.
/// Returns whether there is such a mount now; without the right to mount (rootless) there is none, and nothing is lost.
fn make_private(exec: &Path) -> Result<bool> {
    if is_mount_point(exec)? {
        return Ok(true);
    }
    let none: Option<&str> = None;
    match nix::mount::mount(Some(exec), exec, none, MsFlags::MS_BIND, none) {
        Err(nix::errno::Errno::EPERM) => return Ok(false),
        other => other.doing(|| format!("bind {} on itself", exec.display()))?,
    }
    nix::mount::mount(none, exec, none, MsFlags::MS_PRIVATE, none)
        .doing(|| format!("make {} private", exec.display()))?;
    Ok(true)
}

fn is_mount_point(path: &Path) -> Result<bool> {
    let flags = rustix::fs::AtFlags::empty();
    let stat = rustix::fs::statx(rustix::fs::CWD, path, flags, rustix::fs::StatxFlags::BASIC_STATS)
        .map_err(std::io::Error::from)
        .doing(|| format!("look at {}", path.display()))?;
    // STATX_ATTR_MOUNT_ROOT, since Linux 5.8.
    Ok(stat.stx_attributes.bits() & 0x2000 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (data, exec) = (dir.path().join("data"), dir.path().join("exec"));
        let first = Roots::open(&data, &exec).unwrap();
        let e = Roots::open(&data, &dir.path().join("other")).unwrap_err();
        assert_eq!(e.kind(), crate::error::Kind::Conflict);
        first.unmount();
        drop(first);
        Roots::open(&data, &exec).unwrap().unmount();
    }

    #[test]
    fn a_socket_fits_however_long_the_root_is() {
        let dir = tempfile::tempdir().unwrap();
        let exec = dir.path().join("x".repeat(200));
        let roots = Roots::open(&dir.path().join("data"), &exec).unwrap();
        let path = roots.socket("0123456789abcdef");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        drop(listener);
        assert!(roots.socket_file("0123456789abcdef").exists());
        roots.unmount();
    }
}
