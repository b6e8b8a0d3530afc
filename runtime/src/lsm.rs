//! AppArmor profile and SELinux label of the process.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use rustix::fs::OFlags;

use crate::config::Process;
use crate::error::{Doing, Result};
use crate::private_proc;

/// An attribute file of this process, opened while /proc is still the host's, and what to write to it.
#[derive(Debug, Default)]
pub struct Prepared {
    label: Option<(File, String)>,
}

/// Opens what the process asks for.
///
/// # Errors
/// What opening the attribute file reported. A profile or label for a security module that this kernel does not run
/// is left out; [`left_out`] tells of it.
pub fn prepare(process: &Process) -> Result<Prepared> {
    if let Some(profile) = process.apparmor_profile.as_deref().filter(|p| !p.is_empty()) {
        if !apparmor_is_on() {
            return Ok(Prepared::default());
        }
        let text = format!("exec {profile}");
        // A directory of its own came with Linux 5.8; without it the file is shared with other modules.
        return match open("thread-self/attr/apparmor/exec", text.clone()) {
            Err(e) if e.errno() == Some(nix::libc::ENOENT) => open(EXEC, text),
            other => other,
        };
    }
    if let Some(label) = process.selinux_label.as_deref().filter(|l| !l.is_empty())
        && Path::new("/sys/fs/selinux/enforce").exists()
    {
        return open(EXEC, label.to_owned());
    }
    Ok(Prepared::default())
}

/// A warning for a profile that cannot be in force because AppArmor is off; as crun does, and unlike runc, the
/// container runs without it. SELinux labels without SELinux are ignored by all.
pub fn left_out(process: &Process) -> Option<String> {
    let profile = process.apparmor_profile.as_deref().filter(|p| !p.is_empty())?;
    (!apparmor_is_on())
        .then(|| format!("apparmorProfile: {profile:?} is not applied: AppArmor is not enabled here"))
}

fn apparmor_is_on() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|t| t.starts_with('Y'))
}

/// The label for the next execve.
const EXEC: &str = "thread-self/attr/exec";

fn open(path: &str, text: String) -> Result<Prepared> {
    let file = private_proc::open(Path::new(path), OFlags::WRONLY)?;
    Ok(Prepared {
        label: Some((file, text)),
    })
}

impl Prepared {
    /// Sets the label for the next execve.
    ///
    /// # Errors
    /// What the kernel refused: an unknown profile is `ENOENT`.
    pub fn apply(self) -> Result<()> {
        match self.label {
            Some((mut file, text)) => file
                .write_all(text.as_bytes())
                .doing(|| format!("set security label {text:?}")),
            None => Ok(()),
        }
    }
}
