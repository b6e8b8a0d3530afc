//! Project quotas: a limit on what lies below one directory (ext4 and xfs, mounted with `prjquota`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct fsxattr` (linux/fs.h).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// `struct if_dqblk` (linux/quota.h).
#[repr(C)]
#[derive(Default)]
struct Limits {
    block_hard: u64,
    block_soft: u64,
    space: u64,
    inode_hard: u64,
    inode_soft: u64,
    inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
}

/// `_IOR('X', 31, struct fsxattr)` and `_IOW('X', 32, struct fsxattr)`.
const GET: libc::c_ulong = (2 << 30) | ((size_of::<Attributes>() as libc::c_ulong) << 16) | (0x58 << 8) | 31;
const SET: libc::c_ulong = (1 << 30) | ((size_of::<Attributes>() as libc::c_ulong) << 16) | (0x58 << 8) | 32;
/// What is made below belongs to the same project.
const PROJECT_INHERIT: u32 = 0x0000_0200;
const Q_SETQUOTA: libc::c_uint = 0x80_0008;
const PROJECT_QUOTA: libc::c_uint = 2;
const QIF_BLIMITS: u32 = 1;
/// Limits count blocks of this size, whatever the file system's are.
const BLOCK: u64 = 1024;

/// Puts a directory, and all that will be made in it, in a project.
///
/// # Errors
/// The errno of the ioctl; `EOPNOTSUPP` or `ENOTTY` where the file system has no projects.
pub fn set_project(dir: BorrowedFd<'_>, project: u32) -> io::Result<()> {
    let mut attributes = Attributes::default();
    // SAFETY: `dir` is open; the command writes one `fsxattr`.
    if unsafe { libc::ioctl(dir.as_raw_fd(), GET, &raw mut attributes) } == -1 {
        return Err(io::Error::last_os_error());
    }
    attributes.project = project;
    attributes.flags |= PROJECT_INHERIT;
    // SAFETY: `dir` is open; the command reads one `fsxattr`.
    if unsafe { libc::ioctl(dir.as_raw_fd(), SET, &raw const attributes) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Limits the bytes of a project on the file system of `at`; 0 takes the limit away. Rounded up to whole KiB.
///
/// # Errors
/// The errno of quotactl_fd(2), Linux 5.14; `ESRCH` where project quotas are not switched on.
pub fn limit_project(at: BorrowedFd<'_>, project: u32, bytes: u64) -> io::Result<()> {
    let blocks = bytes.div_ceil(BLOCK);
    let limits = Limits {
        block_hard: blocks,
        block_soft: blocks,
        valid: QIF_BLIMITS,
        ..Limits::default()
    };
    let command = (Q_SETQUOTA << 8) | PROJECT_QUOTA;
    // SAFETY: `at` is open; the command reads one `if_dqblk`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            at.as_raw_fd(),
            command,
            project,
            &raw const limits,
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
