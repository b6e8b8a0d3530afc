//! Descriptors by number: inherited ones, and all at once.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Marks every descriptor from `first` up close-on-exec (close_range(2) with `CLOSE_RANGE_CLOEXEC`, Linux 5.11).
///
/// Marking instead of closing keeps Rust's owned descriptors valid until execve closes them all.
///
/// # Errors
/// The errno of close_range.
pub fn cloexec_from(first: u32) -> io::Result<()> {
    // SAFETY: with CLOSE_RANGE_CLOEXEC no descriptor is closed, so no owner loses its resource.
    let r = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC as libc::c_int,
        )
    };
    if r == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Takes ownership of a descriptor that this process inherited under a number agreed with its parent.
///
/// # Errors
/// `EBADF` when no such descriptor is open.
///
/// The caller promises to call it at most once per number, before anything else owns that number; a second
/// owner would close a descriptor it does not hold. Standard streams (0 to 2) are refused with `EINVAL`.
pub fn take_inherited(fd: RawFd) -> io::Result<OwnedFd> {
    if fd <= 2 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: F_GETFD only reads the flags of a descriptor number; any number is allowed.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open (checked above); that it has no other owner is the documented condition.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Clears close-on-exec of an inherited descriptor number, so that the program run next keeps it.
///
/// # Errors
/// `EBADF` when no such descriptor is open.
pub fn keep_on_exec(fd: RawFd) -> io::Result<()> {
    // SAFETY: F_SETFD changes a flag of a descriptor number and touches no memory.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
