//! User, groups and umask.

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Gid, Uid, umask};
use rustix::thread::{set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::config::User;
use crate::error::{Doing, Result};
use crate::fault;

/// Takes on the user's ids; permitted capabilities stay until they are set.
///
/// `in_user_namespace`: setgroups may be denied there, which only matters if there are groups to set.
///
/// # Errors
/// Names the field whose id the kernel refused; an id without a mapping is `EINVAL`.
pub fn assume(user: &User, in_user_namespace: bool) -> Result<()> {
    set_keep_capabilities(true).doing(|| "keep capabilities over a change of user")?;
    let mut groups: Vec<Gid> = user.additional_gids.iter().map(|g| Gid::from_raw(*g)).collect();
    if fault::is_planted("additional-groups") {
        groups.clear();
    }
    match set_thread_groups(&groups) {
        Err(Errno::PERM) if in_user_namespace && groups.is_empty() => {}
        other => other.doing(|| {
            format!(
                "process.user.additionalGids: set groups {:?}",
                user.additional_gids
            )
        })?,
    }
    let gid = Gid::from_raw(user.gid);
    set_thread_res_gid(gid, gid, gid).doing(|| format!("process.user.gid: set group {}", user.gid))?;
    let uid = Uid::from_raw(user.uid);
    set_thread_res_uid(uid, uid, uid).doing(|| format!("process.user.uid: set user {}", user.uid))?;
    set_keep_capabilities(false).doing(|| "stop keeping capabilities")?;
    umask(Mode::from_raw_mode(user.umask.unwrap_or(0o022) & 0o777));
    Ok(())
}

/// Becomes root of a new user namespace.
///
/// # Errors
/// `EINVAL` where 0 is not mapped.
pub fn become_root() -> Result<()> {
    match set_thread_groups(&[]) {
        // "deny" in /proc/self/setgroups: an unprivileged caller's mapping.
        Ok(()) | Err(Errno::PERM) => {}
        Err(e) => return Err(e).doing(|| "clear groups"),
    }
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    set_thread_res_gid(gid, gid, gid).doing(|| "linux.gidMappings: become group 0")?;
    set_thread_res_uid(uid, uid, uid).doing(|| "linux.uidMappings: become user 0")
}
