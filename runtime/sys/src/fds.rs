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

/// Closes every descriptor from `first` up but those in `keep` (close_range(2), Linux 5.9).
///
/// The caller promises that it is about to execute a program or to end by `_exit`: nothing may own one of the
/// closed descriptors and still be used or dropped.
///
/// # Errors
/// The errno of close_range.
pub fn close_from(first: u32, keep: &[RawFd]) -> io::Result<()> {
    for (from, to) in gaps(first, keep) {
        // SAFETY: touches no memory; that no owner uses these numbers again is the documented condition.
        if unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The inclusive ranges from `first` up that hold none of `keep`.
fn gaps(first: u32, keep: &[RawFd]) -> Vec<(u32, u32)> {
    let mut keep: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    keep.sort_unstable();
    let mut out = Vec::with_capacity(keep.len() + 1);
    let mut from = first;
    for fd in keep.into_iter().filter(|fd| *fd >= first) {
        if fd > from {
            out.push((from, fd - 1));
        }
        from = fd + 1;
    }
    out.push((from, u32::MAX));
    out
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

#[cfg(test)]
mod tests {
    use super::gaps;

    #[test]
    fn gaps_are_what_is_not_kept() {
        assert_eq!(gaps(3, &[]), [(3, u32::MAX)]);
        assert_eq!(gaps(3, &[7, 5]), [(3, 4), (6, 6), (8, u32::MAX)]);
        assert_eq!(gaps(3, &[3, 4]), [(5, u32::MAX)]);
        assert_eq!(gaps(6, &[1, 4, 6, -1]), [(7, u32::MAX)]);
    }
}
