//! Making the mounted tree the root.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{MoveMountFlags, move_mount};
use rustix::process::{chroot, fchdir, pivot_root};

use super::resolve::Root;
use crate::error::{Doing, Result};

/// `pivot_root(".", ".")`: the old root ends up mounted on top of the new one, and is taken off.
pub(super) fn pivot(root: &Root) -> Result<()> {
    let old = openat(
        CWD,
        "/",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .doing(|| "open the old root")?;
    fchdir(root).doing(|| "enter the new root")?;
    pivot_root(".", ".").doing(|| "pivot_root")?;
    // "." is the new root now; the old one is on top of it and only reachable by its descriptor.
    fchdir(&old).doing(|| "enter the old root")?;
    // Slave and not private: the umount below must not reach the host, and mounts that the host is still taking
    // off must not stay busy because of us.
    mount(
        None::<&str>,
        ".",
        None::<&str>,
        MsFlags::MS_SLAVE | MsFlags::MS_REC,
        None::<&str>,
    )
    .doing(|| "change propagation of the old root")?;
    umount2(".", MntFlags::MNT_DETACH).doing(|| "take off the old root")?;
    rustix::process::chdir("/").doing(|| "enter the new root")
}

/// For a root that cannot be pivoted from (an initramfs): move the mount over `/`, and chroot.
pub(super) fn move_root(root: &Root) -> Result<()> {
    fchdir(root).doing(|| "enter the new root")?;
    move_mount(root, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .doing(|| "move the new root over /")?;
    chroot(".").doing(|| "chroot")?;
    rustix::process::chdir("/").doing(|| "enter the new root")
}
