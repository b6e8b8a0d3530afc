//! `keyctl(2)`: a session keyring per container.

use std::ffi::CStr;
use std::io;

const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
const KEYCTL_SETPERM: libc::c_int = 5;
const KEYCTL_DESCRIBE: libc::c_int = 6;

/// Creates a session keyring named `name` and joins it; returns its serial number.
///
/// # Errors
/// The errno of keyctl; `ENOSYS` where the kernel has no keyrings.
pub fn join_session(name: &CStr) -> io::Result<i32> {
    // SAFETY: the only pointer is a NUL-terminated string that outlives the call.
    let r = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            name.as_ptr(),
            0,
            0,
            0,
        )
    };
    serial(r)
}

/// Adds permission bits to a key (`0x80000`: its owner may search it).
///
/// # Errors
/// The errno of keyctl, or `InvalidData` when the kernel's description has an unknown shape.
pub fn add_permissions(key: i32, bits: u32) -> io::Result<()> {
    let mut text = [0u8; 256];
    // SAFETY: `text` is writable for the length given and outlives the call.
    let n = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_DESCRIBE,
            key,
            text.as_mut_ptr(),
            text.len(),
            0,
        )
    };
    if n == -1 {
        return Err(io::Error::last_os_error());
    }
    // "type;uid;gid;perm;description", the permissions in hexadecimal: see keyctl_describe(3).
    let text = String::from_utf8_lossy(&text);
    let now = text
        .split(';')
        .nth(3)
        .and_then(|p| u32::from_str_radix(p, 16).ok());
    let now = now.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    // SAFETY: KEYCTL_SETPERM takes two integers.
    let r = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, key, now | bits, 0, 0) };
    if r == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn serial(r: libc::c_long) -> io::Result<i32> {
    if r == -1 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(r).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}
