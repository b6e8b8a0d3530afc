//! Keeping the runtime's executable out of reach of the containers it enters (CVE-2019-5736).
//!
//! A process inside can open `/proc/PID/exe` of a process that runs our executable, if it shares the pid namespace,
//! and can make us run it again there by a script that begins with `#!/proc/self/exe`. If the file is on a writable
//! mount, root of the container may overwrite it. So before we enter a pid namespace in which others live we execute
//! ourselves once more from a detached, read-only bind of the file: whoever gets at it then gets EROFS. Nothing is
//! copied, and no mount table has the bind.

use std::ffi::CString;
use std::os::unix::ffi::OsStringExt;

use kelson_sys::mount::{self, MountAttr};
use nix::fcntl::AtFlags;
use rustix::fs::{CWD, StatVfsMountFlags, statvfs};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::error::{Doing, Result};

const OWN: &str = "/proc/self/exe";

/// Returns at once when the executable is on a read-only mount already (the system's, or one made here); otherwise
/// starts over from one. Who may not mount may not write to root's files either, and is let through.
///
/// # Errors
/// What mounting or executing reported.
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
    let file = match open_tree(CWD, OWN, flags) {
        Err(Errno::PERM) => return Ok(()),
        other => other.doing(doing)?,
    };
    mount::set_attr(
        &file,
        false,
        MountAttr {
            set: mount::RDONLY,
            ..MountAttr::default()
        },
    )
    .doing(doing)?;
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
    match nix::unistd::execveat(&file, c"", &args, &env, AtFlags::AT_EMPTY_PATH) {
        Err(e) => Err(e).doing(doing),
        Ok(never) => match never {},
    }
}
