//! AppArmor profile and SELinux label of the process.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use crate::config::Process;
use crate::error::{Doing, Result};

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
        let own = Path::new("/proc/thread-self/attr/apparmor/exec");
        let path = if own.exists() {
            own
        } else {
            Path::new("/proc/thread-self/attr/exec")
        };
        return open(path, format!("exec {profile}"));
    }
    if let Some(label) = process.selinux_label.as_deref().filter(|l| !l.is_empty())
        && Path::new("/sys/fs/selinux/enforce").exists()
    {
        return open(Path::new("/proc/thread-self/attr/exec"), label.to_owned());
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

fn open(path: &Path, text: String) -> Result<Prepared> {
    let file = OpenOptions::new()
        .write(true)
        .open(path)
        .doing(|| format!("open {}", path.display()))?;
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
