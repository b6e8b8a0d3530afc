//! Keeping the runtime's executable out of reach of containers (CVE-2019-5736).
//!
//! Until a container's program executes, its process runs our executable, and `/proc/PID/exe` is that file. An image can
//! make it the program, too: by an entrypoint or a script's interpreter that is `/proc/self/exe`. Whoever has it open
//! that way may write to it once it runs no more, if the file is on a writable mount and it is root that asks. So before
//! anything else we execute ourselves once more from a detached, read-only bind of the file: who gets at it then gets
//! EROFS. Nothing is copied, and no mount table has the bind.
//!
//! Who may not mount, and owns the file or may write to it, executes a sealed copy in memory instead.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;

use kelson_sys::mount::{self, MountAttr};
use nix::fcntl::AtFlags;
use rustix::fs::{
    Access, CWD, MemfdFlags, SealFlags, StatVfsMountFlags, accessat, fcntl_add_seals, fcntl_get_seals,
    memfd_create, statvfs,
};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::error::{Doing, Result};

const OWN: &str = "/proc/self/exe";

/// Returns at once when the executable is out of reach already: on a read-only mount (the system's, an engine's for all
/// its starts, or one made here), a sealed copy, or not ours to write. Otherwise starts over from one that is.
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
            start_over(&file)
        }
    }
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
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut copy = File::from(memfd_create("kelson-runtime", flags)?);
    std::io::copy(&mut own, &mut copy)?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&copy, seals)?;
    Ok(Some(copy.into()))
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
