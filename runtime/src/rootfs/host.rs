//! The root filesystem of a container without a mount namespace of its own: mounted over itself where everyone on the
//! host sees it, for as long as the container exists.

use std::path::Path;

use nix::mount::{MntFlags, umount2};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use crate::error::{Doing, Result};

/// The id of the mount that `path` is on.
///
/// # Errors
/// The errno of statx.
pub fn mount_id(path: &Path) -> Result<u64> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let stat = statx(CWD, path, flags, StatxFlags::MNT_ID)
        .doing(|| format!("root.path: find the mount of {}", path.display()))?;
    Ok(stat.stx_mnt_id)
}

/// Takes off what was mounted on `path` since it was on mount `before`, with everything below. Nothing is there when
/// someone else did it, or when the directory is gone.
///
/// # Errors
/// The errno of umount.
pub fn take_off(path: &Path, before: u64) -> Result<()> {
    match mount_id(path) {
        Ok(now) if now != before => umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
            .doing(|| format!("root.path: unmount {}", path.display())),
        _ => Ok(()),
    }
}
