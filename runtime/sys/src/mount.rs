//! `mount_setattr(2)`: mount flags of one mount or a whole tree.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// What to change; the values are the kernel's `MOUNT_ATTR_*` and `MS_*` propagation bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountAttr {
    /// Attributes to set.
    pub set: u64,
    /// Attributes to clear.
    pub clear: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE` or `MS_UNBINDABLE`; 0 keeps it.
    pub propagation: u64,
}

/// `MOUNT_ATTR_RDONLY`
pub const RDONLY: u64 = 0x1;
/// `MOUNT_ATTR_NOSUID`
pub const NOSUID: u64 = 0x2;
/// `MOUNT_ATTR_NODEV`
pub const NODEV: u64 = 0x4;
/// `MOUNT_ATTR_NOEXEC`
pub const NOEXEC: u64 = 0x8;
/// `MOUNT_ATTR__ATIME`: the mask of the three access time modes, of which `relatime` is 0
pub const ATIME_MASK: u64 = 0x70;
/// `MOUNT_ATTR_NOATIME`
pub const NOATIME: u64 = 0x10;
/// `MOUNT_ATTR_STRICTATIME`
pub const STRICTATIME: u64 = 0x20;
/// `MOUNT_ATTR_NODIRATIME`
pub const NODIRATIME: u64 = 0x80;
/// `MOUNT_ATTR_IDMAP`
pub const IDMAP: u64 = 0x10_0000;
/// `MOUNT_ATTR_NOSYMFOLLOW`
pub const NOSYMFOLLOW: u64 = 0x20_0000;

/// Changes the mount at `fd` and, with `recursive`, every mount below it.
///
/// # Errors
/// The errno of mount_setattr.
pub fn set_attr(fd: impl AsFd, recursive: bool, attr: MountAttr) -> io::Result<()> {
    call(fd.as_fd(), recursive, attr, None)
}

/// Maps the ids of a detached mount through the user namespace `userns` (`MOUNT_ATTR_IDMAP`).
///
/// # Errors
/// The errno of mount_setattr.
pub fn set_idmap(fd: impl AsFd, recursive: bool, userns: impl AsFd) -> io::Result<()> {
    call(
        fd.as_fd(),
        recursive,
        MountAttr {
            set: IDMAP,
            ..MountAttr::default()
        },
        Some(userns.as_fd()),
    )
}

#[repr(C)]
struct Raw {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

fn call(
    fd: BorrowedFd<'_>,
    recursive: bool,
    attr: MountAttr,
    userns: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    const EMPTY: &CStr = c"";
    let raw = Raw {
        set: attr.set,
        clear: attr.clear,
        propagation: attr.propagation,
        userns: userns.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated string, `raw` has the layout of struct mount_attr (version 0) and
    // the size given; both outlive the call, which only reads them.
    let r = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            EMPTY.as_ptr(),
            flags,
            &raw const raw,
            size_of::<Raw>(),
        )
    };
    if r == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
