//! Subvolumes of btrfs: made, copied and removed in one step each, however large they are.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct btrfs_ioctl_vol_args` (linux/btrfs.h).
#[repr(C)]
struct VolumeArgs {
    fd: i64,
    name: [u8; 4088],
}

/// `_IOW(0x94, N, struct btrfs_ioctl_vol_args)`.
const fn command(number: libc::c_ulong) -> libc::c_ulong {
    (1 << 30) | ((size_of::<VolumeArgs>() as libc::c_ulong) << 16) | (0x94 << 8) | number
}

const SNAP_CREATE: libc::c_ulong = command(1);
const SUBVOL_CREATE: libc::c_ulong = command(14);
const SNAP_DESTROY: libc::c_ulong = command(15);

fn call(dir: BorrowedFd<'_>, command: libc::c_ulong, name: &str, fd: i64) -> io::Result<()> {
    let mut args = VolumeArgs { fd, name: [0; 4088] };
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() >= 256 || bytes.contains(&b'/') || bytes.contains(&0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    args.name[..bytes.len()].copy_from_slice(bytes);
    // SAFETY: `dir` is open; each of the three commands reads one `btrfs_ioctl_vol_args`, whose name ends with a zero byte, and
    // keeps no pointer to it. On another file system they are unknown and read nothing.
    if unsafe { libc::ioctl(dir.as_raw_fd(), command, &raw const args) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes an empty subvolume in a directory.
///
/// # Errors
/// The errno of the ioctl; `ENOTTY` on another file system.
pub fn create_subvolume(dir: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    call(dir, SUBVOL_CREATE, name, 0)
}

/// Makes a writable copy of a subvolume, sharing all its data.
///
/// # Errors
/// The errno of the ioctl; `EINVAL` when `of` is no subvolume.
pub fn snapshot(of: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    call(dir, SNAP_CREATE, name, i64::from(of.as_raw_fd()))
}

/// Removes a subvolume with all it holds.
///
/// # Errors
/// The errno of the ioctl; `EINVAL` when it is none.
pub fn remove_subvolume(dir: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    call(dir, SNAP_DESTROY, name, 0)
}

/// `struct btrfs_ioctl_quota_ctl_args` (linux/btrfs.h).
#[repr(C)]
struct QuotaArgs {
    command: u64,
    status: u64,
}

/// `struct btrfs_ioctl_qgroup_limit_args` (linux/btrfs.h).
#[repr(C)]
#[derive(Default)]
struct LimitArgs {
    /// 0 is the subvolume that is asked.
    group: u64,
    flags: u64,
    max_referenced: u64,
    max_exclusive: u64,
    reserved: [u64; 2],
}

/// `_IOWR(0x94, 40, struct btrfs_ioctl_quota_ctl_args)`.
const QUOTA_CTL: libc::c_ulong =
    (3 << 30) | ((size_of::<QuotaArgs>() as libc::c_ulong) << 16) | (0x94 << 8) | 40;
/// `_IOR(0x94, 43, struct btrfs_ioctl_qgroup_limit_args)`.
const QGROUP_LIMIT: libc::c_ulong =
    (2 << 30) | ((size_of::<LimitArgs>() as libc::c_ulong) << 16) | (0x94 << 8) | 43;
const QUOTA_ENABLE: u64 = 1;
const LIMIT_EXCLUSIVE: u64 = 2;

/// Limits the bytes that only this subvolume has; switches quotas on for the file system if they are off.
///
/// # Errors
/// The errno of the ioctls.
pub fn limit_subvolume(subvolume: BorrowedFd<'_>, bytes: u64) -> io::Result<()> {
    let mut enable = QuotaArgs {
        command: QUOTA_ENABLE,
        status: 0,
    };
    // SAFETY: `subvolume` is open; the command reads and writes one `btrfs_ioctl_quota_ctl_args`.
    if unsafe { libc::ioctl(subvolume.as_raw_fd(), QUOTA_CTL, &raw mut enable) } == -1 {
        return Err(io::Error::last_os_error());
    }
    let mut limit = LimitArgs {
        flags: LIMIT_EXCLUSIVE,
        max_exclusive: bytes,
        ..LimitArgs::default()
    };
    // SAFETY: `subvolume` is open; the command reads one `btrfs_ioctl_qgroup_limit_args`, and writes at most as much.
    if unsafe { libc::ioctl(subvolume.as_raw_fd(), QGROUP_LIMIT, &raw mut limit) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
