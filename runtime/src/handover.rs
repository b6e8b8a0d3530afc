//! Descriptors handed to whoever asked for them, over a unix socket whose path a flag names.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect as connect_to, sendmsg,
    socket,
};
use rustix::fs::{Mode, OFlags};

use crate::error::{Doing, Result};

/// Connects to a stream socket.
///
/// # Errors
/// Names the flag and the path. A path longer than a socket address holds is reached through its directory's
/// descriptor.
pub fn connect(flag: &str, path: &Path) -> Result<OwnedFd> {
    let doing = || format!("{flag}: connect to {}", path.display());
    let fd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .doing(doing)?;
    let address = match UnixAddr::new(path) {
        Ok(address) => address,
        Err(_) => {
            let dir = path.parent().unwrap_or(Path::new("."));
            let dir = rustix::fs::open(dir, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).doing(doing)?;
            let name = path.file_name().unwrap_or_default();
            let short = Path::new("/proc/self/fd")
                .join(dir.as_raw_fd().to_string())
                .join(name);
            let address = UnixAddr::new(&short).doing(doing)?;
            connect_to(fd.as_raw_fd(), &address).doing(doing)?;
            return Ok(fd);
        }
    };
    connect_to(fd.as_raw_fd(), &address).doing(doing)?;
    Ok(fd)
}

/// Sends one descriptor with a name for it: a message without a byte would carry nothing.
///
/// # Errors
/// The errno of sendmsg.
pub fn send(socket: BorrowedFd<'_>, fd: BorrowedFd<'_>, name: &[u8]) -> nix::Result<()> {
    let fds = [fd.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&fds)];
    let text = [IoSlice::new(name)];
    sendmsg::<()>(socket.as_raw_fd(), &text, &control, MsgFlags::MSG_NOSIGNAL, None).map(drop)
}
