//! A session keyring of the container's own: without one it would share the caller's keys.

use std::ffi::CString;

use crate::error::{Doing, Result};

/// `KEY_USR_SEARCH`: processes of the container may search it (the kernel's default for a session keyring that
/// was joined by name lets only its possessor).
const OWNER_SEARCH: u32 = 0x0008_0000;

/// Joins a new session keyring named after the container.
///
/// # Errors
/// The errno of keyctl; a kernel without keyrings is not an error.
pub fn join(id: &str) -> Result<()> {
    let Ok(name) = CString::new(format!("_ses.{id}")) else {
        return Ok(());
    };
    match kelson_sys::keyring::join_session(&name) {
        Ok(key) => kelson_sys::keyring::add_permissions(key, OWNER_SEARCH)
            .doing(|| "set permissions of the session keyring"),
        // No keyrings in this kernel, or a seccomp filter around us forbids them: nothing is shared then either.
        Err(e) if matches!(e.raw_os_error(), Some(nix::libc::ENOSYS | nix::libc::EPERM)) => Ok(()),
        Err(e) => Err(e).doing(|| "join a session keyring"),
    }
}
