//! The service manager's side: sd_notify(3), its watchdog, and the sockets it passes (sd_listen_fds(3)).

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The first descriptor that systemd passes.
const FIRST: RawFd = 3;
/// More sockets than that is no unit file of anybody's.
const MOST: RawFd = 64;

/// Tells the service manager, if there is one.
pub fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let path = path.to_string_lossy().into_owned();
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let sent = address.and_then(|to| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &to));
    if let Err(error) = sent {
        tracing::warn!(%error, "notify the service manager");
    }
}

/// That a reload begins; systemd wants the time with it.
pub fn notify_reloading() {
    match nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC) {
        Ok(now) => {
            let micros = now.tv_sec() * 1_000_000 + now.tv_nsec() / 1000;
            notify(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
        }
        Err(error) => tracing::warn!(%error, "tell the service manager of the reload"),
    }
}

/// How often the service manager wants to hear that we live, halved so that a late answer is in time.
pub fn watchdog() -> Option<Duration> {
    let variable = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let own = u64::from(std::process::id());
    if variable("WATCHDOG_PID").is_some_and(|pid| pid != own) {
        return None;
    }
    let micros = variable("WATCHDOG_USEC").filter(|micros| *micros > 1)?;
    Some(Duration::from_micros(micros / 2))
}

/// A socket that the service manager has bound and listens on.
#[derive(Debug)]
pub enum Passed {
    /// Unix.
    Unix(std::os::unix::net::UnixListener),
    /// TCP.
    Tcp(std::net::TcpListener),
}

/// Takes the sockets that were passed, all of them or those of one name (`FileDescriptorName=`) or number.
///
/// To be called once: the descriptors change hands.
///
/// # Errors
/// A sentence that says what is wrong, also when there are none.
pub fn sockets(which: &str) -> Result<Vec<Passed>, String> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let none =
        || "no sockets found via socket activation: make sure the service was started by systemd".to_owned();
    if variable("LISTEN_PID") != std::process::id().to_string() {
        return Err(none());
    }
    let count: RawFd = variable("LISTEN_FDS").parse().map_err(|_| none())?;
    let names = variable("LISTEN_FDNAMES");
    let mut names = names.split(':');
    let mut taken = Vec::new();
    for number in FIRST..FIRST + count.clamp(0, MOST) {
        let name = names.next().unwrap_or_default();
        if matches!(which, "" | "*") || which == name || which == number.to_string() {
            taken.push(
                take(number).map_err(|error| format!("socket {number} of the service manager: {error}"))?,
            );
        }
    }
    if taken.is_empty() {
        return Err(match which {
            "" | "*" => none(),
            _ => format!("no socket named {which:?} found via socket activation"),
        });
    }
    Ok(taken)
}

fn take(number: RawFd) -> Result<Passed, String> {
    let fd: OwnedFd = kelson_sys::fds::take_inherited(number).map_err(|error| error.to_string())?;
    // No program we start may hold it.
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|error| error.to_string())?;
    let address: SockaddrStorage = getsockname(fd.as_raw_fd()).map_err(|error| error.to_string())?;
    let passed = match address.family() {
        Some(AddressFamily::Unix) => Passed::Unix(fd.into()),
        Some(AddressFamily::Inet | AddressFamily::Inet6) => Passed::Tcp(fd.into()),
        other => return Err(format!("{other:?} is neither a unix nor a TCP socket")),
    };
    let set = match &passed {
        Passed::Unix(listener) => listener.set_nonblocking(true),
        Passed::Tcp(listener) => listener.set_nonblocking(true),
    };
    set.map_err(|error| error.to_string()).map(|()| passed)
}
