//! Keeping the runtime's executable out of reach of containers (CVE-2019-5736).
//!
//! Until a container's program executes, its process runs our executable, and `/proc/PID/exe` is that file. An image can
//! make it the program, too: by an entrypoint or a script's interpreter that is `/proc/self/exe`. Whoever has it open
//! that way may write to it once it runs no more, if the file is on a writable mount and it is root that asks. So before
//! anything else the runtime lets go of the file: its memory is mapped again over a detached, read-only bind of it, which no
//! mount table has, and `/proc/self/exe` becomes an empty file in memory. Nothing of it is executed or read twice.
//!
//! Where that is not allowed we execute ourselves once more from the bind: who gets at it then gets EROFS. Who may not
//! mount, and owns the file or may write to it, executes a sealed copy in memory instead.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;

use kelson_sys::exe;
use kelson_sys::mount::{self, MountAttr};
use nix::fcntl::AtFlags;
use rustix::fs::{
    Access, CWD, MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags, accessat, fcntl_add_seals,
    fcntl_get_seals, memfd_create, statvfs,
};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::error::{Doing, Result};

const OWN: &str = "/proc/self/exe";

/// Returns when the executable is out of reach: on a read-only mount (the system's, an engine's for all its starts, or one
/// made here), a sealed copy, not ours to write, or left behind. Otherwise starts over from where it is.
///
/// # Errors
/// What mounting, copying or executing reported.
pub fn ensure() -> Result<()> {
    let doing = || "protect the runtime's executable";
    if statvfs(OWN)
        .doing(doing)?
        .f_flag
        .contains(StatVfsMountFlags::RDONLY)
    {
        return Ok(());
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    match open_tree(CWD, OWN, flags) {
        Err(Errno::PERM) => match copy().doing(doing)? {
            Some(file) => start_over(&file),
            None => Ok(()),
        },
        other => {
            let file = other.doing(doing)?;
            let set = MountAttr {
                set: mount::RDONLY,
                ..MountAttr::default()
            };
            mount::set_attr(&file, false, set).doing(doing)?;
            let_go(&file).or_else(|_| start_over(&file))
        }
    }
}

/// Goes on without the file. Whatever does not allow it: there is another way.
fn let_go(bind: &OwnedFd) -> std::io::Result<()> {
    let path = format!("/proc/self/fd/{}", bind.as_raw_fd());
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let nothing = memory(MemfdFlags::EXEC).or_else(|_| memory(MemfdFlags::empty()))?;
    seal(&nothing)?;
    exe::replace(file.as_fd(), nothing.as_fd())
}

/// A copy in memory that nobody can write to; `None` when the file is no one's that we could act as, or is such a copy.
fn copy() -> std::io::Result<Option<OwnedFd>> {
    let mut own = File::open(OWN)?;
    if fcntl_get_seals(&own).is_ok_and(|seals| seals.contains(SealFlags::WRITE)) {
        return Ok(None);
    }
    let writable = accessat(CWD, OWN, Access::WRITE_OK, rustix::fs::AtFlags::EACCESS).is_ok();
    if !writable && own.metadata()?.uid() != rustix::process::geteuid().as_raw() {
        return Ok(None);
    }
    let mut copy = File::from(memory(MemfdFlags::empty())?);
    std::io::copy(&mut own, &mut copy)?;
    seal(&copy)?;
    Ok(Some(copy.into()))
}

fn memory(more: MemfdFlags) -> rustix::io::Result<OwnedFd> {
    memfd_create(
        "kelson-runtime",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | more,
    )
}

fn seal(file: impl AsFd) -> rustix::io::Result<()> {
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(file, seals)
}

fn start_over(file: &OwnedFd) -> Result<()> {
    let doing = || "protect the runtime's executable";
    // Neither arguments nor environment can hold NUL bytes: they came as C strings.
    let args: Vec<CString> = std::env::args_os()
        .filter_map(|a| CString::new(a.into_vec()).ok())
        .collect();
    let env: Vec<CString> = std::env::vars_os()
        .filter_map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            CString::new(name.into_vec()).ok()
        })
        .collect();
    match nix::unistd::execveat(file, c"", &args, &env, AtFlags::AT_EMPTY_PATH) {
        Err(e) => Err(e).doing(doing),
        Ok(never) => match never {},
    }
}
