//! Signals by descriptor, any number: rustix's typed signals leave out the real-time ones.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Sends signal `number` to the process of `pidfd` (pidfd_send_signal(2), Linux 5.1).
///
/// # Errors
/// `EINVAL` for a number that is no signal, `ESRCH` when the process has ended.
pub fn send_signal(pidfd: impl AsFd, number: i32) -> io::Result<()> {
    // SAFETY: the third argument, siginfo, may be null; the others are numbers, and the descriptor is open as
    // long as it is borrowed.
    let r = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            number,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if r == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
