//! systemd's readiness protocol (sd_notify(3)) across the container's border.
//!
//! The container gets a socket of its own, in a directory that is mounted read-only into it. What comes there is
//! hostile: only that it is ready is passed on to the service manager, and then our own words: which process to watch,
//! and a barrier that tells when they were understood.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::{Mount, MountBuilder};
use rustix::fs::{Mode, OFlags};

use crate::error::{Doing, Error, Kind, Result};
use crate::handover;

/// Where the container finds the directory.
const INSIDE: &str = "/run/notify";
const NAME: &str = "notify.sock";
/// A longer message is cut; systemd itself reads no more.
const MAX_MESSAGE: usize = 4096;
/// How long the service manager may take to understand, before it is taken for one that knows no barriers.
const BARRIER_PATIENCE: Duration = Duration::from_secs(30);

/// The environment variable for the container's process.
pub fn variable() -> String {
    format!("NOTIFY_SOCKET={INSIDE}/{NAME}")
}

/// The mount that shows the directory to the container.
///
/// # Errors
/// None in practice: every field is given.
pub fn mount(dir: &Path) -> Result<Mount> {
    MountBuilder::default()
        .destination(INSIDE)
        .source(dir)
        .typ("bind")
        .options(
            ["bind", "nosuid", "noexec", "nodev", "ro"]
                .map(str::to_owned)
                .to_vec(),
        )
        .build()
        .map_err(|e| Error::new(Kind::Internal, format!("NOTIFY_SOCKET: {e}")))
}

/// The container's socket, and the way to the service manager.
#[derive(Debug)]
pub struct Proxy {
    inside: UnixDatagram,
    host: UnixDatagram,
}

impl Proxy {
    /// Makes the socket in `dir`, and connects to the manager's; `@` begins an abstract address.
    ///
    /// # Errors
    /// Names the socket.
    pub fn new(dir: &Path, host: &OsStr) -> Result<Self> {
        let manager = UnixDatagram::unbound().doing(|| "NOTIFY_SOCKET: make a socket")?;
        address(host)
            .and_then(|a| manager.connect_addr(&a))
            .doing(|| format!("NOTIFY_SOCKET: connect to {}", host.display()))?;
        // By the directory's descriptor: a path in a socket address has at most 107 bytes.
        let doing = || format!("NOTIFY_SOCKET: make {}", dir.join(NAME).display());
        let fd = rustix::fs::open(dir, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).doing(doing)?;
        let path = Path::new("/proc/self/fd")
            .join(fd.as_raw_fd().to_string())
            .join(NAME);
        let inside = UnixDatagram::bind(&path).doing(doing)?;
        // Whichever user the container's process is.
        fs::set_permissions(&path, Permissions::from_mode(0o777)).doing(doing)?;
        inside.set_nonblocking(true).doing(doing)?;
        Ok(Self {
            inside,
            host: manager,
        })
    }

    /// To be polled.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.inside.as_fd()
    }

    /// Reads what came, and once it says that the container is ready tells so, and that `main` is the process to watch.
    /// Gives whether that is done.
    ///
    /// # Errors
    /// What sending reported.
    pub fn pass_on(&self, main: u32) -> Result<bool> {
        let mut buffer = [0u8; MAX_MESSAGE];
        let n = match self.inside.recv(&mut buffer) {
            Ok(n) => n,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Ok(false);
            }
            Err(e) => return Err(e).doing(|| "NOTIFY_SOCKET: read"),
        };
        let Some(ready) = ready(&buffer[..n]) else {
            return Ok(false);
        };
        let doing = || "NOTIFY_SOCKET: tell the service manager";
        self.host.send(&[ready, b"\n"].concat()).doing(doing)?;
        self.host
            .send(format!("MAINPID={main}\n").as_bytes())
            .doing(doing)?;
        Ok(true)
    }

    /// Until the container is ready, or its first process has ended; then until the manager has understood.
    ///
    /// # Errors
    /// What polling or sending reported.
    pub fn wait(&self, pidfd: BorrowedFd<'_>, main: u32) -> Result<()> {
        loop {
            let mut fds = [
                PollFd::new(self.fd(), PollFlags::POLLIN),
                PollFd::new(pidfd, PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                other => other.doing(|| "NOTIFY_SOCKET: wait")?,
            };
            let came = |i: usize| fds[i].revents().is_some_and(|r| !r.is_empty());
            if came(0) && self.pass_on(main)? {
                return self.barrier();
            }
            if came(1) {
                return Ok(());
            }
        }
    }

    /// The manager closes its copy of a pipe when it has read everything before it.
    fn barrier(&self) -> Result<()> {
        let doing = || "NOTIFY_SOCKET: wait for the service manager";
        let (reader, writer): (OwnedFd, OwnedFd) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).doing(doing)?;
        handover::send(self.host.as_fd(), writer.as_fd(), b"BARRIER=1").doing(doing)?;
        drop(writer);
        let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
        let patience = PollTimeout::try_from(BARRIER_PATIENCE).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, patience) {
            // Out of time: an older manager. What was said before arrived all the same.
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(e) => Err(e).doing(doing),
        }
    }
}

fn address(host: &OsStr) -> io::Result<SocketAddr> {
    match host.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(host),
    }
}

/// The line of a message that says `READY=`.
fn ready(message: &[u8]) -> Option<&[u8]> {
    message.split(|b| *b == b'\n').find(|l| l.starts_with(b"READY="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_readiness_is_heard() {
        assert_eq!(ready(b"STATUS=x\nREADY=1\nMAINPID=1\n"), Some(&b"READY=1"[..]));
        assert_eq!(ready(b"MAINPID=1\nXREADY=1"), None);
        assert_eq!(ready(b""), None);
    }

    #[test]
    fn nothing_else_of_a_container_reaches_the_manager() {
        let dir = tempfile::tempdir().unwrap();
        let manager = UnixDatagram::bind(dir.path().join("manager")).unwrap();
        manager.set_nonblocking(true).unwrap();
        let inner = dir.path().join("notify");
        fs::create_dir(&inner).unwrap();
        let proxy = Proxy::new(&inner, dir.path().join("manager").as_os_str()).unwrap();
        let container = UnixDatagram::unbound().unwrap();
        let mut buffer = [0u8; 64];
        for evil in ["MAINPID=1", "FDSTORE=1", "", "STOPPING=1"] {
            container.send_to(evil.as_bytes(), inner.join(NAME)).unwrap();
            assert!(!proxy.pass_on(7).unwrap(), "{evil}");
            assert!(manager.recv(&mut buffer).is_err(), "{evil}");
        }
        container
            .send_to(b"MAINPID=1\nREADY=1", inner.join(NAME))
            .unwrap();
        assert!(proxy.pass_on(7).unwrap());
        let mut heard = Vec::new();
        while let Ok(n) = manager.recv(&mut buffer) {
            heard.push(String::from_utf8_lossy(&buffer[..n]).into_owned());
        }
        assert_eq!(heard, ["READY=1\n", "MAINPID=7\n"]);
    }

    #[test]
    fn the_mount_is_read_only() {
        let mount = mount(Path::new("/x")).unwrap();
        assert_eq!(mount.destination(), Path::new("/run/notify"));
        assert!(mount.options().as_ref().unwrap().contains(&"ro".to_owned()));
        assert_eq!(variable(), "NOTIFY_SOCKET=/run/notify/notify.sock");
    }
}
