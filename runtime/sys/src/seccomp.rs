//! `seccomp(2)`: loading a classic BPF filter that was compiled earlier.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// One instruction of a classic BPF program, as the kernel's `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when the comparison holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`
pub const NEW_LISTENER: u32 = 1 << 3;

#[repr(C)]
struct Program {
    len: u16,
    filter: *const Instruction,
}

/// Installs `program` for this thread and all it executes; with [`NEW_LISTENER`] returns the notification fd.
///
/// # Errors
/// The errno of seccomp: `EINVAL` for an invalid program or one of more than 4096 instructions, `EACCES` when
/// the caller has neither `CAP_SYS_ADMIN` nor no_new_privs.
pub fn load(program: &[Instruction], flags: u32) -> io::Result<Option<OwnedFd>> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let raw = Program {
        len,
        filter: program.as_ptr(),
    };
    // SAFETY: `raw` has the layout of struct sock_fprog and points at `len` instructions, borrowed for the call;
    // the kernel copies and verifies them.
    let r = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags as libc::c_ulong,
            &raw const raw,
        )
    };
    if r == -1 {
        return Err(io::Error::last_os_error());
    }
    if flags & NEW_LISTENER == 0 {
        return Ok(None);
    }
    let fd = i32::try_from(r).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
    // SAFETY: with NEW_LISTENER a success is a new descriptor that nobody else knows of.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Whether the running kernel knows a filter action (`SECCOMP_RET_*`).
pub fn action_available(action: u32) -> bool {
    // SAFETY: the kernel reads one u32 through the pointer, which outlives the call.
    unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0,
            &raw const action,
        ) == 0
    }
}

/// Whether the running kernel knows filter flags (`SECCOMP_FILTER_FLAG_*`). Nothing is loaded.
pub fn flags_available(flags: u32) -> bool {
    /// Waiting killably is only for those who listen.
    const WAIT_KILLABLE_RECV: u32 = 1 << 5;
    let flags = if flags & WAIT_KILLABLE_RECV != 0 {
        flags | NEW_LISTENER
    } else {
        flags
    };
    // SAFETY: the kernel checks the flags first, and then fails to read a program through the null pointer.
    let r = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags as libc::c_ulong,
            std::ptr::null::<Program>(),
        )
    };
    r == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_flags_are_told_from_others() {
        // SECCOMP_FILTER_FLAG_LOG since Linux 4.14, and a bit that nobody has.
        assert!(flags_available(1 << 1));
        assert!(!flags_available(1 << 30));
    }
}
