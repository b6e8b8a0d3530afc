//! Making the mounted tree the root.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
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

/// For a mount namespace that is not the container's own.
pub(super) fn chroot_only(root: &Root) -> Result<()> {
    fchdir(root).doing(|| "enter the new root")?;
    chroot(".").doing(|| "chroot")?;
    rustix::process::chdir("/").doing(|| "enter the new root")
}

/// For a root that cannot be pivoted from (an initramfs): move the mount over `/`, and chroot.
///
/// The host's mounts stay below. That is why its procfs and sysfs are taken off first: while the kernel finds one whole in
/// the mount namespace it lets the container mount another, without the masks.
pub(super) fn move_root(root: &Root, rootfs: &Path) -> Result<()> {
    let listing = std::fs::read("/proc/self/mountinfo").doing(|| "read the mount table")?;
    for path in whole_kernel_mounts(&listing, rootfs) {
        take_off(&path).doing(|| format!("--no-pivot: hide the host's {}", path.display()))?;
    }
    fchdir(root).doing(|| "enter the new root")?;
    move_mount(root, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .doing(|| "move the new root over /")?;
    chroot(".").doing(|| "chroot")?;
    rustix::process::chdir("/").doing(|| "enter the new root")
}

fn take_off(path: &Path) -> Result<()> {
    let flags = MsFlags::MS_SLAVE | MsFlags::MS_REC;
    match mount(None::<&str>, path, None::<&str>, flags, None::<&str>) {
        // It went with the mount that it was on.
        Err(Errno::ENOENT) => return Ok(()),
        other => other.doing(|| "change its propagation")?,
    }
    match umount2(path, MntFlags::MNT_DETACH) {
        // Locked, in a user namespace: covered it is as good as gone.
        Err(Errno::EINVAL | Errno::EPERM) => {}
        other => return other.doing(|| "take it off"),
    }
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), None::<&str>).doing(|| "cover it")
}

/// The mount points of every procfs and sysfs that is mounted from its root and is not the container's.
fn whole_kernel_mounts(mountinfo: &[u8], rootfs: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in mountinfo.split(|b| *b == b'\n') {
        let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
        let Some(dash) = fields.iter().position(|f| *f == b"-") else {
            continue;
        };
        let (Some(root), Some(point), Some(typ)) = (fields.get(3), fields.get(4), fields.get(dash + 1))
        else {
            continue;
        };
        let point = PathBuf::from(OsString::from_vec(unescape(point)));
        if *root == b"/" && matches!(*typ, b"proc" | b"sysfs") && !point.starts_with(rootfs) {
            found.push(point);
        }
    }
    found
}

/// mountinfo writes blanks and backslashes as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..3).filter(|_| *first == b'\\');
        let code = digits
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        out.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_kernel_mounts_of_the_host() {
        let listing = b"22 1 0:21 / /proc rw - proc proc rw\n23 1 0:22 / /sys rw shared:7 - sysfs sysfs rw\n\
            24 1 8:1 / / rw - ext4 /dev/vda rw\n25 22 0:21 /sys /proc/sys ro - proc proc rw\n\
            26 24 0:30 / /b/rootfs/proc rw - proc proc rw\n27 24 0:31 / /b/with\\040blank rw - proc proc rw\nodd";
        let found = whole_kernel_mounts(listing, Path::new("/b/rootfs"));
        assert_eq!(found, ["/proc", "/sys", "/b/with blank"].map(PathBuf::from));
        assert_eq!(unescape(br"a\134b\9"), br"a\b\9");
    }
}
